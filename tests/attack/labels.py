"""Label files of every form, beside two images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.attack.case import READ, Case
from tests.attack.texts import _ODD

_FILES: dict[str, dict[str, str | bytes]] = {
    "val.txt": {
        "superscripts": "a.jpg \xb2\nb.jpg \u0663",
        "5,000 digits": f"a.jpg {'9' * 5000}\nb.jpg 1",
        "negative": "a.jpg -1\nb.jpg -2",
        "spaces": "   \n \t \n",
        "one word of 1 MB": "a" * 10**6,
        "images twice": "a.jpg 1\na.jpg 2\n" * 1000,
        "escape codes": "a.jpg \x1b[31mred\nb.jpg \x07",
        "separators": "a.jpg\u20281\nb.jpg\x852",
    },
    "labels.txt": {
        "superscripts": "\xb2\n\xb3", "digits": "9" * 5000 + "\n1", "mixed": "1\nn01440764",
    },
    "ILSVRC2012_validation_ground_truth.txt": {
        "Arabic": "\u0663\n\u0664", "zero": "0\n0", "1001": "1001\n1",
    },
    "LOC_val_solution.csv": {
        "a field of 200,000": "ImageId,PredictionString\na," + "n" * 200_000,
        "quotes": 'ImageId,PredictionString\n"' + "a" * 200_000,
        "no rows": "ImageId,PredictionString\n",
        "other columns": "a,b\n1,2",
        "null characters": "ImageId,PredictionString\na,\0",
    },
    "real.json": {
        "infinite": "[[1e999], [1]]",
        "digits": f"[[{'9' * 5000}]]",
        "negative": "[[-1], [0]]",
        "true": "[[true], [false]]",
        "sets of 100,000": f"[[{','.join(['7'] * 100_000)}], [3]]",
        "3 million sets": "[" + ",".join(["[]"] * 3_000_000) + "]",
    },
    "wnids.txt": {"classes": "n01440764\nn01443537", "unknown": "n00000000\nn99999999"},
}  # fmt: skip


def cases() -> Iterator[Case]:
    for file, contents in _FILES.items():
        for kind, content in (_ODD | contents).items():

            def write(folder: Path, file: str = file, content: str | bytes = content) -> None:
                from tests.data.test_layouts import write as write_images

                write_images(folder, ["a.jpg", "b.jpg"])
                raw = content if isinstance(content, bytes) else content.encode()
                (folder / file).write_bytes(raw)

            yield Case(
                f"labels: {file} {kind}", write, ("evaluate", "@imagenet", "--data", "."), READ
            )
