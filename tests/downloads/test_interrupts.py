"""Ctrl-C during `strzoo download`: 130 within two seconds, no process left, and a resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strzoo.downloads.locks import release, try_lock
from tests.helpers.download_helpers import FILENAME, MODEL, ROOT, partials, serving
from tests.helpers.drive_stub import Fault
from tests.helpers.raw_server import raw_server

MOMENTS = ("silent", "headers", "stalled", "slow", "pause", "locked")


def start(cache: Path, mirror: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "strzoo", "download", MODEL, "--mirror", mirror, "-q"],
        cwd=ROOT, env={**os.environ, "STRZOO_HOME": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def interrupt(child: subprocess.Popen[str]) -> None:
    """Press Ctrl-C once and hold the command to what it promises."""
    began = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the whole group
    out, err = child.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert (child.returncode, out, err.strip()) == (130, "", "strzoo: interrupted")
    assert not alive(child.pid)


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_a_long_download_wherever_it_is(tmp_path, moment):
    cache = tmp_path / "cache"
    asked = []

    def answer(request):
        asked.append(request)
        if moment == "headers":
            yield from (b"%c" % byte for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)
        while True:
            time.sleep(0.05)
            yield b""

    with serving(chunk=1000) as stub, raw_server(answer, pause=0.05) as silent:
        if moment in ("silent", "headers"):
            child = start(cache, silent)
            wait_for(lambda: asked, child)
        elif moment == "locked":
            (cache / "locks").mkdir(parents=True)
            lock = try_lock(cache / "locks" / f"{FILENAME}.lock")
            assert lock is not None
            child = start(cache, stub.address)
            time.sleep(1.5)
            assert child.poll() is None
        else:
            if moment == "pause":
                stub.fail(*[Fault("status", status=503, headers=(("Retry-After", "60"),))] * 5)
            elif moment == "stalled":
                stub.fail(Fault("stall", at=100_000, delay=30))
            stub.pause = 0.05 if moment == "slow" else 0.0
            child = start(cache, stub.address)
            wait_for(lambda: stub.requests, child)
        time.sleep(0.3)
        interrupt(child)
        if moment == "locked":
            assert lock is not None
            release(lock, remove=True)
        kept = partials(cache)
        if moment not in ("stalled", "slow"):
            assert kept == []
            return
        size = (kept[0] / "data").stat().st_size
        assert size > 0
        assert stub.payload.startswith((kept[0] / "data").read_bytes())
        stub.pause = 0.0
        stub.requests.clear()
        resumed = start(cache, stub.address)
        wait_for(lambda: stub.requests, resumed)
        resumed.kill()
        resumed.communicate()
        assert stub.requests[0][1]["Range"] == f"bytes={size}-"
