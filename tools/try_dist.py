"""Builds what a release uploads, checks it, and tries the wheel in environments of its own.

    python tools/try_dist.py [--python 3.10 3.13] [-o dist]

sdist and wheel of strzoo and strzoo-runtime are built into the folder, which is emptied before, and
checked by `twine check --strict`. For each Python that is at hand the wheel is installed with its
dependencies, the newest there are, and a small network is saved, reported and compared outside the
checkout; strzoo-runtime is installed beside it. Needs the package index and, where it offers torch
with CUDA only, 6 GB of disk for each Python.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.pythons import clean_environment, find_python, make_environment  # noqa: E402

PROGRAM = """
import json, subprocess, sys
from importlib.metadata import version
from pathlib import Path

def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "strzoo", *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout

assert command("--version").split()[-1] == version("strzoo"), command("--version")
assert "resnet50_str_90.23" in command("list")
import strzoo, torch
assert "site-packages" in strzoo.__file__, strzoo.__file__
torch.manual_seed(0)
network = strzoo.create_model("resnet20", num_classes=10)
strzoo.sparsify_(network, s_init=-4.0)
checkpoint = strzoo.build_checkpoint(network, {"epoch": 0})
strzoo.save_checkpoint(checkpoint, "small.pth")
report = json.loads(command("report", "small.pth", "--json"))
pruned = sum(int((m.effective_weight() == 0).sum()) for m in network.modules()
             if hasattr(m, "effective_weight"))
totals = report["totals"]
assert totals["weights"] - totals["nonzeros"] == pruned > 0, (totals, pruned)
import strzoo_runtime
assert strzoo_runtime.__version__ == strzoo.__version__
print(f"strzoo {strzoo.__version__} works on Python {sys.version.split()[0]}, "
      f"torch {torch.__version__}")
"""


def build(folder: Path) -> None:
    """All four files, checked."""
    shutil.rmtree(folder, ignore_errors=True)
    python = (sys.executable, "-m")
    command = [*python, "build", "-o", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # A process of its own: the build has just written the version that the runtime gets.
    runtime = [sys.executable, str(ROOT / "tools" / "build_runtime.py"), "-o", str(folder)]
    subprocess.run(runtime, check=True)
    files = sorted(folder.iterdir())
    subprocess.run([*python, "twine", "check", "--strict", *map(str, files)], check=True)
    versions = {path.name.removesuffix(".tar.gz").split("-")[1] for path in files}
    if len(files) != 4 or len(versions) != 1:
        sys.exit(f"not four files of one version: {', '.join(path.name for path in files)}")


def try_wheels(folder: Path, python: Path) -> None:
    """Install both wheels and use them outside the checkout."""
    wheels = [str(path) for path in sorted(folder.glob("*.whl"))]
    with tempfile.TemporaryDirectory() as name:
        made = make_environment(python, Path(name) / "venv", wheels)
        environment = clean_environment(STRZOO_HOME=str(Path(name) / "home"))
        program = Path(name) / "smoke.py"
        program.write_text(PROGRAM)
        if subprocess.run([made, program], cwd=name, env=environment).returncode:
            sys.exit(f"the wheel does not work on {python}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", nargs="+", default=["3.10", "3.13"])
    options = parser.parse_args()
    build(options.output.resolve())
    found = {version: find_python(version) for version in options.python}
    for version, python in found.items():
        if python is None:
            print(f"Python {version} is not at hand: not tried", file=sys.stderr)
        else:
            try_wheels(options.output.resolve(), python)
    return int(not any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
