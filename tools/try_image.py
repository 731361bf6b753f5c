"""Does what examples/serving/Dockerfile says without Docker, and sends images to what results.

    PYTHONPATH=. python tools/try_image.py [--onnx]

Each stage's folders lie in a temporary folder and its Python is a fresh virtual environment; COPY,
RUN, ENV, ARG and CMD are carried out there, with the absolute paths of the file moved below it. It
needs the package index that pip is set up with, and takes one to three minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import strzoo
from tests.helpers.serving import SERVING, ask_ready, make_network, send

ROOT = SERVING.parent.parent
PORT = 8731
_FOLDERS = re.compile(r"(?<![\w./])/(srv|wheels|source|tmp)\b")


class Stage:
    """What one FROM of the file has made.

    Args:
        folder: where its root lies.
        arguments: values of ARG.
    """

    def __init__(self, folder: Path, arguments: dict[str, str]) -> None:
        self.root, self.here = folder, folder
        self.arguments, self.command = arguments, ""
        self.environment: dict[str, str] = {}
        venv.create(folder / "venv", with_pip=True)
        (folder / "tmp").mkdir()

    def variables(self) -> dict[str, str]:
        """The environment of a command: nothing of this process's Python."""
        path = f"{self.root / 'venv' / 'bin'}:{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {**kept, **self.environment, "PATH": path}

    def place(self, text: str) -> str:
        """A text whose absolute paths are below the stage's root, with ARG and ENV filled in."""
        known = {**self.arguments, **self.environment}
        text = re.sub(r"\$(\w+)", lambda m: known.get(m[1], m[0]), text)
        return _FOLDERS.sub(lambda m: f"{self.root}/{m[1]}", text)

    def copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        """COPY [--from=STAGE] SOURCE... TARGET."""
        if words[0].startswith("--from="):
            other = stages[words.pop(0).removeprefix("--from=")]
            sources = [Path(other.place(word)) for word in words[:-1]]
        else:
            sources = [
                Path(name)
                for word in words[:-1]
                for name in glob.glob(str(ROOT / self.place(word)))
            ]
        target = self.here / self.place(words[-1])
        if words[-1].endswith("/"):
            target.mkdir(exist_ok=True)
        for source in sources:
            if source.is_dir():
                ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info")
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy(source, target)


def build(file: Path, folder: Path, given: dict[str, str]) -> Stage:
    """Carry the file out; the last stage."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        print(line, file=sys.stderr)
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            stage = stages[name] = Stage(folder / name, dict(given))
            continue
        assert stage is not None
        if word == "ARG":
            name, _, value = rest.partition("=")
            stage.arguments.setdefault(name, value.strip('"'))
        elif word == "ENV":
            for pair in shlex.split(stage.place(rest)):
                name, _, value = pair.partition("=")
                stage.environment[name] = value
        elif word == "WORKDIR":
            stage.here = Path(stage.place(rest))
            stage.here.mkdir()
        elif word == "COPY":
            stage.copy(shlex.split(rest), stages)
        elif word == "RUN":
            command = stage.place(rest)
            subprocess.run(
                command, shell=True, check=True, cwd=stage.here, env=stage.variables(),
                stdout=sys.stderr,
            )  # fmt: skip
        elif word == "CMD":
            stage.command = rest
        elif word not in ("USER", "EXPOSE", "HEALTHCHECK"):
            sys.exit(f"{word} is not known here")
    assert stage is not None
    return stage


@contextlib.contextmanager
def started(stage: Stage) -> Iterator[str]:
    """The command of the image, running; its address."""
    command = stage.command.replace("8000", str(PORT)).replace("0.0.0.0", "127.0.0.1")
    process = subprocess.Popen(command, shell=True, cwd=stage.here, env=stage.variables())
    try:
        url, until = f"http://127.0.0.1:{PORT}", time.monotonic() + 60
        while not ask_ready(url):
            if process.poll() is not None or time.monotonic() > until:
                sys.exit("the service did not start")
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", action="store_true", help="serve the ONNX file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory(dir=ROOT) as near:
        made = Path(temporary) / "made"
        checkpoint = make_network(made, "resnet20")
        name = "model.onnx" if options.onnx else "model.strz"
        # COPY takes what is in the checkout.
        if options.onnx:
            strzoo.export_onnx(checkpoint, Path(near) / name)
        else:
            strzoo.compile(checkpoint, threads=1).save(Path(near) / name)
        given = {"MODEL": f"{Path(near).name}/{name}", "EXTRA": "onnxruntime" * options.onnx}
        stage = build(SERVING / "Dockerfile", Path(temporary) / "image", given)
        listing = subprocess.run(
            ["python", "-m", "pip", "list"], env=stage.variables(), capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
        print(listing)
        heavy = {"torch", "torchvision", "onnx", "onnxscript"}
        assert not heavy & {line.split()[0] for line in listing.splitlines()}
        with started(stage) as url:
            found = send(url, made, 200)
        size = sum(f.stat().st_size for f in (stage.root / "venv").rglob("*") if f.is_file())
        print(f"{size / 1e6:.0f} MB of packages; {json.dumps(found)}")
        assert (found["answered"], found["wrong"], found["lost"]) == (200, 0, 0)


if __name__ == "__main__":
    main()
