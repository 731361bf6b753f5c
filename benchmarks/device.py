"""Everything there is to know about a machine with a GPU and many cores, in eight minutes.

    python benchmarks/device.py                     on that machine; results in device-results/
    python benchmarks/device.py --tiny              on any CPU, in minutes: does every line work?
    python benchmarks/device.py --only training     one stage; results of the others stay

Four stages, each in a process of its own with a time limit: correctness (the tests marked `cuda`),
speed of evaluation, speed of training, the sparse engine on many cores. After each of them
results.json and results.md are written, so what fails or takes too long loses nothing else, and
device.json, which is what benchmarks/results/ takes. Run
again with the same sizes, it goes on: stages that are done are not repeated, unless --no-resume.
The exit code is 1 if a stage failed or did not end, or a figure misses its goal (a tiny run judges
no speed).

Packages that the machine lacks and cannot fetch travel as wheels: `make device-wheels` (for another
Python than 3.12: DEVICE_PYTHON=3.11) puts those that the export to ONNX needs into device-wheels/,
beside this folder; what the machine has itself comes first.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import harness.results  # noqa: E402
from device_stages.rows import FAILS, Row, Stage, read_rows  # noqa: E402
from harness.machine import (  # noqa: E402
    count_cores,
    find_commit,
    find_load,
    list_versions,
    name_processor,
)

# The share of the time that each stage may take; what one leaves over the next ones have.
STAGES = {"correctness": 0.24, "evaluation": 0.26, "training": 0.32, "cores": 0.18}
DONE = "done"
PACKAGES = ("torch", "torchvision", "timm", "triton", "onnx", "onnxruntime", "llvmlite", "pillow")
TINY_MINUTES = 10.0  # a bound for a busy machine; it takes about two


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, in minutes on a CPU")
    parser.add_argument("--minutes", type=float, help="for all stages together [default: 8]")
    parser.add_argument("--output", type=Path, default=Path("device-results"))
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="[default: device.json in --output]"
    )
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from the results in --output; --no-resume repeats stages that are done",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), help="[default: a GPU if it is here]")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--wheels", type=Path, default=ROOT / "device-wheels", help="see above")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return run_here(options)
    minutes = options.minutes or (TINY_MINUTES if options.tiny else 8.0)
    options.device = options.device or find_device()
    options.output.mkdir(parents=True, exist_ok=True)
    unpack_wheels(options.wheels, options.output / "packages")
    results = Results(options)
    deadline = time.monotonic() + 60 * minutes
    for number, name in enumerate(STAGES):
        if name not in options.only or results.is_done(name):
            continue
        shares = [share for stage, share in list(STAGES.items())[number:] if stage in options.only]
        seconds = (deadline - time.monotonic()) * STAGES[name] / sum(shares)
        results.stages[name] = run_apart(name, options, seconds)
        results.write()
    print(f"\nwrote {results.json} and {results.markdown}")
    return results.exit_code()


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """A wheel is a zip file whose contents can be imported as they are."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def run_here(options: argparse.Namespace) -> int:
    """The stage, in this process."""
    import importlib

    packages = options.output / "packages"
    if packages.exists():  # last, so that what is installed comes first
        sys.path.append(str(packages.resolve()))
    module = importlib.import_module(f"device_stages.{options.stage}")
    stage = Stage(
        options.device, options.tiny, options.workers, options.folder, options.rows, options.seconds
    )
    module.run(stage)
    return 0


