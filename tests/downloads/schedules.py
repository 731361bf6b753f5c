"""Random schedules of faults and kills, with one invariant: the right bytes, or no such file.

    python -m tests.downloads.schedules 1000 --kills 100 [--seed 0]

runs many of them; the suite runs a few (`test_schedules.py`).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from strzoo.downloads.download import Fetched
from strzoo.errors import StrzooError
from tests.helpers.download_helpers import (
    FILENAME,
    card_for,
    fetch,
    partials,
    serving,
    sha256,
    start_child,
    status,
)
from tests.helpers.drive_stub import PERMISSION_PAGE, QUOTA_PAGE, DriveStub, Fault, make_payload

SIZE = 40_000
FAST = {"backoff": 0.0, "read_timeout": 0.1, "connect_timeout": 1.0, "total_time": 3.0}
KINDS = (
    *("none", "drop", "reset", "truncate", "stall", "wrong-length", "ignore-range", "bad-range"),
    *("no-type", "no-name", "chunked", "no-length", "corrupt", "short", "slow"),
)


class StopError(Exception):
    """Stands for the user who interrupts."""


def random_fault(generator: random.Random) -> Fault:
    if generator.random() < 0.25:
        code = generator.choice([200, 403, 404, 408, 416, 429, 500, 503])
        page = generator.choice([QUOTA_PAGE, PERMISSION_PAGE, "<html>busy</html>"])
        return status(code, page)
    kind = generator.choice(KINDS)
    return Fault(kind, at=generator.randrange(1, SIZE), delay=0.15 if kind == "stall" else 0.001)


def run_schedule(seed: int, cache: Path) -> Iterator[tuple[list[bytes], Fetched | None]]:
    """Several downloads into one cache under random faults; yields after each one."""
    generator = random.Random(seed)
    payloads = [make_payload(SIZE, seed), make_payload(SIZE - generator.randrange(999), -seed - 1)]
    pinned = generator.random() < 0.3
    card = card_for(
        sha256=sha256(payloads[0]) if pinned else None,
        bytes=SIZE if generator.random() < 0.3 else None,
    )
    options = {
        "large": generator.random() < 0.3,
        "ranges": generator.random() < 0.8,
        "tags": generator.random() < 0.8,
        "chunk": generator.choice([1000, 4096, 65536]),
    }
    with serving(payload=payloads[0], **options) as stub:
        for _ in range(generator.randrange(1, 4)):
            stub.faults.clear()
            stub.fail(*[random_fault(generator) for _ in range(generator.randrange(6))])
            if generator.random() < 0.15:
                stub.replace(payloads[1], '"v2"')
            stop = generator.randrange(SIZE) if generator.random() < 0.3 else SIZE + 1

            def progress(done, total, stop=stop):
                if done >= stop:
                    raise StopError

            mirrors = [stub.address] if generator.random() < 0.3 else []
            try:
                fetched = fetch(stub, cache, card, network=FAST, mirrors=mirrors, progress=progress)
            except (StrzooError, StopError):
                fetched = None
            yield payloads[:1] if pinned else payloads, fetched


def run_schedules(seeds: range, folder: Path) -> Counter[str]:
    """Run the schedules of `seeds`; how many downloads arrived, failed or left a partial.

    Raises:
        AssertionError: a file under the final name is not the right one, or something is left
            that is neither that file, nor a partial that can be continued, nor a record.
    """
    counts: Counter[str] = Counter()
    for seed in seeds:
        cache = folder / str(seed)
        for right, fetched in run_schedule(seed, cache):
            final = cache / FILENAME
            assert not final.exists() or final.read_bytes() in right, seed
            assert (fetched is not None) <= final.exists(), seed
            check_left(cache, f"schedule {seed}")
            counts["arrived"] += fetched is not None and fetched.source != "cache"
            counts["failed"] += fetched is None
            counts["resumable"] += bool(partials(cache))
        shutil.rmtree(cache, ignore_errors=True)
    return counts


def check_left(cache: Path, where: str) -> None:
    """Nothing is in the cache but what the documents list, and every partial can be continued."""
    if not cache.exists():
        return
    assert {path.name for path in cache.iterdir()} <= {FILENAME, "records", "staging"}, where
    for partial in partials(cache):
        assert {path.name for path in partial.iterdir()} == {"data", "meta.json", "lock"}, where
    for folder in cache.iterdir():
        assert not folder.is_dir() or list(folder.iterdir()), f"{where}: {folder.name} is empty"


def run_kills(kills: int, folder: Path, *, seed: int = 0, processes: int = 8) -> Counter[str]:
    """Kill one of `processes` downloads into one cache `kills` times, at random moments.

    Each killed process is replaced; a cache whose file is complete is emptied, and the next round
    begins.

    Raises:
        AssertionError: a final name holds other bytes, a process that was not killed fails, or
            something but the file and its record is left at the end of a round.
    """
    generator = random.Random(seed)
    counts: Counter[str] = Counter()
    while counts["kills"] < kills:
        cache = folder / f"round{counts['rounds']}"
        with serving(size=300_000, chunk=3000, pause=0.02) as stub:
            _run_round(stub, cache, generator, kills, processes, counts)
        counts["rounds"] += 1
        shutil.rmtree(cache)
    return counts


def _run_round(
    stub: DriveStub,
    cache: Path,
    generator: random.Random,
    kills: int,
    processes: int,
    counts: Counter[str],
) -> None:
    children = [start_child(stub, cache) for _ in range(processes)]
    final = cache / FILENAME
    while counts["kills"] < kills:
        time.sleep(generator.uniform(0, 0.6))
        assert not final.exists() or final.read_bytes() == stub.payload
        victim = generator.randrange(processes)
        if children[victim].poll() is not None:
            break  # the file is there, and processes end
        children[victim].send_signal(signal.SIGKILL)
        children[victim].communicate()
        counts["kills"] += 1
        counts["partials kept"] += bool(partials(cache))
        children[victim] = start_child(stub, cache)
    for child in children:
        _check_end(child, stub)
        counts["downloads"] += 1
    counts["resumes"] += sum("Range" in headers for _, headers in stub.requests)
    assert final.read_bytes() == stub.payload
    final.unlink()
    _check_end(start_child(stub, cache), stub)  # removes what kills left in staging
    left = {path.relative_to(cache).as_posix() for path in cache.rglob("*")}
    assert left == {FILENAME, "records", f"records/{FILENAME}.json"}, left


def _check_end(child: subprocess.Popen[str], stub: DriveStub) -> None:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert json.loads(out)["sha256"] == sha256(stub.payload)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schedules", type=int)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger("strzoo").setLevel(logging.ERROR)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = run_schedules(range(given.seed, given.seed + given.schedules), Path(folder))
        print(f"{given.schedules} schedules: {dict(counts)}")
        counts = run_kills(given.kills, Path(folder), seed=given.seed)
        print(f"{given.kills} kills among 8 processes: {dict(counts)}")
    print(f"no fault; {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
