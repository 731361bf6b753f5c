"""What the download tests share: cards of served files, quick network settings, a cheap check."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strzoo.downloads.download import Fetched, obtain
from strzoo.downloads.web import Network
from strzoo.errors import IntegrityError
from strzoo.settings import Settings
from strzoo.zoo.registry import FileCard, ModelCard, get_card
from tests.helpers.drive_stub import DriveStub, Fault, is_payload, make_payload, serve

MODEL = "mobilenetv1_dense"
FILENAME = f"{MODEL}-dense.pth"
ROOT = Path(__file__).resolve().parents[2]
DRIVE_ID = "1uk3OE6P5rvO2wd9Oc9_zCF7zz6VlIXew"
CLOSED = "http://127.0.0.1:9"
QUICK: dict[str, Any] = {
    "backoff": 0.01,
    "read_timeout": 0.5,
    "connect_timeout": 2.0,
    "total_time": 20.0,
}


def card_for(
    *, url: str | None = None, bytes: int | None = None, sha256: str | None = None
) -> ModelCard:
    """The card of a real model whose file is on the stand-in for Drive, or at `url`."""
    file = FileCard(drive_id=None if url else DRIVE_ID, url=url, bytes=bytes, sha256=sha256)
    return dataclasses.replace(get_card(MODEL), files={"dense": file})


def check_payload(path: Path, card: ModelCard, format: str) -> None:
    """Stands for loading the file: it must be whole."""
    if not is_payload(path.read_bytes()):
        raise IntegrityError(f"{path} does not load")


def fetch(stub: DriveStub | None, cache: Path, card: ModelCard | None = None, **options) -> Fetched:
    """`obtain` from the stub, with quick time-outs; `network` overrides some of them."""
    drive = {"drive": stub.address if stub else CLOSED}  # never the real one
    network = Network(**{**QUICK, **drive, **options.pop("network", {})})
    settings = Settings(
        cache, offline=options.pop("offline", False), mirrors=tuple(options.pop("mirrors", ()))
    )
    options.setdefault("check", check_payload)
    return obtain(card or card_for(), "dense", settings, network=network, **options)


@contextlib.contextmanager
def serving(size: int = 300_000, **options) -> Iterator[DriveStub]:
    with serve(DriveStub(options.pop("payload", None) or make_payload(size), **options)) as stub:
        yield stub


def partials(cache: Path) -> list[Path]:
    return sorted((cache / "staging").glob("*")) if (cache / "staging").is_dir() else []


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def start_child(stub: DriveStub, cache: Path, **options) -> subprocess.Popen[str]:
    """A process that downloads the stub's file; see `download_child.py`."""
    arguments = {"address": stub.address, "cache": str(cache), **options}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.download_child", json.dumps(arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def status(code: int, page: str = "", **headers: str) -> Fault:
    return Fault("status", status=code, page=page, headers=tuple(headers.items()))
