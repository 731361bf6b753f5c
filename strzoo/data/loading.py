"""Samples as batches: decoded in worker processes as bytes, moved and normalised on the device."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from strzoo.data.device_resize import resize_and_crop
from strzoo.data.images import BrokenImageError, decode, open_image, prepare, resized_size
from strzoo.data.samples import Samples, Source
from strzoo.errors import StrzooError, UsageError
from strzoo.zoo.registry import Preprocessing

DECODERS = ("pil", "device")
Transform = Callable[[Image.Image, int], np.ndarray]
_NICE = 10  # workers yield to the network where both share the processor


@dataclass
class Batch:
    """Samples `indices` [B]. `pixels` is uint8 [B, crop, crop, 3]; rows of `encoded` images (left
    to the device to decode) and of `broken` ones are black until filled in. `seconds` is what
    decoding took in the worker."""

    indices: Tensor
    pixels: Tensor
    encoded: dict[int, Tensor] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.indices)

    def pin_memory(self) -> Batch:
        """Called by the loader, so that the copy to the device runs beside other work."""
        return replace(self, pixels=self.pixels.pin_memory())


class _Decoding(Dataset[Batch]):
    """The work of the worker processes: a list of sample numbers in, a batch out."""

    def __init__(
        self, source: Source, steps: Preprocessing, decoder: str, transform: Transform | None
    ) -> None:
        self._source, self._steps, self._decoder = source, steps, decoder
        self._transform = transform

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        start = time.perf_counter()
        crop = self._steps.crop
        batch = Batch(
            torch.tensor(indices), torch.zeros(len(indices), crop, crop, 3, dtype=torch.uint8)
        )
        rows = batch.pixels.numpy()
        for row, index in enumerate(indices):
            try:
                content = self._source.read(index)
                if self._transform is not None:
                    rows[row] = self._transform(decode(content), index)
                elif self._decoder == "device" and is_plain_jpeg(content, self._steps):
                    # bytearray: the tensor must own memory that may be written to
                    batch.encoded[row] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                else:
                    rows[row] = prepare(decode(content), self._steps)
            except BrokenImageError as error:
                batch.broken[row] = str(error)
            except (StrzooError, OSError) as error:  # a missing file is broken data as well
                batch.broken[row] = " ".join(str(error).split())
        batch.seconds = time.perf_counter() - start
        return batch


def is_plain_jpeg(content: bytes | np.ndarray, steps: Preprocessing) -> bool:
    """Whether an image is a JPEG of one or three channels, which devices decode alike, and not so
    large or narrow that it may not be resized."""
    if not isinstance(content, bytes) or content[:2] != b"\xff\xd8":
        return False
    try:
        with open_image(content) as image:
            resized_size(image.size, steps.resize)
            return image.format == "JPEG" and image.mode in ("RGB", "L")
    except Exception:  # decode() says what is wrong with it
        return False


def load_batches(
    samples: Samples,
    indices: Sequence[int],
    steps: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    decoder: str = "pil",
    transform: Transform | None = None,
) -> Generator[Batch, None, None]:
    """Batches of the samples `indices`, in their order, as `workers` processes decode them.

    Args:
        samples, indices: what to load.
        steps: resize and crop.
        batch_size: images per batch; the last can be smaller.
        workers: processes; 0 decodes in this one.
        device: "cuda" pins the memory; with "cpu" the workers yield to the network.
        decoder: "pil", or "device" to leave plain JPEGs encoded (see `decode_on_device`).
        transform: instead of resize and crop: from an RGB image and its sample number to uint8
            [crop, crop, 3]. Travels to the workers.

    The workers end when the generator is exhausted or closed.

    Raises:
        StrzooError: a worker died.
    """
    order = [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
    if not order:
        return
    workers = min(workers, len(order))
    options: dict[str, Any] = {}
    if workers:
        options = {
            "prefetch_factor": max(2, -(-4 // workers)),
            "worker_init_fn": partial(_start_worker, device.type == "cpu"),
        }
        # A forked worker must not collect what is garbage here: of an onnxruntime session it would
        # wait for threads that it does not have.
        gc.collect()
    with warnings.catch_warnings():
        # Python warns of forking a process with threads; the workers touch none of them.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
        # torch advises fewer workers than asked for; the user's choice stands.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        batches = iter(
            DataLoader(
                _Decoding(samples.source, steps, decoder, transform),
                batch_size=None,
                sampler=order,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # else it would draw from the global one
                **options,
            )
        )
    try:
        with explained_deaths():
            yield from batches
    finally:
        del batches  # its workers end now, not when the garbage is collected


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(share: bool, _worker: int) -> None:
    torch.set_num_threads(1)
    if share and hasattr(os, "nice"):
        os.nice(_NICE)


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Worker processes for each of `processes`: the cores this process may use, shared."""
    count = getattr(os, "sched_getaffinity", None)
    cores = len(count(0)) if count else os.cpu_count() or 1
    return max(1, cores // processes)


def shard(indices: Sequence[int], rank: int, world: int) -> list[int]:
    """The part of `indices` that process `rank` of `world` evaluates.

    Contiguous, disjoint and complete for any length: nothing is padded, nothing dropped.

    Raises:
        UsageError: the rank is not below the number of processes.
    """
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} is not among {world} processes")
    count = len(indices)
    return list(indices[count * rank // world : count * (rank + 1) // world])


def normalise(pixels: Tensor, steps: Preprocessing, *, channels_last: bool = True) -> Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W]: scaled to [0, 1], minus mean, over deviation; in
    grey, [B, 1, H, W], where the steps have one mean.

    The operations and their order are those of torchvision's ToTensor and Normalize, so the
    values are the same to the bit. The memory stays channels-last unless that is not wanted.
    """
    values = fit_pixels(pixels, steps).permute(0, 3, 1, 2).to(torch.float32)
    if not channels_last:
        values = values.contiguous()
    return (
        values.div_(255)
        .sub_(_channels(steps.mean, pixels.device))
        .div_(_channels(steps.std, pixels.device))
    )


def fit_pixels(pixels: Tensor, steps: Preprocessing) -> Tensor:
    """uint8 [B, H, W, 3], or as grey images [B, H, W, 1] where the steps have one mean: by the
    weights of PIL's mode "L", rounded as there, so that grey pixels keep their value."""
    if steps.channels != 1:
        return pixels
    red, green, blue = pixels.to(torch.int32).unbind(3)
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey.to(torch.uint8)[..., None]


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number a channel [1, C, 1, 1], copied to a device once: it waits for the copy."""
    with torch.inference_mode(False):  # so that training can use it too
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def decode_on_device(batch: Batch, steps: Preprocessing, device: torch.device) -> Batch:
    """Fill in the images that were left encoded: decoded, resized and cropped on `device`.

    On a GPU nvJPEG decodes and all images are resized together; the pixels can differ from PIL's
    in the last bits. What the decoder refuses, PIL decodes.
    """
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    if not batch.encoded:
        return batch
    pixels = batch.pixels.to(device)
    broken = dict(batch.broken)
    rows, contents = list(batch.encoded), list(batch.encoded.values())
    where = str(device) if device.type == "cuda" else "cpu"
    try:
        with warnings.catch_warnings():
            # torchvision 0.29 announces the end of its decoders; until then this is nvJPEG.
            warnings.simplefilter("ignore", DeprecationWarning)
            decoded = decode_jpeg(contents, mode=ImageReadMode.RGB, device=where)
    except RuntimeError:  # one bad image fails the whole batch
        decoded = [None] * len(rows)
    ready: dict[int, Tensor] = {}
    for row, content, image in zip(rows, contents, decoded, strict=True):
        if image is not None:
            ready[row] = image
            continue
        try:
            found = torch.from_numpy(prepare(decode(content.numpy().tobytes()), steps).copy())
            pixels[row] = found.to(device)
        except BrokenImageError as error:
            broken[row] = str(error)
    together = steps.interpolation == "bilinear" and steps.crop <= steps.resize
    if ready and together and device.type == "cuda":
        pixels[list(ready)] = resize_and_crop(list(ready.values()), steps.resize, steps.crop)
        ready = {}
    for row, image in ready.items():
        image = functional.resize(image, [steps.resize], InterpolationMode(steps.interpolation))
        pixels[row] = functional.center_crop(image, [steps.crop, steps.crop]).permute(1, 2, 0)
    return replace(batch, pixels=pixels, encoded={}, broken=broken)


@contextlib.contextmanager
def explained_deaths() -> Iterator[None]:
    """Around what runs while decoders work: torch raises wherever it is when one of them dies.

    Raises:
        StrzooError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StrzooError(
            "a worker process died (often for lack of memory, or of shared memory in /dev/shm); "
            f"use fewer workers or a smaller batch: {' '.join(str(error).split())[:160]}"
        ) from error