def run_apart(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The stage in a process of its own: its rows, whether it ended, and what it took."""
    print(f"\n== {name}, at most {seconds:.0f} s", flush=True)
    log = options.output / f"{name}.log"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, open(log, "w") as stream:
        rows = Path(folder) / "rows.jsonl"
        command = [
            *(sys.executable, __file__, "--stage", name, "--device", options.device),
            *("--output", str(options.output)),
            *("--workers", str(options.workers), "--folder", folder, "--rows", str(rows)),
            *("--seconds", f"{seconds:.1f}", *(["--tiny"] if options.tiny else [])),
        ]
        # A session of its own, so that its workers end with it.
        process = subprocess.Popen(
            command, env=environment(options), stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        shown = 0
        status = f"ended after its {seconds:.0f} s"
        while time.monotonic() - started < seconds:
            shown = show(read_rows(rows), shown)
            try:
                code = process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
            status = DONE if code == 0 else f"failed with exit code {code}, see {log.name}"
            break
        end(process)
        found = read_rows(rows)
        show(found, shown)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.monotonic() - started
    print(f"{name}: {status}, {wall:.0f} s, {cpu:.0f} s of CPU", flush=True)
    return {
        "status": status, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
        "rows": [asdict(row) for row in found],
    }  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End what the stage started, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def show(rows: list[Row], shown: int) -> int:
    for row in rows[shown:]:
        print("  " + f"{row.what}: {row.value} {row.goal} {row.verdict}".rstrip(), flush=True)
    return len(rows)


def environment(options: argparse.Namespace) -> dict[str, str]:
    """For a stage: this tree first; a tiny run compiles nothing and keeps to one thread."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), *([inherited] if inherited else [])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if options.tiny:
        variables |= {"TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return variables


def find_device() -> str:
    """Asked in another process: CUDA, once begun, is not for the processes that follow."""
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() or "cpu"


class Results:
    """What is known so far, in results.json and results.md."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.json, self.markdown = (options.output / f"results.{end}" for end in ("json", "md"))
        self._tiny, self._shared = options.tiny, options.json or options.output / "device.json"
        self._settings = {"tiny": options.tiny, "device": options.device}
        self._again = set() if options.resume else set(options.only)
        self.stages: dict[str, dict[str, Any]] = {}
        if self.json.exists():
            known = json.loads(self.json.read_text())
            if known["settings"] == self._settings:
                self.stages = known["stages"]

    def is_done(self, name: str) -> bool:
        """Whether an earlier run with the same settings has it."""
        done = self.stages.get(name, {}).get("status") == DONE and name not in self._again
        if done:
            print(f"{name}: done before")
        return done

    def write(self) -> None:
        machine = describe_machine()
        document = {
            "schema": 1, "machine": machine, "settings": self._settings, "stages": self.stages
        }  # fmt: skip
        self._replace(self.json, json.dumps(document, indent=1) + "\n")
        results = harness.results.Results(
            "On a GPU and on many cores",
            "A tiny run: the figures say that the lines work, not how fast." if self._tiny else "",
            ["python benchmarks/device.py" + " --tiny" * self._tiny],
            datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            find_commit(),
            machine,
            tables=[self._tabulate(name) for name in STAGES],
        )
        harness.results.write_results(self._shared, results)
        self._replace(self.markdown, "\n".join(results.lines()))

    def _tabulate(self, name: str) -> harness.results.Table:
        """The table of a stage, or that it was not run."""
        heads = [harness.results.Column(head) for head in ("what", "value", "goal", "verdict")]
        table = harness.results.Table(heads, title=f"{name}: not run")
        if name in self.stages:
            stage = self.stages[name]
            table.title = f"{name}: {stage['status']}, {stage['seconds']} s, "
            table.title += f"{stage['cpu_seconds']} s of CPU"
            table.rows = [[str(cell) for cell in row.values()] for row in stage["rows"]]
        return table

    def _replace(self, path: Path, text: str) -> None:
        temporary = path.with_suffix(".part")
        temporary.write_text(text)
        temporary.replace(path)

    def exit_code(self) -> int:
        """0 if all stages that ran are done and no figure fails."""
        code = 0
        for name, stage in self.stages.items():
            failed = [row for row in stage["rows"] if row["verdict"] == FAILS]
            if stage["status"] != DONE or failed:
                print(f"{name}: {stage['status']}; {len(failed)} figures miss their goal")
                code = 1
        return code


def describe_machine() -> str:
    """Processor, GPU and versions; nothing here is initialised."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip() or "no GPU"
    except OSError:
        gpu = "no GPU"
    return (
        f"{name_processor()}, {count_cores()} cores, {gpu}, Python {platform.python_version()}, "
        f"{list_versions(PACKAGES)}; load {find_load():.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
