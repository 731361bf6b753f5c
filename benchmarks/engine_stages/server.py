"""Server: an engine that runs in a process of its own and is asked for runs, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT

SCRIPT = Path(__file__).resolve().parent / "process.py"


class Server:
    """A process with one engine and one model; see `process`.

    Args:
        python: the interpreter; None for this one.
        variables: of the environment, besides those of this process.

    Attributes:
        output: what the model made of the images.
        resources: seconds to open it, and memory in MB.
    """

    def __init__(
        self,
        engine: str,
        path: Path,
        threads: int,
        batch: int,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "output.npy"
            arguments = [engine, str(path), str(threads), str(batch), str(result)]
            self._process = subprocess.Popen(
                [python or sys.executable, str(SCRIPT), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, **(variables or {})},
            )
            self.resources: dict[str, float] = self._read()
            self.output: np.ndarray = np.load(result)

    def run(self, calls: int) -> list[float]:
        """Seconds of each of `calls` runs, after some that are not counted."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        times: list[float] = self._read()
        return times

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> Any:
        """The next line that is JSON; engines print other lines too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line[0] in "{[":
                return json.loads(line)
        raise SystemExit(f"{' '.join(map(str, self._process.args))} failed")  # type: ignore[arg-type]
