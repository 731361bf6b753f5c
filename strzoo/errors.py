"""The errors strzoo raises. Each carries the exit code the command line ends with.

A message is one line: the bad value, the valid choices, what to do next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class StrzooError(Exception):
    """Base of every error that strzoo raises on purpose. Exit code 1."""

    exit_code = 1


class UsageError(StrzooError, ValueError):
    """An argument is not one of the valid choices. Exit code 2."""

    exit_code = 2


class UnknownNameError(UsageError, LookupError):
    """No model, budget or layer has that name, or several do. Exit code 2."""


class NetworkError(StrzooError):
    """A download failed, or a server refused it (quota, permission). Exit code 3."""

    exit_code = 3


class IntegrityError(StrzooError):
    """A file is not what it should be: damaged, foreign, wrong keys or values. Exit code 4."""

    exit_code = 4


class OfflineError(StrzooError):
    """The network is off and the file is not in the cache. Exit code 5."""

    exit_code = 5


class VerificationError(StrzooError):
    """A computed result differs from the expected one. Exit code 6."""

    exit_code = 6


class CancelledError(StrzooError):
    """The caller cancelled the work. Exit code 130."""

    exit_code = 130


@contextlib.contextmanager
def required(package: str, purpose: str) -> Iterator[None]:
    """Around imports of a package that only some work needs: say so if it is not installed.

    Args:
        package: the name that is imported and installed.
        purpose: what needs it, the first words of the message.

    Raises:
        StrzooError: an import in the block failed because the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise StrzooError(
            f"{purpose} needs the package {package}, which is not installed: pip install {package}"
        ) from None


def one_line(text: str, limit: int = 200) -> str:
    """Text from outside as a message may show it: on one line, printable, at most `limit`
    characters."""
    text = " ".join(text[: 4 * limit].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
