"""The result as rows: a results file that grows, accuracy by class, predictions by image."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from strzoo.errors import IntegrityError, UsageError
from strzoo.evaluation.results import EvalResult, find_hits
from strzoo.files import check_destination, refused_error, utf8, write_error, write_text

COLUMNS = (
    "model",
    "top1",
    "top5",
    "top1_low",
    "top1_high",
    "published_top1",
    "difference",
    "loss",
    "images",
    "correct_top1",
    "correct_top5",
    "subset_top1",
    "broken",
    "layout",
    "data",
    "precision",
    "device",
    "decoder",
    "batch_size",
    "workers",
    "processes",
    "images_per_second",
    "seconds",
    "weights_sha256",
    "versions",
)


def append_row(result: EvalResult, path: str | os.PathLike[str]) -> None:
    """Add one row to a results file; a new one gets the header.

    Raises:
        IntegrityError: the file exists and its columns are others.
        StrzooError: it cannot be written.
    """
    path = Path(path)
    check_results_file(path)
    try:
        made = not path.exists()
        new = made or path.stat().st_size == 0
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(_row(result))
        # One write in append mode: rows of processes that end together do not mix.
        with open(path, "ab", buffering=0) as stream:
            _append(stream, utf8(text.getvalue()), path if made else None)
    except OSError as error:
        raise write_error(path, error) from error


def _append(stream: io.FileIO, row: bytes, made: Path | None) -> None:
    """Add a row whole or not at all; `made` is the file if it was made for that row."""
    written = 0
    try:
        while written < len(row):
            written += stream.write(row[written:]) or 0
    except OSError:
        size = os.fstat(stream.fileno()).st_size
        if made is not None and size == written:  # nobody else has added a row meanwhile
            made.unlink(missing_ok=True)
        elif written and stream.tell() == size:
            stream.truncate(size - written)
        raise


def check_results_file(path: Path) -> None:
    """Before the long work: may a row be added to this file?

    Raises:
        UsageError: its folder does not exist.
        IntegrityError: it exists and its columns are others.
        StrzooError: it, or its folder, may not be written.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"{path} cannot be a results file: name a file in an existing folder")
    check_destination(path, force=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise refused_error(path)
    if path.exists() and path.stat().st_size:
        with open(path, encoding="utf-8", errors="replace", newline="") as stream:
            found = stream.readline(4096).strip()
        if found != ",".join(COLUMNS):
            raise IntegrityError(
                f"{path} has other columns ({found[:60]}); name another file for --csv"
            )


def write_per_class(
    result: EvalResult, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """A CSV with images, right ones and accuracy (percent) of each class. Errors as
    `strzoo.files.write_text`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "name", "images", "correct_top1", "correct_top5", "top1", "top5"))
    for row in result.per_class():
        shares = (100 * row.correct_top1 / row.images, 100 * row.correct_top5 / row.images)
        writer.writerow(
            (
                *(row.index, row.name, row.images, row.correct_top1, row.correct_top5),
                *(f"{share:.4f}" for share in shares),
            )
        )
    write_text(path, text.getvalue(), force=force)


def write_predictions(
    result: EvalResult, path: str | os.PathLike[str], *, force: bool = False
) -> None:
    """A CSV with label (several joined by a space), verdict and the five best classes of each
    image; an unreadable one has none. Errors as `strzoo.files.write_text`."""
    if result.ranked is None or result.labels is None:
        raise UsageError("per-image predictions need a data set, not loose batches")
    hits = find_hits(result.ranked.numpy(), result.labels.numpy())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "right", *(f"class{i}" for i in range(1, 6))))
    rows = zip(
        result.names, result.labels.tolist(), hits[:, 0], result.ranked.tolist(), strict=True
    )
    for name, labels, right, ranked in rows:
        accepted = " ".join(str(label) for label in labels if label >= 0)
        best = [str(index) if index >= 0 else "" for index in ranked]
        writer.writerow((name, accepted, int(right), *best))
    write_text(path, text.getvalue(), force=force)


def _row(result: EvalResult) -> tuple[object, ...]:
    low, high = result.interval
    subset = result.subset
    values: dict[str, object] = {
        "model": result.model,
        "top1": f"{result.top1:.4f}",
        "top5": f"{result.top5:.4f}",
        "top1_low": f"{low:.4f}",
        "top1_high": f"{high:.4f}",
        "published_top1": "" if result.published_top1 is None else result.published_top1,
        "difference": "" if result.difference is None else f"{result.difference:.4f}",
        "loss": f"{result.loss:.6f}",
        "images": result.images,
        "correct_top1": result.correct_top1,
        "correct_top5": result.correct_top5,
        "subset_top1": f"{100 * subset.correct_top1 / result.images:.4f}" if subset else "",
        "broken": len(result.broken),
        "layout": result.layout,
        "data": result.data,
        "precision": result.precision,
        "device": result.device,
        "decoder": result.decoder,
        "batch_size": result.batch_size,
        "workers": result.workers,
        "processes": result.processes,
        "images_per_second": f"{result.images_per_second:.2f}",
        "seconds": f"{result.timing.total:.2f}",
        "weights_sha256": result.weights_sha256,
        "versions": " ".join(f"{name}={value}" for name, value in result.versions.items()),
    }
    return tuple(values[column] for column in COLUMNS)
