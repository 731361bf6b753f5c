"""A wheel, installed outside the checkout, has the data it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
        check=True, capture_output=True, env={**os.environ, "npm_config_offline": "true"},
    )  # fmt: skip
    return next(folder.glob("*.whl"))


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
    assert ("strzoo/pages/vendor/chart.umd.min.js" in names) == library.is_file()
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


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
