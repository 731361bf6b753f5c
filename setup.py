"""Only what setup.cfg cannot say: checkpoints.json and budgets/ travel inside the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Copy the top-level data to `strzoo/_shipped`, where an installed strzoo looks for it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # a checkout reads its own top-level files
            return
        shipped = Path(self.build_lib) / "strzoo" / "_shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        (shipped / "budgets").mkdir(parents=True)
        shutil.copy2(ROOT / "checkpoints.json", shipped)
        for budget in sorted((ROOT / "budgets").glob("*.json")):
            shutil.copy2(budget, shipped / "budgets")


setup(cmdclass={"build_py": BuildWithData})
