"""What the tests show in a few cases, on a larger scale: python -m tests.soak [PART ...]

    downloads   1,000 random schedules of faults, kills at 100 moments among eight processes
    training    20 kills of training runs, each resumed to the same bits as one without
    workers     a killed decoder: an error within 30 seconds, in training and in evaluation
    interrupts  Ctrl-C in every long command: exit code 130 within 2 seconds, no process left
    engine      10,000 networks compiled and called, a tenth by LLVM: memory flat, no thread left

Prints what happened; the exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.helpers.runs import SHORT, differences, environment, final_state

STRZOO = (sys.executable, "-W", "ignore", "-m", "strzoo")
KILLS, SECONDS = 20, 2.0
CYCLES, GROWTH = 10_000, 20  # networks compiled; megabytes that memory may grow by


def _start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*STRZOO, *arguments],
        cwd=cwd,
        env=environment(STRZOO_HOME=str(cwd / "home"), PYTHONPATH=os.getcwd()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def downloads(folder: Path) -> list[str]:
    """The schedules have a command of their own."""
    command = [sys.executable, "-m", "tests.downloads.schedules", "1000", "--kills", "100"]
    done = subprocess.run(command, check=False)
    return [] if done.returncode == 0 else ["downloads: a schedule broke its promise"]


def training(folder: Path) -> list[str]:
    """Kill runs at random moments until they have been killed so often; each goes on to its end."""
    import strzoo
    from strzoo.training.parsing import dump_config

    config = dataclasses.replace(SHORT, epochs=8)
    strzoo.train(dataclasses.replace(config, output=str(folder / "whole")))
    wanted = final_state(folder / "whole")
    generator, kills, runs = random.Random(0), 0, 0
    problems: list[str] = []
    while kills < KILLS or runs == 0:
        runs += 1
        run = folder / f"run{runs}"
        file = folder / f"run{runs}.yaml"
        file.write_text(dump_config(dataclasses.replace(config, output=str(run), resume="auto")))
        while True:
            child = _start("train", str(file), "-q", cwd=folder)
            try:
                _, said = child.communicate(timeout=3 + 4 * generator.random())
            except subprocess.TimeoutExpired:
                if kills < KILLS:
                    os.killpg(child.pid, signal.SIGKILL)
                    kills += 1
                _, said = child.communicate()
            if child.returncode == 0:
                break
            if child.returncode != -signal.SIGKILL:
                problems.append(f"training: exit code {child.returncode}: {said[-300:]}")
                return problems
        for difference in differences(wanted, final_state(run))[:3]:
            problems.append(f"training: run {runs} ends otherwise: {difference}")
    print(f"training: {kills} kills, {runs} runs compared to the bit", flush=True)
    return problems


def _write_images(folder: Path, count: int) -> Path:
    from PIL import Image

    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
        image = Image.new("RGB", (400, 300), (25 * label, 90, 200 - 20 * label))
        first = folder / f"class{label}/0.png"
        image.save(first)
        for index in range(1, count // 10):
            os.link(first, folder / f"class{label}/{index}.png")
    return folder


def _children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def _is_decoder(process: int) -> bool:
    command = Path(f"/proc/{process}/cmdline").read_bytes()
    return b"resource_tracker" not in command


def workers(folder: Path) -> list[str]:
    """Kill a decoder of an evaluation and of a training."""
    from tests.attack.shared import write_shared

    model = write_shared(folder)["@cifar"]
    images = _write_images(folder / "images", 20_000)
    _write_images(folder / "sets/train", 20_000)
    _write_images(folder / "sets/val", 100)
    commands = {
        "evaluate": ("evaluate", model, "--data", str(images), "--workers", "2", "-q"),
        "train": (
            *("train", "digits_str", "dataset=folder", f"data={folder / 'sets'}", "workers=2"),
            *("image_size=32", f"output={folder / 'run'}", "-q"),
        ),
    }
    problems = []
    for name, command in commands.items():
        child = _start(*command, cwd=folder)
        end = time.monotonic() + 60
        found: list[int] = []
        while not found and time.monotonic() < end and child.poll() is None:
            time.sleep(0.1)
            found = [c for c in _children(child.pid) if _is_decoder(c)]
        time.sleep(1)
        if not found or child.poll() is not None:
            problems.append(f"workers: {name} had no decoder to kill: {child.communicate()[1]}")
            continue
        os.kill(found[0], signal.SIGKILL)
        began = time.monotonic()
        try:
            _, said = child.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            problems.append(f"workers: {name} hangs; {child.communicate()[1][-300:]}")
            continue
        print(
            f"workers: {name}: {time.monotonic() - began:.1f} s, {said.strip()[-200:]}", flush=True
        )
        wrong = len(said.splitlines()) != 1 or "defect of strzoo" in said
        if child.returncode != 1 or wrong or _alive(child.pid):
            problems.append(f"workers: {name}: exit code {child.returncode}, {said[-400:]}")
    return problems


def interrupts(folder: Path) -> list[str]:
    """Press Ctrl-C in each long command, early, later and when it is well under way."""
    from tests.attack.shared import write_shared

    shared = write_shared(folder)
    model, onnx = shared["@cifar"], shared["@onnx"]
    images = str(_write_images(folder / "images", 50_000))
    commands: dict[str, Sequence[str]] = {
        "demo": ("demo", "-o", "demo{n}", "--epochs", "1000"),
        "train": ("train", "digits_str", "epochs=1000", "output=run{n}"),
        "rnn train": ("rnn", "train", "digits", "epochs=1000", "output=rnn{n}"),
        "evaluate": ("evaluate", model, "--data", images),
        "evaluate with onnxruntime": ("evaluate", onnx, "--data", images),
        "predict": ("predict", model, images),
        "export": ("export", "resnet50_dense", "-o", "out{n}.onnx"),
        "export int8": (
            "export", model, "-o", "a{n}.onnx", "--precision", "int8", "--images", images,
        ),
        "compile": ("compile", model, "--tune", "600", "--no-cache"),
        "benchmark": ("benchmark", model, "--runs", "1000000", "--no-memory"),
        "verify": ("verify",),
        "matrices": ("matrices", model, "-o", "out{n}", "--images", images, "--max-images", "5000"),
    }  # fmt: skip
    problems = []
    for name, command in commands.items():
        for number, delay in enumerate((0.3, 3.0, 7.0)):
            child = _start(*(word.format(n=number) for word in command), cwd=folder)
            time.sleep(delay)
            if child.poll() is not None:
                print(f"interrupts: {name} was done (or refused) before {delay} s", flush=True)
                break
            began = time.monotonic()
            os.killpg(child.pid, signal.SIGINT)
            try:
                _, said = child.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                problems.append(f"interrupts: {name} at {delay} s goes on for 20 s")
                child.communicate()
                continue
            seconds = time.monotonic() - began
            time.sleep(0.2)
            left = _alive(child.pid)
            print(
                f"interrupts: {name} at {delay} s: {child.returncode} in {seconds:.2f} s",
                flush=True,
            )
            good = child.returncode in (130, -signal.SIGINT) and seconds < SECONDS and not left
            if not good or "Traceback" in said:
                problems.append(
                    f"interrupts: {name} at {delay} s: exit code {child.returncode} in "
                    f"{seconds:.1f} s{', a process is left' * left}; {said[-300:]}"
                )
                if left:
                    os.killpg(child.pid, signal.SIGKILL)
    return problems


def engine(folder: Path) -> list[str]:
    """Compile and call small networks; memory may grow until a tenth of them is done, not after."""
    import threading

    import numpy as np

    import strzoo
    from strzoo.settings import Settings
    from tests.helpers.engine.models import build

    settings = Settings(cache_dir=folder, offline=True)
    x, started, problems = np.ones((3, 4, 7, 6), np.float32), 0.0, []
    for cycle in range(CYCLES):
        weight = np.random.default_rng(cycle % 20).standard_normal((4, 4, 3, 3))
        weight = np.where(np.abs(weight) < 1, 0, weight).astype(np.float32)
        network = build("a = Conv(x, w) b = Relu(a) y = Flatten(b)", w=weight)
        model = strzoo.compile(network, threads=2, settings=settings, cache=cycle % 10 > 0)
        if not np.array_equal(model(x)[0], model(x[:1])[0]):
            problems.append(f"engine: cycle {cycle}: one image of a batch has another result")
        del model
        if cycle == CYCLES // 10:
            started = _resident_megabytes()
        if cycle % (CYCLES // 10) == CYCLES // 10 - 1:
            print(f"engine: {cycle + 1} cycles, {_resident_megabytes():.0f} MB", flush=True)
    grown, threads = _resident_megabytes() - started, threading.active_count()
    if grown > GROWTH or threads > 3:
        problems.append(f"engine: memory grew by {grown:.0f} MB; {threads} threads are left")
    return problems


def _resident_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


PARTS: dict[str, Callable[[Path], list[str]]] = {
    "downloads": downloads,
    "training": training,
    "workers": workers,
    "interrupts": interrupts,
    "engine": engine,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    problems = []
    for name in given.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            problems += PARTS[name](Path(folder))
    print("\n".join(problems) or "all promises were kept")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
