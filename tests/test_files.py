from __future__ import annotations

import errno
import os
import subprocess
import types
from pathlib import Path

import pytest

from strzoo.errors import StrzooError
from strzoo.evaluation.tables import check_results_file
from strzoo.files import atomic_path, check_destination, sha256_file, write_text


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    ordinary = tmp_path / "b.txt"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode
    coreutils = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert sha256_file(path) == coreutils.stdout.split()[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def fail() -> None:
        with atomic_path(path, force=True) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def race() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("mine")
            path.write_text("theirs")

    with pytest.raises(StrzooError, match="pass --force"):
        race()
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_without_hard_links_a_file_is_published_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert write_text(tmp_path / "a.txt", "x").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(StrzooError, match=r"cannot write .*a\.txt: no space left on the disk"),
        atomic_path(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_a_read_only_file_system_is_not_called_a_lack_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    """As the kernel answers for a read-only mount: nothing may be written, the flag is set."""
    (tmp_path / "r.csv").touch()
    flags = os.statvfs(tmp_path).f_flag | (os.ST_RDONLY if read_only else 0)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_flag=flags))
    wanted = "read-only file system; choose another folder" if read_only else "permission denied"
    with pytest.raises(StrzooError, match=wanted):
        check_destination(tmp_path / "a.txt")
    with pytest.raises(StrzooError, match=wanted):
        check_results_file(tmp_path / "r.csv")
    monkeypatch.undo()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)  # where access knows nothing of the mount
    with pytest.raises(StrzooError, match="read-only file system; choose another folder"):
        write_text(tmp_path / "a.txt", "x")
