"""load: a `.strz` file as a `SparseModel`. Needs neither torch nor onnx."""

from __future__ import annotations

import os
import time
from pathlib import Path

from strzoo.arguments import checked
from strzoo.engine.hardware import check_threads
from strzoo.engine.runtime.model import SparseModel
from strzoo.engine.runtime.plan_files import PlanFileBuilder
from strzoo.errors import UsageError
from strzoo.settings import Settings


@checked
def load(
    path: str | os.PathLike[str] | bytes,
    threads: int | None = None,
    batch: int = 1,
    *,
    native: bool = False,
    cache: bool = True,
    settings: Settings | None = None,
) -> SparseModel:
    """A compiled network from a `.strz` file, as `strzoo.compile` gives it.

    Args:
        path: of the file, or its bytes.
        threads: that a call uses; by default what the file was made for.
        batch: the batch size to be ready for; any other works too.
        native: whether you trust the file: machine code in it is run, if it is for this processor,
            and llvmlite is not needed.
        cache: whether machine code is kept in the cache folder and found there.
        settings: cache folder and limits; from the environment by default.

    Returns:
        The compiled model.

    Raises:
        UsageError: an argument is not valid.
        StrzooError: the file cannot be read, or llvmlite is needed and not installed.
        IntegrityError: it is damaged, or made by another version or for another processor.
    """
    started = time.perf_counter()
    check_threads(threads)
    if batch < 1:
        raise UsageError(f"batch is {batch}; it must be a whole number, at least 1")
    settings = settings or Settings.from_env()
    folder = settings.cache_dir / "engine" if cache else None
    given = path if isinstance(path, bytes) else Path(path)
    builder = PlanFileBuilder.open(given, None, threads, folder, native=native)
    return SparseModel(builder, batch, started=started)
