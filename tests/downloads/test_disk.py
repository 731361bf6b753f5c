"""The disk and other processes against a download: full, read-only, killed, eight at once."""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
import time
from pathlib import Path

import pytest

from strzoo.downloads import cache, staging, transfer
from strzoo.downloads import download as downloads
from strzoo.errors import StrzooError
from tests.helpers.download_helpers import (
    FILENAME,
    check_payload,
    fetch,
    partials,
    serving,
    sha256,
    start_child,
)


def test_too_little_space_is_said_before_the_first_byte(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage)
    with serving() as stub, pytest.raises(StrzooError, match=r"300,000 bytes.*1,000 free"):
        fetch(stub, tmp_path)
    assert partials(tmp_path) == []
    assert not (tmp_path / FILENAME).exists()


@pytest.mark.parametrize("after", [0, 1, 65_536, 299_999])
def test_a_full_disk_leaves_a_partial_that_is_finished_once_there_is_room(
    tmp_path, monkeypatch, after
):
    real, room = transfer._open_data, [after]

    class FullDisk:
        def __init__(self, stream):
            self._stream = stream

        def write(self, view):
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self._stream.write(view[: room[0]])
            room[0] -= written
            return written

        def fileno(self):
            return self._stream.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._stream.close()

    with serving() as stub:
        monkeypatch.setattr(transfer, "_open_data", lambda partial: FullDisk(real(partial)))
        with pytest.raises(StrzooError, match="no space left") as raised:
            fetch(stub, tmp_path, mirrors=[stub.address])
        assert raised.value.exit_code == 1
        assert not (tmp_path / FILENAME).exists()
        monkeypatch.setattr(transfer, "_open_data", real)
        fetch(stub, tmp_path, mirrors=[stub.address])
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
    assert stub.requests[-1][1].get("Range") == (f"bytes={after}-" if after else None)


def test_the_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    sync, replace = downloads.sync_file, cache.os.replace

    def record_sync(path):
        events.append("sync")
        sync(path)

    def record_replace(source, target):
        events.append(str(target))
        replace(source, target)

    def record_check(*arguments):
        events.append("check")
        check_payload(*arguments)

    monkeypatch.setattr(downloads, "sync_file", record_sync)
    monkeypatch.setattr(cache.os, "replace", record_replace)
    with serving() as stub:
        fetch(stub, tmp_path, check=record_check)
    assert events[-3:] == ["check", "sync", str(tmp_path / FILENAME)]


def finish(child):
    out, err = child.communicate(timeout=30)
    return child.returncode, out, err


@pytest.mark.slow
def test_a_kill_or_an_interrupt_at_any_byte_is_resumed_by_the_next_process(tmp_path):
    generator = random.Random(1)
    cuts = sorted(generator.sample(range(1, 290_000), 8))
    with serving(pause=0.001, chunk=7001) as stub:
        for index, cut in enumerate(cuts):
            how = "kill" if index % 2 else "interrupt"
            code, _, err = finish(start_child(stub, tmp_path, **{how: cut}))
            assert code == (-9 if how == "kill" else 130), err
            assert not (tmp_path / FILENAME).exists()
            (partial,) = partials(tmp_path)
            data = (partial / "data").read_bytes()
            assert len(data) >= cut
            assert stub.payload.startswith(data)
        stub.requests.clear()
        code, out, err = finish(start_child(stub, tmp_path))
    assert code == 0, err
    assert json.loads(out)["sha256"] == sha256(stub.payload)
    assert stub.requests[0][1]["Range"] == f"bytes={len(data)}-"
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
    assert partials(tmp_path) == []


@pytest.mark.parametrize("no_flock", [False, True])
def test_eight_processes_at_once_all_get_the_file(tmp_path, no_flock):
    with serving(pause=0.05, chunk=30_000) as stub:
        children = [start_child(stub, tmp_path, no_flock=no_flock) for _ in range(8)]
        results = [finish(child) for child in children]
    assert [(code, err) for code, _, err in results] == [(0, "")] * 8
    documents = [json.loads(out) for _, out, _ in results]
    assert {document["sha256"] for document in documents} == {sha256(stub.payload)}
    fetched = sum(document["source"] == "Google Drive" for document in documents)
    if no_flock:  # two may go on with the same part, find it wrong, and begin again
        assert 1 < fetched <= len(stub.requests)
    else:
        assert fetched == len(stub.requests) == 1
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
    assert partials(tmp_path) == []


