"""Read `.npy` files of numbers that come from outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strzoo.borders import open_file, reading
from strzoo.errors import IntegrityError
from strzoo.settings import Limits


def read_npy(path: Path) -> NDArray[Any]:
    """The array in `path`: integers or floating-point numbers, never objects.

    Raises:
        StrzooError: it cannot be read.
        IntegrityError: it is damaged, no array of numbers, or larger than the limits allow.
    """
    with reading(path, "a .npy file of numbers"):
        with open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            Limits.from_env().check("bytes", size, str(path))
            head = stream.read(12)
            if head[6:7] > b"\1" and int.from_bytes(head[8:12], "little") > size:
                raise ValueError("a header longer than the file")
        # Mapped: a header that lies about the size fails before anything is allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise IntegrityError(f"{path} holds no array of numbers")
        return np.array(array)
