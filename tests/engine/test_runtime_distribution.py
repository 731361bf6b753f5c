"""strzoo-runtime: the wheel alone, with NumPy and nothing else, computes what strzoo does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import strzoo
from strzoo.engine.storage.native_code import can_link
from strzoo.settings import Settings
from tests.helpers.engine.models import images
from tests.helpers.engine.networks import load_model
from tools.build_runtime import build

IMAGE = (3, 32, 32)
PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import numpy as np, strzoo_runtime as runtime
from importlib.util import find_spec
assert not any(map(find_spec, ("torch", "onnx", "onnxruntime", "strzoo", "requests")))
native = find_spec("llvmlite") is None
file, x = sys.argv[2], np.load(sys.argv[3])
if native:
    try:
        runtime.load(file)
    except runtime.StrzooError as error:
        print(error)
model = runtime.load(file, native=native)
session = runtime.InferenceSession(file, native=native)
(result,) = session.run(None, {session.get_inputs()[0].name: x})
assert np.array_equal(model(x), result)
np.save(sys.argv[4], result)
for other in ("net.onnx", b"bytes", 7):
    try:
        runtime.InferenceSession(other)
    except runtime.StrzooError as error:
        print(error)
print(runtime.__version__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("runtime")
    build(folder, "--wheel", "--no-isolation")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def model(shared: Settings) -> strzoo.SparseModel:
    return strzoo.compile(load_model("small", 32), threads=1, cpu="level", settings=shared)


def link_packages(folder: Path, *names: str) -> Path:
    """A folder with these installed packages and no others."""
    folder.mkdir()
    for name in names:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        home = Path(spec.origin).parent
        for found in (home, home.with_name(f"{name}.libs")):
            if found.exists():
                (folder / found.name).symlink_to(found)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("packages", [("numpy",), ("numpy", "llvmlite")])
def test_the_runtime_alone_computes_the_same_bits(
    packages: tuple[str, ...], site: Path, model: strzoo.SparseModel, tmp_path: Path
) -> None:
    if not can_link() and "llvmlite" not in packages:
        pytest.skip("machine code in a file is for Linux on x86-64")
    x = images(IMAGE, 3)
    np.save(tmp_path / "x.npy", x)
    file = model.save(tmp_path / "small.strz", native=can_link())
    paths = f"{site}:{link_packages(tmp_path / 'packages', *packages)}"
    arguments = [paths, str(file), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM, *arguments],
        cwd=tmp_path, env={**os.environ, "STRZOO_HOME": str(tmp_path / "home")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), model(x))
    *said, version = done.stdout.splitlines()
    assert version == strzoo.__version__
    assert [line for line in said if "pass native=True" in line] == said[:-3]
    assert all("needs all of strzoo" in line for line in said[-3:])
