"""One hostile input: how it is written, the command that meets it, how that may end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REFUSED = (1, 2, 4)  # error, usage, integrity
READ = (0, *REFUSED)  # whatever it is: harmless


@dataclass(frozen=True)
class Case:
    """Args:
    name: family and kind, "checkpoint: bytearray of 8 GB".
    write: writes it into an empty folder, in which the command then runs.
    command: the command line; "@cifar", "@imagenet", "@image", "@onnx" and "@sequences" stand for
        sound files that all cases share.
    codes: the exit codes that it may have.
    makes: names in the folder that the command may leave.
    said: what the one line must say.
    """

    name: str
    write: Callable[[Path], object]
    command: tuple[str, ...]
    codes: tuple[int, ...] = REFUSED
    makes: tuple[str, ...] = ()
    said: str = ""


def text_cases(
    family: str, name: str, command: str, contents: dict[str, str | bytes], codes: tuple[int, ...]
) -> Iterator[Case]:
    """A case for each content of the file `name`."""
    for kind, content in contents.items():

        def write(folder: Path, content: str | bytes = content) -> None:
            raw = (
                content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            )
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw)

        yield Case(f"{family}: {kind}", write, tuple(command.split()), codes)
