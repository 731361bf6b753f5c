"""The errors strzoo raises. Each carries the exit code the command line ends with.

A message is one line: the bad value, the valid choices, what to do next.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

# What the extras of setup.cfg bring: the packages themselves can be named from a checkout too,
# where `strzoo[engine]` means nothing to pip.
EXTRAS = {
    "engine": ("llvmlite>=0.45",),
    "openvino": ("openvino>=2024.6",),
    "parquet": ("pyarrow>=14",),
    "train": ("tensorboard>=2.14",),
    "plot": ("matplotlib>=3.8",),
    "timm": ("timm>=1.0.12",),
    "lightning": ("lightning>=2.2",),
    "transformers": ("transformers>=4.50", "accelerate>=0.34"),
    "speech": ("torchaudio>=2.6",),
}
_LONGEST = 2000  # characters of a message


class StrzooError(Exception):
    """Base of every error that strzoo raises on purpose. Exit code 1.

    Names from files stand in messages: line breaks, control characters and what is far too long
    are left out.
    """

    exit_code = 1

    def __init__(self, message: str = "", *rest: object) -> None:
        super().__init__(_printable(message) if type(message) is str else message, *rest)


def _printable(text: str) -> str:
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    text = " ".join(part for part in text.splitlines() if part) or "?"
    return "".join(c if c.isprintable() else "?" for c in text)


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


def install_advice(*names: str) -> str:
    """The command that installs packages, or the extra of that name, for this interpreter.

    It works from a checkout, and where another environment's pip comes first on the path.
    """
    import shutil  # slow to import, and seldom needed

    packages = [package for name in names for package in EXTRAS.get(name, (name,))]
    spelled = " ".join(f"'{p}'" if set(p) & set("<>[") else p for p in packages)
    pip = shutil.which("pip")
    here = pip is not None and os.path.dirname(pip) == os.path.dirname(sys.executable)
    return f"{'pip' if here else f'{sys.executable} -m pip'} install {spelled}"


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
            f"{purpose} needs the package {package}, which is not installed: "
            f"{install_advice(package)}"
        ) from None


def one_line(text: str, limit: int = 200) -> str:
    """Text from outside as a message may show it: on one line, printable, at most `limit`
    characters."""
    text = " ".join(text[: 4 * limit].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
