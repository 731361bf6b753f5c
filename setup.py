"""Only what setup.cfg cannot say: checkpoints.json, budgets/ and Chart.js travel in the wheel, and
what the version is where git cannot be asked."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Copy the top-level data to `strzoo/_shipped`, where an installed strzoo looks for it.

    Before that, fetch what draws the charts of HTML reports; where that fails they have none.
    """

    def run(self) -> None:
        subprocess.run([sys.executable, ROOT / "tools" / "vendor_charts.py"], check=False)
        super().run()
        if self.editable_mode:  # a checkout reads its own top-level files
            return
        shipped = Path(self.build_lib) / "strzoo" / "_shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        (shipped / "budgets").mkdir(parents=True)
        shutil.copy2(ROOT / "checkpoints.json", shipped)
        for budget in sorted((ROOT / "budgets").glob("*.json")):
            shutil.copy2(budget, shipped / "budgets")


def keep_version() -> None:
    """Where there is no git, such as in an image, the version is what the last installation of this
    checkout found: plans are read by the version that made them."""
    written = ROOT / "strzoo" / "_version.py"
    if shutil.which("git") is None and written.is_file():
        known = re.findall(r'VERSION = "(.+)"', written.read_text())
        os.environ.setdefault("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_STRZOO", known[0])


keep_version()
setup(cmdclass={"build_py": BuildWithData})
