"""Images that are damaged, absurdly large or long, or something else."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from tests.attack.case import READ, Case

_COMMANDS = itertools.cycle(
    (
        ("predict", "@imagenet", "a.png"),
        ("evaluate", "@cifar", "--data", "."),
        ("export", "@cifar", "-o", "out.onnx", "--precision", "int8", "--images", "."),
        ("predict", "@cifar", ".", "--skip-broken"),
        ("predict", "@onnx", "a.png"),
        ("matrices", "@cifar", "-o", "out", "--images", "."),
    )
)


def _encoded(kind: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of that size whose pixels are missing."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(chunks) + pixels


def _bomb(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def _contents() -> dict[str, bytes]:
    sound = {kind: _encoded(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")}
    found = {
        "empty": b"",
        "zeros": bytes(500),
        "text": b"not an image",
        "html": b"<!DOCTYPE html><p>quota exceeded",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
        "1 x 65500": _encoded("PNG", (1, 65500)),
        "65500 x 1": _encoded("PNG", (65500, 1)),
        "1 x 65500 JPEG": _encoded("JPEG", (1, 65500)),
        "20,000 x 20,000": _encoded("PNG", (20_000, 20_000), "1"),
        "claims 2^31 x 2^31": _png((1 << 31) - 1, (1 << 31) - 1),
        "claims 60,000 x 60,000": _png(60_000, 60_000),
        "claims nothing": _png(0, 0),
        "depth 77": _png(9, 9, depth=77),
        "colour 99": _png(9, 9, colour=99),
        "comment bomb": _png(9, 9, _chunk(b"zTXt", b"a\0\0" + _bomb(100 << 20))),
        "profile bomb": _png(9, 9, _chunk(b"iCCP", b"a\0\0" + _bomb(100 << 20))),
        "100,000 chunks": _png(9, 9, _chunk(b"tEXt", b"a\0b") * 100_000),
        "palette missing": _png(9, 9, colour=3),
        "TIFF that points to itself": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
        "TIFF with 65535 entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(400),
        "GIF of 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(60),
        "BMP of -2^31": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 1 << 30, -(1 << 31),
                                             1, 24, 0, 0, 0, 0, 0, 0),
        "JPEG of markers": b"\xff\xd8" + b"\xff\xe1\xff\xff" * 50,
        "ICO of itself": b"\0\0\x01\0\x01\0\0\0\0\0\0\0\0\0\0\xff\0\0\0\0\0\0",
        "WebP of 2^32": b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(50),
        "PPM of 10^18": b"P6 1000000000 1000000000 255\n",
        "one bit": _encoded("PNG", (40, 30), "1"),
        "CMYK": _encoded("JPEG", (40, 30), "CMYK"),
        "floating point": _encoded("TIFF", (40, 30), "F"),
    }  # fmt: skip
    for kind, content in sound.items():
        half = len(content) // 2
        found[f"{kind} cut"] = content[:half]
        found[f"{kind} zeroed"] = content[:half] + bytes(len(content) - half)
        found[f"{kind} inverted"] = content[:10] + bytes(b ^ 0xFF for b in content[10:])
    return found


def _places() -> dict[str, Callable[[Path], object]]:
    import os
    import socket

    def bind(path: Path) -> None:
        listening = socket.socket(socket.AF_UNIX)
        before = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is limited to 108 characters
        listening.bind(path.name)
        os.chdir(before)
        listening.close()

    return {
        "a FIFO": os.mkfifo,
        "a socket": bind,
        "a device by link": lambda path: os.symlink("/dev/zero", path),
        "a loop": lambda path: os.symlink(path.name, path),
        "a link to nothing": lambda path: os.symlink("none", path),
        "a folder": lambda path: path.mkdir(),
        "a folder in itself": lambda path: os.symlink(".", path),
        "a link to a secret": lambda path: os.symlink("/etc/shadow", path),
        "without permission": lambda path: (path.write_bytes(b"x"), path.chmod(0)),
    }


def cases() -> Iterator[Case]:
    for name, content in _contents().items():
        for command in (next(_COMMANDS), next(_COMMANDS)):

            def write(folder: Path, content: bytes = content) -> None:
                (folder / "a.png").write_bytes(content)

            yield Case(
                f"image: {name} ({command[0]})",
                write,
                command,
                (*READ, 6),
                ("out", "out.onnx", "out.onnx.json"),
            )
    for name, make in _places().items():
        for command in (
            ("predict", "@imagenet", "a.png"),
            ("evaluate", "@cifar", "--data", "."),
            ("evaluate", "@cifar", "--data", "a.png"),
            ("export", "@cifar", "-o", "out.onnx", "--precision", "int8", "--images", "."),
        ):

            def write_place(folder: Path, make: Callable[[Path], object] = make) -> None:
                make(folder / "a.png")

            shown = " ".join((command[0], command[-1]))
            yield Case(f"image: {name} ({shown})", write_place, command)
