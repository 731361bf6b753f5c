"""Sparse matrices as files: CSR in .npz, Matrix Market .mtx, and DLMC's .smtx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMATS = ("npz", "mtx", "smtx")


class CSR:
    """A matrix [rows, columns] in compressed sparse rows; values that are zero are left out."""

    def __init__(self, dense: NDArray[np.float32]) -> None:
        self.shape: tuple[int, int] = (dense.shape[0], dense.shape[1])
        rows, columns = np.nonzero(dense)
        self.rows: NDArray[Any] = rows
        self.indices: NDArray[np.int32] = columns.astype(np.int32)
        self.data: NDArray[np.float32] = dense[rows, columns]
        counts = np.bincount(rows, minlength=self.shape[0])
        self.indptr: NDArray[np.int32] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    @property
    def nonzeros(self) -> int:
        return len(self.data)


def write_matrix(matrix: CSR, path: Path, format: str) -> None:
    """Write `matrix` to `path` in one of `FORMATS`. The layouts are in docs/onnx.md."""
    {"npz": _write_npz, "mtx": _write_mtx, "smtx": _write_smtx}[format](matrix, path)


def _write_npz(matrix: CSR, path: Path) -> None:
    """The arrays that scipy.sparse.load_npz reads."""
    np.savez_compressed(
        path,
        format=np.array(b"csr"),
        shape=np.array(matrix.shape),
        indptr=matrix.indptr,
        indices=matrix.indices,
        data=matrix.data,
    )


def _write_mtx(matrix: CSR, path: Path) -> None:
    """Coordinates from 1 and values, nine digits: fp32 comes back bit for bit."""
    rows, columns = matrix.shape
    with path.open("w", encoding="ascii") as stream:
        stream.write("%%MatrixMarket matrix coordinate real general\n")
        stream.write(f"{rows} {columns} {matrix.nonzeros}\n")
        entries = zip(
            (matrix.rows + 1).tolist(),
            (matrix.indices + 1).tolist(),
            matrix.data.tolist(),
            strict=True,
        )
        stream.writelines(f"{row} {column} {value:.9g}\n" for row, column, value in entries)


def _write_smtx(matrix: CSR, path: Path) -> None:
    """The pattern alone: sizes, row offsets, column indices from 0."""
    rows, columns = matrix.shape
    with path.open("w", encoding="ascii") as stream:
        stream.write(f"{rows}, {columns}, {matrix.nonzeros}\n")
        for values in (matrix.indptr, matrix.indices):
            stream.write(" ".join(map(str, values.tolist())) + "\n")
