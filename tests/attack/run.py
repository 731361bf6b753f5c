"""Run commands on hostile inputs: each in a process of its own, with limits of memory and time.

The processes are forked from one that has imported what the commands need, so that a case takes as
long as the command itself. A case fails if the exit code is not one it may have, if there is more
or less than one line on stderr, if a traceback or a plea for a report is in it, if it took 20
seconds or 2 GB, if a file is left that should not be, or a process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.attack.case import Case

SECONDS, BYTES = 20.0, 2 << 30
_ROOM = 3 << 30  # of addresses beyond what the imports take; more would only hurt the machine
_MODULES = ("torch", "onnx", "onnxruntime", "llvmlite.binding", "pyarrow.parquet", "PIL.Image",
            "safetensors.torch", "yaml", "rich.table", "strzoo.cli.evaluate", "strzoo.cli.train",
            "strzoo.cli.export", "strzoo.cli.compile", "strzoo.cli.predict", "strzoo.cli.report",
            "strzoo.cli.inspection", "strzoo.cli.convert", "strzoo.cli.rnn", "strzoo.engine",
            "strzoo.evaluation", "strzoo.training", "strzoo.checkpoint", "strzoo.rnn",
            "strzoo.engine.pipeline", "torchvision.transforms", "fvcore.nn")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a case ended: exit code (negative: a signal), seconds, megabytes, what was printed, and
    what is wrong with it ("" for nothing)."""

    code: int
    seconds: float
    megabytes: float
    err: str
    problem: str


def prepare() -> None:
    """Import what the commands import, without starting a thread: a forked process lacks it, and
    would wait for it for ever. So this comes before whatever computes."""
    torch.set_num_threads(1)
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run_case(case: Case, folder: Path, shared: dict[str, str]) -> Outcome:
    """Run one case in `folder`, which is empty."""
    (work := folder / "work").mkdir()
    (home := folder / "home").mkdir()
    (temporary := folder / "tmp").mkdir()
    case.write(work)
    command = [shared.get(word, word) for word in case.command]
    before = _list(folder)
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(command, folder, work, home, temporary)
    code, usage = _wait(child, started)
    seconds, megabytes = time.monotonic() - started, usage.ru_maxrss / 1024
    orphans = _end_group(child)
    err = (folder / "err").read_text(errors="replace")
    made = sorted(name for name in _list(folder) - before if not _may_stay(case, name))
    lost = sorted(before - _list(folder))
    problem = _judge(case, code, seconds, megabytes, err, made, lost)
    return Outcome(code, seconds, megabytes, err, problem or ("a process is left" * orphans))


def _become(command: Sequence[str], folder: Path, work: Path, home: Path, temporary: Path) -> None:
    """In the child: run the command and end."""
    code = 99
    try:
        os.setsid()
        os.chdir(work)
        for name in ("STRZOO_REGISTRY", "STRZOO_MIRROR", "TORCH_HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        os.environ.update(STRZOO_HOME=str(home), TMPDIR=str(temporary), STRZOO_OFFLINE="1")
        for number, name in ((1, "out"), (2, "err")):
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from strzoo.cli import run

        code = run(list(command))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int, started: float) -> tuple[int, resource.struct_rusage]:
    """Exit code and usage; the process is killed when its time is over."""
    pause = 0.001
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() - started > SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _end_group(child: int) -> bool:
    """End what the command left running; whether there was anything."""
    for _ in range(20):
        try:
            os.killpg(child, 0)
        except (ProcessLookupError, PermissionError):
            return False
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return True


def _list(folder: Path) -> set[str]:
    """All names below a folder, but for the child's own output."""
    found = set()
    for place, folders, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(place, name), folder) for name in folders + files}
    return found - {"out", "err"}


def _may_stay(case: Case, name: str) -> bool:
    if name == "home/engine" or name.startswith("home/engine/"):
        return True  # the cache of compiled code
    return any(name == f"work/{kept}" or name.startswith(f"work/{kept}/") for kept in case.makes)


def _judge(
    case: Case, code: int, seconds: float, megabytes: float, err: str, made: list[str],
    lost: list[str],
) -> str:  # fmt: skip
    lines = [line for line in err.splitlines() if line.strip()]
    if seconds > SECONDS or code == -signal.SIGKILL:
        return f"took {seconds:.0f} s"
    if megabytes * 2**20 > BYTES:
        return f"took {megabytes:.0f} MB"
    if code not in case.codes:
        return f"exit code {code}"
    if code and (len(lines) != 1 or not lines[0].startswith("strzoo: error: ")):
        return f"{len(lines)} lines on stderr"
    if len(err) > 2100 * max(len(lines), 1):
        return f"{len(err)} characters on stderr"
    for bad in ("Traceback", "defect of strzoo", "out of memory", "fit in the memory"):
        if bad in err and not (bad == "out of memory" and "onnxruntime" in err):
            return f"said {bad!r}"
    if any(not character.isprintable() for line in lines for character in line):
        return "said what cannot be printed"
    if case.said not in err:
        return f"did not say {case.said!r}"
    if code and made:
        return f"left {', '.join(made[:4])}"
    if lost:
        return f"removed {', '.join(lost[:4])}"
    return ""


def run_all(
    cases: Sequence[Case],
    folder: Path,
    shared: dict[str, str],
    report: Callable[[Case, Outcome], None],
) -> int:
    """Run all cases; returns how many failed."""
    failed = 0
    for index, case in enumerate(cases):
        (place := folder / str(index)).mkdir()
        outcome = run_case(case, place, shared)
        failed += bool(outcome.problem)
        report(case, outcome)
        _remove(place)
    return failed


def _remove(folder: Path) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(place, name))
        for name in folders:
            path = os.path.join(place, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(folder)


def describe(case: Case, outcome: Outcome) -> str:
    """The outcome as a line of JSON."""
    return json.dumps(
        {
            "case": case.name,
            "code": outcome.code,
            "seconds": round(outcome.seconds, 2),
            "megabytes": round(outcome.megabytes),
            "problem": outcome.problem,
            "err": outcome.err[:600],
        }
    )
