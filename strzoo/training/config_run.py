"""The keys of a training configuration about the machine and the run folder."""

from __future__ import annotations

from dataclasses import dataclass

from strzoo.training.keys import (
    FIXED,
    FREE,
    NOT_NEGATIVE,
    POSITIVE,
    key,
)

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class RunKeys:
    """The keys of a training configuration about the machine and the run folder."""

    device: str | None = key(
        None, "cpu, cuda or cuda:N; none: a GPU if there is one", resuming=FREE
    )
    threads: int | None = key(
        None,
        "of a CPU; none: torch's number, and 1 for small images",
        within=POSITIVE,
        resuming=FREE,
    )
    precision: str = key("auto", "auto is fp32 on the CPU and tf32 on a GPU", choices=PRECISIONS)
    channels_last: bool = key(True, "memory layout of weights and images")
    compile: bool = key(False, "torch.compile the network")
    sync_batchnorm: bool = key(False, "BatchNorm statistics over all processes")
    seed: int = key(0, "of weights, order and augmentation", resuming=FIXED)

    output: str | None = key(None, "run folder; none: runs/RECIPE", resuming=FREE)
    resume: str | None = key(
        None, "auto: go on if the run folder has a checkpoint; or a file", resuming=FREE
    )
    checkpoint_every: int = key(
        0, "steps between checkpoints, besides the end of each epoch",
        within=NOT_NEGATIVE, resuming=FREE,
    )  # fmt: skip
    keep_every: int = key(
        0, "epochs between checkpoints that are kept as epoch_N.pth; 0 keeps none",
        within=NOT_NEGATIVE, resuming=FREE,
    )  # fmt: skip
    log_every: int = key(50, "steps between log lines and scalars", within=POSITIVE, resuming=FREE)
    tensorboard: bool = key(True, "write TensorBoard scalars (extra strzoo[train])", resuming=FREE)
