"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from strzoo.cli import run
from tests.helpers.published import str_state, write_published

pytest_plugins = ["tests.helpers.resnet20"]

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("strzoo", deadline=None)
hypothesis.settings.load_profile("strzoo")

# The networks here are small: one thread is as fast as two, and far faster beside other work.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@dataclass(frozen=True)
class CliResult:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error; fails if there are more, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("strzoo: error: "), self.err
        return lines[0].removeprefix("strzoo: error: ")


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the user's cache, registries or mirrors, and none reaches the network."""
    for name in ("STRZOO_REGISTRY", "STRZOO_MIRROR", "STRZOO_OFFLINE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STRZOO_HOME", str(tmp_path_factory.mktemp("home")))
    # Commands set up the logger, those of fixtures that live longer too.
    logger = logging.getLogger("strzoo")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., CliResult]:
    """Run the command line in this process."""

    def invoke(*arguments: object) -> CliResult:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return CliResult(code, captured.out, captured.err)

    return invoke


@pytest.fixture(scope="session")
def str_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published-form STR MobileNetV1 of 75.28 % sparsity (do not modify)."""
    path = tmp_path_factory.mktemp("published") / "mobilenetv1.pth"
    return write_published(path, str_state("mobilenetv1", 75.28))
