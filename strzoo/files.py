"""Write files so that a final name holds the whole content or does not exist.

Everything strzoo writes goes through `atomic_path`, so a full disk or a kill leaves nothing
half-written behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from strzoo.borders import open_file
from strzoo.errors import IntegrityError, StrzooError, UsageError

PLAN_MAGIC = b"STRZPLAN"  # how a .strz file begins
_REASONS = {
    errno.ENOSPC: "no space left on the disk; free some or write elsewhere",
    errno.EDQUOT: "disk quota exceeded; free some space or write elsewhere",
    errno.EACCES: "permission denied; choose a folder you may write to",
    errno.EPERM: "permission denied; choose a folder you may write to",
    errno.EROFS: "read-only file system; choose another folder",
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "its folder is a file; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter folder",
    errno.ELOOP: "a symbolic link leads in a circle; choose another folder",
    errno.EISDIR: "it is a folder; name a file",
}


# What the folder of a training run is represented by, best first.
BEST = ("best_str.pth", "best_dense.pth")
# How a file ends that divides the weights among others.
INDEX_SUFFIX = ".index.json"
# The weights in a folder that Hugging Face's libraries save.
_SAVED = (
    *("model.safetensors", f"model.safetensors{INDEX_SUFFIX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
)


def run_checkpoint(path: str | os.PathLike[str], format: str | None = None) -> Path:
    """`path`, or the best checkpoint in it if it is the folder of a training run, or the weights
    if Hugging Face's libraries saved them there.

    Args:
        format: "dense" prefers the dense file.

    Raises:
        UsageError: it is another folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in BEST[::-1] if format == "dense" else BEST:
        if (path / name).is_file():
            return path / name
    for name in _SAVED:
        if (path / name).is_file():
            return path / name
    raise UsageError(
        f"{path} is a folder without {' or '.join(BEST)}; give a checkpoint file or the folder of "
        "a training run"
    )


def is_plan(model: str | os.PathLike[str] | bytes) -> bool:
    """Whether a path, or the bytes of a file, are a compiled plan's: by its name, or how it begins.

    A file that cannot be read is none: its reader says what is wrong.
    """
    if isinstance(model, bytes):
        return model.startswith(PLAN_MAGIC)
    if Path(model).suffix == ".strz":
        return True
    try:
        with open_file(model) as stream:
            return stream.read(len(PLAN_MAGIC)) == PLAN_MAGIC
    except (OSError, ValueError, IntegrityError):
        return False


def write_error(path: str | os.PathLike[str], error: OSError) -> StrzooError:
    """An `OSError` met while writing `path`, as the one-line error a user can act on."""
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return StrzooError(f"cannot write {path}: {reason}")


def refused_error(path: str | os.PathLike[str]) -> StrzooError:
    """The error for a place that `os.access` says may not be written; it does not say why."""
    code = errno.EACCES
    with contextlib.suppress(AttributeError, OSError):  # Windows has no statvfs
        if os.statvfs(Path(path).parent).f_flag & os.ST_RDONLY:
            code = errno.EROFS
    return write_error(path, OSError(code, os.strerror(code)))


def check_destination(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """`path`, after checking that it may be written, before any long work starts.

    Raises:
        StrzooError: it exists and `force` is False, it is a folder, or its folder is missing
            or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise StrzooError(f"cannot write {path}: {_REASONS[errno.EISDIR]}")
    if path.exists() and not force:
        raise StrzooError(f"{path} exists; pass --force (force=True) to overwrite it")
    if not path.parent.is_dir():
        code = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
        raise StrzooError(f"cannot write {path}: {_REASONS[code]}")
    if not os.access(path.parent, os.W_OK):
        raise refused_error(path)
    return path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    On any exception, KeyboardInterrupt included, the temporary file is removed and `path`
    is left as it was. Without `force`, a file that appeared meanwhile is not overwritten.

    Raises:
        StrzooError: the destination is refused (see `check_destination`), or writing failed.
    """
    path = check_destination(path, force=force)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make a private file of their own
        if force:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    except StrzooError as error:  # of what reads it back, by the name it has now
        hide_temporary(error, temporary, path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def hide_temporary(error: StrzooError, temporary: Path, path: Path) -> None:
    """Name `path` in a message instead of the file or folder that was to become it."""
    error.args = tuple(
        part.replace(str(temporary), str(path)).replace(temporary.name, path.name)
        if isinstance(part, str)
        else part
        for part in error.args
    )


def _publish_new(temporary: Path, path: Path) -> None:
    """Give `temporary` its final name unless that name was taken meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise StrzooError(f"{path} exists; pass --force (force=True) to overwrite it") from None
    except OSError:  # a file system without hard links
        check_destination(path)
        os.replace(temporary, path)


def utf8(text: str) -> bytes:
    """`text` as UTF-8. Bytes of a file's name that are none are written as \\udcff and so on: what
    holds such a name remains a text."""
    return text.encode("utf-8", "backslashreplace")


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> Path:
    """Write `text` as UTF-8 to `path`, whole or not at all; `utf8` says how."""
    with atomic_path(path, force=force) as temporary:
        temporary.write_bytes(utf8(text))
    return Path(path)


def refuse_foreign(path: str | os.PathLike[str], wanted: str) -> None:
    """Raise an IntegrityError if `path` is plainly something else than `wanted`, "a checkpoint".

    Known are web pages, which servers send instead of files, and plans of the sparse engine. What
    cannot be read is left to the reader that follows.
    """
    try:
        with open_file(path) as stream:
            head = stream.read(512)
    except (OSError, IntegrityError):
        return
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise IntegrityError(
            f"{path} is a web page, not {wanted}; the server refused the download or asked "
            "for confirmation: fetch it again"
        )
    if head.startswith(PLAN_MAGIC):
        raise IntegrityError(
            f"{path} is a compiled plan of the sparse engine, not {wanted}; give the model that "
            "it was compiled from"
        )


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a regular file's content, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
