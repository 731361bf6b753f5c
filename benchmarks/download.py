"""Throughput of a download: strzoo against plain `requests` streaming the same bytes to disk.

strzoo's time includes hashing, fsync, the lock and the rename; a peer's is `iter_content` into a
file, without fsync. Both run in this process against one loopback server in another process.

    python benchmarks/download.py [--megabytes 100] [--rounds 15]
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests
from harness.record import Record, make_parser
from harness.results import Column
from harness.turns import medians, take_turns, timed

from strzoo.downloads.download import obtain
from strzoo.settings import Settings
from strzoo.zoo.registry import FileCard, ModelCard, get_card

# The usual ways to write it: the everyday snippet, shutil's block, a large block. The last one
# hashes as well, which tells what the hash costs from what the rest of the safety costs.
PEERS = {
    "requests, 8 KiB blocks": (1 << 13, False),
    "requests, 64 KiB blocks": (1 << 16, False),
    "requests, 1 MiB blocks": (1 << 20, False),
    "requests, 1 MiB blocks, and SHA-256": (1 << 20, True),
}
ABOUT = """{megabytes} MB from a loopback server in another process to a file, medians of {rounds}
interleaved rounds after one warm-up round. strzoo's time includes SHA-256, fsync, lock and rename.
A peer is `requests` with `stream=True` and `iter_content` into a file, with the block size named
and without fsync."""

SERVER = """
import http.server, os, sys
size = int(sys.argv[1])
body = os.urandom(1 << 20)
body = b"PK\\x03\\x04" + body[4:]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", '"v1"')
        self.end_headers()
        left = size
        while left:
            left -= self.connection.send(body[:left])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def fetch_with_requests(url: str, path: Path, chunk: int, hashed: bool) -> None:
    hasher = hashlib.sha256()
    with requests.get(url, stream=True, timeout=30) as answer, open(path, "wb") as stream:
        answer.raise_for_status()
        for block in answer.iter_content(chunk):
            stream.write(block)
            if hashed:
                hasher.update(block)


def fetch_with_strzoo(card: ModelCard, folder: Path) -> None:
    obtain(card, "dense", Settings(folder.parent), check=lambda *_: None)


def measure(url: str, rounds: int, folder: Path | None) -> dict[str, list[float]]:
    """Seconds of each way."""
    card = dataclasses.replace(get_card("mobilenetv1_dense"), files={"dense": FileCard(url=url)})
    ways: dict[str, Callable[[Path], None]] = {"strzoo": partial(fetch_with_strzoo, card)}
    for name, (chunk, hashed) in PEERS.items():
        ways[name] = partial(fetch_with_requests, url, chunk=chunk, hashed=hashed)

    def run(way: Callable[[Path], None]) -> float:
        os.sync()  # nobody pays for the bytes of the one before
        with tempfile.TemporaryDirectory(dir=folder) as place:
            return timed(lambda: way(Path(place) / "file"))

    return take_turns({name: partial(run, way) for name, way in ways.items()}, rounds)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: TMP)")
    options = parser.parse_args()
    about = ABOUT.format(megabytes=options.megabytes, rounds=options.rounds)
    record = Record(
        parser, options, "download", "Downloads: throughput on loopback", about,
        packages=["requests", "urllib3", "strzoo"], free=["folder"],
    )  # fmt: skip
    size = options.megabytes * 1_000_000
    command = [sys.executable, "-c", SERVER, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/file.pth"
            seconds = medians(measure(url, options.rounds, options.folder))
        finally:
            server.terminate()
    columns = [Column(""), Column("median", "s", ".3f"), Column("", "MB/s", ".0f")]
    table = record.table([*columns, Column("strzoo's throughput relative to it", "", ".2f")])
    for name, value in seconds.items():
        relative = None if name == "strzoo" else value / seconds["strzoo"]
        table.add(name, value, size / value / 1e6, relative)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
