"""Every checkpoint format, in and out: published .pth, dense safetensors, compact sparse."""

from strzoo.checkpoint.published import check_published, identify
from strzoo.checkpoint.reading import build_checkpoint, map_checkpoint, read_checkpoint
from strzoo.checkpoint.record import Checkpoint
from strzoo.checkpoint.writing import save_checkpoint

__all__ = [
    "Checkpoint",
    "build_checkpoint",
    "check_published",
    "identify",
    "map_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]
