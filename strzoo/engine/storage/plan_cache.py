"""Compiled plans kept on disk between runs: `<cache>/engine/<key>.strz`, beside machine code.

A plan is found by what it depends on: the network's content, the input size, the processor, the
engine's own source, images, threads, tuning and precision. A plan that cannot be read is made
again. Where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from strzoo.engine.hardware import Hardware
from strzoo.engine.storage.plan_files import SUFFIX, PlanFile, read_plans, write_plans
from strzoo.engine.storage.private_folder import make_private, open_private
from strzoo.errors import StrzooError
from strzoo.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanKey:
    """What a cached plan was made from; `network` is the `identity` of a `Network`, `precision`
    that of a `Precision`, or "fp32"."""

    network: str
    images: int
    threads: int
    tuned: float
    precision: str = "fp32"


class PlanCache:
    """The plans in one folder; `folder` None keeps none."""

    def __init__(self, folder: Path | None, hardware: Hardware) -> None:
        self.folder, self._hardware = folder, hardware

    def find(self, key: PlanKey) -> PlanFile | None:
        """The plan of that key; None if there is none that can be used."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return read_plans(path, self._hardware)
        except StrzooError as error:
            log.warning("%s; it is made again", error)
            return None

    def keep(self, key: PlanKey, content: Callable[[], PlanFile]) -> None:
        """Write a plan, if it can be written."""
        path = self._path(key)
        if path is None:
            return
        try:
            make_private(path.parent)
            write_plans(path, content(), force=True)
        except (OSError, StrzooError) as error:
            log.warning("the compiled plan is not kept: %s", error)

    def _path(self, key: PlanKey) -> Path | None:
        folder = open_private(self.folder)
        if folder is None:
            return None
        parts: dict[str, Any] = {
            "strzoo": VERSION,
            "engine": engine_digest(),
            "hardware": asdict(self._hardware),
            **asdict(key),
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return folder / f"{digest[:32]}{SUFFIX}"


@lru_cache(maxsize=1)
def engine_digest() -> str:
    """The hash of the engine's source, so that plans of another version are not used."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent.parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