def test_a_process_that_waits_continues_what_the_killed_one_left(tmp_path):
    with serving(pause=0.05, chunk=30_000) as stub:
        first = start_child(stub, tmp_path, kill=120_000)
        while not stub.requests:
            time.sleep(0.01)
        second = start_child(stub, tmp_path)
        assert finish(first)[0] == -9
        code, out, err = finish(second)
    assert code == 0, err
    assert json.loads(out)["source"] == "Google Drive"
    starts = [headers.get("Range") for _, headers in stub.requests]
    assert starts[0] is None
    assert int(str(starts[1]).removeprefix("bytes=").removesuffix("-")) >= 120_000
    assert (tmp_path / FILENAME).read_bytes() == stub.payload


def test_a_file_size_limit_is_an_error_and_not_a_shorter_file(tmp_path):
    with serving() as stub:
        code, _, err = finish(start_child(stub, tmp_path, file_limit=100_001))
        assert code == 1
        assert "cannot write" in err
        assert "Traceback" not in err
        assert not (tmp_path / FILENAME).exists()
        code, _, err = finish(start_child(stub, tmp_path))
        assert code == 0, err
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
    assert stub.requests[-1][1]["Range"] == "bytes=100001-"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
def test_a_read_only_cache_serves_what_it_has_and_says_what_it_cannot_take():
    # Not below pytest's own folder, which no other user may enter.
    with serving() as stub, tempfile.TemporaryDirectory() as folder:
        cache_dir = Path(folder)
        cache_dir.chmod(0o555)
        code, _, err = finish(start_child(stub, cache_dir, powerless=True))
        assert code == 1
        assert "permission denied; choose a folder you may write to" in err
        (cache_dir / FILENAME).write_bytes(stub.payload)
        code, out, err = finish(start_child(stub, cache_dir, powerless=True))
    assert code == 0, err
    assert json.loads(out) == {"source": "cache", "sha256": sha256(stub.payload)}
    assert stub.requests == []


def test_a_partial_of_a_living_process_is_left_alone(tmp_path):
    folder = staging.Staging(tmp_path)
    with folder.hold("a.pth", "there") as first:
        first.data.write_bytes(b"first")
        first.save('"v1"', 10)
        with folder.hold("a.pth", "there") as second:
            assert second.size == 0
            assert second.folder != first.folder
        assert folder.clean(max_age=0) == []
        assert first.data.read_bytes() == b"first"
    with folder.hold("a.pth", "elsewhere") as other:
        assert other.size == 0
    with folder.hold("a.pth", "there") as third:
        assert third.data.read_bytes() == b"first"
        assert (third.validator, third.total) == ('"v1"', 10)


def test_stale_partials_are_cleaned_and_fresh_ones_kept(tmp_path):
    partial = {"data": b"x", "meta.json": b'{"source": "there"}', "lock": b""}
    with serving() as stub:
        for name, age, files in (
            ("old.pth~1", 8, partial),
            ("new.pth~2", 6, partial),
            ("killed.pth~3", 0, {"lock": b""}),  # before it had a byte
            ("killed.pth~4", 0, {"data": b"x", "lock": b""}),  # a copy
            ("old.pth~5~unlocked", 8, {"data": b"x"}),
            ("alive.pth~6~unlocked", 6, {"data": b"x"}),
        ):
            folder = tmp_path / "staging" / name
            folder.mkdir(parents=True)
            for file, content in files.items():
                (folder / file).write_bytes(content)
            then = folder.stat().st_mtime - age * 24 * 3600
            for path in (*folder.iterdir(), folder):
                os.utime(path, (then, then))
        fetch(stub, tmp_path)
    assert [path.name for path in partials(tmp_path)] == ["alive.pth~6~unlocked", "new.pth~2"]


def test_a_lock_that_cannot_be_taken_is_done_without(tmp_path, monkeypatch):
    import filelock

    def broken(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", broken)
    with serving() as stub:
        fetch(stub, tmp_path)
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
