"""What becomes of an exception that nothing expected: one line, and the traceback in a log file.

Nothing here may fail in turn: where no file can be written, the line says that.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from strzoo.errors import one_line
from strzoo.version import VERSION

FOLDER = "logs"  # in the cache folder


def describe_defect(error: BaseException, arguments: Sequence[str] | None = None) -> str:
    """The line that asks for a report of `error`, whose traceback is written to a file.

    Args:
        error: what was raised.
        arguments: of the command line, for the file; by default those of this process.

    Returns:
        The line, which names the file. It is in the cache folder if there is one, else among the
        temporary files, and only its owner may read it.
    """
    try:
        cause = one_line(f"{type(error).__name__}: {error}")
    except Exception:  # the exception's own text may raise
        cause = type(error).__name__
    log = _write_log(error, arguments)
    where = f"with the file {log}" if log else "(no file could be written for its traceback)"
    return f"unexpected {cause}; this is a defect of strzoo, please report it {where}"


def _write_log(error: BaseException, arguments: Sequence[str] | None) -> Path | None:
    for find_folder in (_cache_logs, lambda: Path(tempfile.gettempdir())):
        with contextlib.suppress(Exception):
            descriptor, name = tempfile.mkstemp(".log", "strzoo-error-", find_folder())
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                given = sys.argv[1:] if arguments is None else arguments
                stream.write(f"strzoo {VERSION}, Python {platform.python_version()}, ")
                stream.write(f"{platform.platform()}\narguments: {list(given)!r}\n\n")
                stream.write("".join(traceback.format_exception(error)))
            return Path(name)
    return None


def _cache_logs() -> Path:
    """The folder of logs in the cache folder, which must exist."""
    from strzoo.settings import Settings

    folder = Settings.from_env().cache_dir / FOLDER
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    return folder
