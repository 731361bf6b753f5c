"""Random schedules of faults, with one invariant: the right bytes, or no file of that name."""

from __future__ import annotations

import random

import pytest

from strzoo.errors import StrzooError
from tests.helpers.download_helpers import (
    FILENAME,
    card_for,
    fetch,
    partials,
    serving,
    sha256,
    status,
)
from tests.helpers.drive_stub import PERMISSION_PAGE, QUOTA_PAGE, Fault, make_payload

SCHEDULES = 240
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


def run_schedule(seed, cache):
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


@pytest.mark.parametrize("block", range(8))
def test_the_final_name_holds_the_exact_right_bytes_or_does_not_exist(tmp_path, block):
    arrived = resumed = failed = 0
    for seed in range(block * SCHEDULES // 8, (block + 1) * SCHEDULES // 8):
        cache = tmp_path / str(seed)
        for right, fetched in run_schedule(seed, cache):
            final = cache / FILENAME
            assert not final.exists() or final.read_bytes() in right, seed
            assert (fetched is not None) <= final.exists(), seed
            arrived += fetched is not None and fetched.source != "cache"
            failed += fetched is None
            resumed += bool(partials(cache))
    # The schedules must be able to find something: they neither all fail nor all pass.
    assert min(arrived, failed, resumed) >= 3
