"""Throughput of a download: strzoo against plain `requests` streaming the same bytes to disk.

strzoo's time includes hashing, fsync, the lock and the rename; a peer's is `iter_content` into a
file, without fsync. Both run in this process against one loopback server in another process.

    python benchmarks/download.py [--megabytes 100] [--rounds 9]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from strzoo.downloads.download import obtain
from strzoo.settings import Settings
from strzoo.zoo.registry import FileCard, ModelCard, get_card

# The usual ways to write it: the everyday snippet, shutil's block, a large block. The last one
# hashes as well, which tells what the hash costs from what the rest of the safety costs.
PEERS = {
    "requests 8 KiB": (1 << 13, False),
    "requests 64 KiB": (1 << 16, False),
    "requests 1 MiB": (1 << 20, False),
    "requests 1 MiB + sha256": (1 << 20, True),
}

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
    obtain(card, "dense", Settings(folder), check=lambda *_: None)


def measure(url: str, rounds: int, folder: Path) -> dict[str, list[float]]:
    card = dataclasses.replace(get_card("mobilenetv1_dense"), files={"dense": FileCard(url=url)})
    seconds: dict[str, list[float]] = {name: [] for name in ["strzoo", *PEERS]}
    for index in range(rounds + 1):
        for name, taken in seconds.items():
            os.sync()  # nobody pays for the bytes of the one before
            with tempfile.TemporaryDirectory(dir=folder) as place:
                start = time.perf_counter()
                if name == "strzoo":
                    fetch_with_strzoo(card, Path(place))
                else:
                    fetch_with_requests(url, Path(place) / "file", *PEERS[name])
                if index:  # the first round warms up
                    taken.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: TMP)")
    arguments = parser.parse_args()
    size = arguments.megabytes * 1_000_000
    command = [sys.executable, "-c", SERVER, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/file.pth"
            seconds = measure(url, arguments.rounds, arguments.folder)
        finally:
            server.terminate()
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    result = {
        "megabytes": arguments.megabytes,
        "rounds": arguments.rounds,
        "median_s": {name: round(value, 4) for name, value in medians.items()},
        "MB_per_s": {name: round(size / value / 1e6) for name, value in medians.items()},
        "ratio": {name: round(medians[name] / medians["strzoo"], 3) for name in PEERS},
        "python": platform.python_version(),
        "requests": requests.__version__,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
