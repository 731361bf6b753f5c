"""Bodies that pass for a checkpoint at first sight and claim more than they hold."""

from __future__ import annotations

import importlib.util
import io
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from strzoo.downloads.cache import check_content
from strzoo.downloads.download import import_file
from strzoo.errors import IntegrityError
from strzoo.settings import Settings
from tests.helpers.download_helpers import FILENAME, MODEL, fetch, serving
from tests.helpers.published import dense_state, write_published

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("strzoo.checkpoint.raw") is None,
    reason="needs the reader of checkpoints that compares claims with what the file holds",
)


def with_classes(count: int, *, old: bool) -> bytes:
    """A MobileNetV1 whose classifier repeats one row `count` times: stride 0, no bytes."""
    state = dense_state()
    state["fc.weight"] = torch.zeros(1, 1024, 1, 1).expand(count, 1024, 1, 1)
    made = io.BytesIO()
    torch.save({"state_dict": state}, made, _use_new_zipfile_serialization=not old)
    return made.getvalue()


def deflated(size: int) -> bytes:
    """A zip file with a member of `size` zeros in a thousandth of the bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"state_dict": {}}, 2))
        archive.writestr("model/version", "3\n")
        with archive.open("model/data/0", "w", force_zip64=True) as member:
            for _ in range(size >> 24):
                member.write(bytes(1 << 24))
    return made.getvalue()


def allocating(size: int) -> bytes:
    """A pickle that asks for a `bytearray` of `size` bytes."""

    class Claim:
        def __reduce__(self):
            return bytearray, (size,)

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"state_dict": {"fc.weight": Claim()}}, 2))
        archive.writestr("model/version", "3\n")
    return made.getvalue()


BODIES: dict[str, Callable[[], bytes]] = {
    "10^12 classes": lambda: with_classes(10**12, old=False),
    "10^12 classes, old pickle": lambda: with_classes(10**12, old=True),
    "3 million classes": lambda: with_classes(3_000_000, old=False),
    "1 GB of zeros deflated": lambda: deflated(1 << 30),
    "8 GB of bytes": lambda: allocating(8 << 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_claims_more_than_it_holds_is_refused_and_leaves_nothing(tmp_path, kind):
    body = BODIES[kind]()
    cache, file = tmp_path / "cache", tmp_path / "by hand"
    file.write_bytes(body)
    start = time.monotonic()
    with serving(payload=body) as stub, pytest.raises(IntegrityError) as raised:
        fetch(stub, cache, check=check_content)
    for name in (None, MODEL):
        with pytest.raises(IntegrityError, match="by hand"):
            import_file(file, name, settings=Settings(cache))
    assert time.monotonic() - start < 20
    assert "\n" not in str(raised.value)
    assert not cache.exists()


def test_an_honest_body_of_the_same_kind_is_taken(tmp_path: Path) -> None:
    write_published(tmp_path / "honest.pth", dense_state(), old_pickle=True)
    with serving(payload=(tmp_path / "honest.pth").read_bytes()) as stub:
        fetched = fetch(stub, tmp_path / "cache", check=check_content)
    assert fetched.file.path.name == FILENAME
