"""A wheel, installed outside the checkout, has the data it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from strzoo.version import FALLBACK, VERSION

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy of what git tracks: building must not depend on, or leave, anything else.
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True
    ).stdout.split(b"\0")
    charts = (CHECKOUT / "strzoo/pages/vendor").glob("*")  # fetched, so git does not know them
    files += [os.fsencode(path.relative_to(CHECKOUT)) for path in charts]
    for name in filter(None, files):
        target = source / os.fsdecode(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((CHECKOUT / os.fsdecode(name)).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, source],
        check=True, capture_output=True,
        env={**os.environ, "npm_config_offline": "true", "SETUPTOOLS_SCM_PRETEND_VERSION": "9.8.7"},
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def ask_version(folder: Path) -> str:
    """What setuptools-scm makes of a folder with this pyproject.toml."""
    (folder / "pyproject.toml").write_bytes((CHECKOUT / "pyproject.toml").read_bytes())
    (folder / "strzoo").mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "setuptools_scm"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, check=True, text=True
    ).stdout.strip()


def test_the_version_is_that_of_the_tag_and_a_known_one_without_git(tmp_path: Path) -> None:
    alone, tagged = tmp_path / "alone", tmp_path / "tagged"
    for folder in (alone, tagged):
        folder.mkdir()
    assert ask_version(alone) == FALLBACK
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tagged)]
    assert ask_version(tagged) == FALLBACK
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v3.1.4"]):
        subprocess.run([*git, *arguments], check=True)
    assert ask_version(tagged) == "3.1.4"


def test_the_command_asks_neither_git_nor_torch_for_the_version() -> None:
    program = (
        "import runpy, sys; sys.argv[1:] = ['--version']\n"
        "try: runpy.run_module('strzoo', run_name='__main__')\n"
        "except SystemExit: print({'torch', 'subprocess'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"strzoo, version {VERSION}\nset()\n"


def test_the_wheel_carries_the_registry_the_budgets_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "strzoo/_shipped/checkpoints.json" in names
    assert "strzoo/data/imagenet_classes.csv" in names
    budgets = {Path(n).name for n in names if n.startswith("strzoo/_shipped/budgets/")}
    assert budgets == {path.name for path in (CHECKOUT / "budgets").glob("*.json")}
    assert {"strzoo/data/digits.npz", "strzoo/data/DIGITS.md", "strzoo/py.typed"} <= names
    recipes = {Path(n).name for n in names if n.startswith("strzoo/training/recipes/")}
    shipped = {path.name for path in (CHECKOUT / "strzoo/training/recipes").glob("*.yaml")}
    assert recipes == shipped
    assert "resnet50.yaml" in recipes
    assert "strzoo/zoo/paper.json" in names
    assert {f"strzoo/pages/page.{kind}" for kind in ("html", "css", "js")} <= names
    library = CHECKOUT / "strzoo/pages/vendor/chart.umd.min.js"
    # npm may have it in its own cache, so a wheel can hold it where the checkout does not.
    assert "strzoo/pages/vendor/chart.umd.min.js" in names or not library.is_file()
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.slow
def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    program = (
        "import strzoo; from strzoo.cli import run; print(strzoo.__file__); "
        "assert strzoo.__version__ == '9.8.7'; "
        "assert run(['list']) == run(['budgets', 'list']) == run(['verify']) == 0; "
        "assert len(strzoo.load_digits()) == 1797"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "STRZOO_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "resnet50_str_90.23" in done.stdout
    assert "known misprint" in done.stdout
