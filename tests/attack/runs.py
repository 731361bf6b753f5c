"""Run folders, and evaluations that go on from a file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.attack.case import READ, Case
from tests.attack.sequences import _contents
from tests.attack.texts import _ODD

_RESULTS = "epoch,candidate,top1,sparsity\n"
_FILES: dict[str, dict[str, str | bytes]] = {
    "report.json": {
        "no best": '{"recipe": "a"}',
        "best infinite": '{"recipe": "a", "best": {"epoch": 1e999, "top1": 1, "sparsity": 1}}',
        "best of words": '{"recipe": [1], "best": {"epoch": "x", "top1": 1, "sparsity": 1}}',
        "best a number": '{"recipe": "a", "best": 7}',
    },
    "results.csv": {
        "epoch of words": _RESULTS + "x,True,1,1\n",
        "epoch of 5,000 digits": _RESULTS + "9" * 5000 + ",True,1,1\n",
        "a field of 200,000": _RESULTS + "1,True," + "1" * 200_000 + ",1\n",
        "short rows": _RESULTS + "1\n",
    },
    "result.json": {
        "ranks of words": '{"config": {"rank_w": "learned", "rank_u": 1, "dataset": "a"}, '
        '"by_rank": [{"rank_w": ["x"], "rank_u": [1], "epoch": 1, "top1": 1}]}',
        "ranks infinite": '{"config": {"rank_w": "learned", "rank_u": 1, "dataset": "a"}, '
        '"by_rank": [{"rank_w": [1e999], "rank_u": [1], "epoch": 1, "top1": 1}]}',
        "by_rank a number": '{"config": {"rank_w": 1, "rank_u": 1}, "by_rank": 1}',
    },
}


def _npz(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def cases() -> Iterator[Case]:
    for file, contents in _FILES.items():
        table = "3" if file == "result.json" else "1"
        for kind, content in (_ODD | contents).items():

            def write(folder: Path, file: str = file, content: str | bytes = content) -> None:
                (folder / "config.yaml").write_text("recipe: digits_str\n")
                raw = content if isinstance(content, bytes) else content.encode()
                (folder / file).write_bytes(raw)

            yield Case(f"run: {file} {kind}", write, ("paper", table, "--runs", "."), READ)
    text = np.array(json.dumps(["x"]))
    stream = io.BytesIO()
    np.save(stream, text)
    progress = {
        "empty": b"",
        "words": b"words",
        "no members": _npz({}),
        "another run": _npz({"identity.npy": stream.getvalue()}),
        "a bomb": _npz({"identity.npy": bytes(300 << 20)}, zipfile.ZIP_DEFLATED),
        **{f"identity {k}": _npz({"identity.npy": v}) for k, v in _contents().items()},
    }
    for kind, content in progress.items():

        def write_progress(folder: Path, content: bytes = content) -> None:
            from PIL import Image

            (folder / "images").mkdir()
            for index in range(10):
                (folder / f"images/{index}").mkdir()
                Image.new("RGB", (8, 8)).save(folder / f"images/{index}/a.png")
            (folder / "p.0").write_bytes(content)

        command = ("evaluate", "@cifar", "--data", "images", "--resume", "p", "--workers", "0")
        yield Case(f"progress: {kind}", write_progress, command)
