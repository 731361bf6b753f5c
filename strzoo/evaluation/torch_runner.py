"""A network of torch as a runner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from strzoo.data.preprocessing import check_preprocessing, fit_channels
from strzoo.devices import find_device, float32_mode
from strzoo.errors import UsageError
from strzoo.evaluation.outputs import OutputReader
from strzoo.evaluation.runner import Runner, RunnerOptions
from strzoo.hub.network_sources import ModuleSource
from strzoo.hub.source import Source
from strzoo.sparse.selection import takes_grey

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def open_torch(source: Source, options: RunnerOptions) -> Iterator[Runner]:
    """The network ready to run while the context lasts; one passed in is left as it was.

    Raises:
        UsageError: the device or the precision is not possible here.
        StrzooError and its subclasses: the weights cannot be had or read.
    """
    if options.providers or options.output:
        raise UsageError("execution providers and --output are for ONNX files")
    network = source.build_network(options.format)
    if isinstance(source, ModuleSource):
        here = next(iter(network.parameters()), torch.empty(0)).device
        place = find_device(options.device) if options.device is not None else here
        if place != here:
            raise UsageError(f"the network is on {here}; move it to {place} first")
    else:
        place = find_device(options.device)
        network = network.to(place)
        if options.channels_last:
            network = network.to(memory_format=torch.channels_last)
    precision = options.precision
    if precision == "auto":
        precision = "tf32" if place.type == "cuda" else "fp32"
    if precision == "tf32" and place.type != "cuda":
        raise UsageError("precision tf32 is for GPUs; choose fp32 or bf16")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    run = torch.compile(network) if options.compile else network
    dtype = _DTYPES.get(precision)

    own = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)

    def forward(inputs: Tensor) -> Any:
        if inputs.dtype != own and dtype is None:  # a network in half or double precision
            inputs = inputs.to(own)
        with torch.autocast(place.type, dtype=dtype, enabled=dtype is not None):
            return run(inputs)

    given, stated = options.preprocessing, source.stated_preprocessing
    channels = 1 if takes_grey(network) else source.input_size[0]
    preprocessing = check_preprocessing(fit_channels(given or source.preprocessing, channels))
    try:
        with torch.inference_mode(), float32_mode(place, precision):
            yield Runner(
                name=source.name,
                forward=forward,
                reader=OutputReader(source.name, background=options.background, notes=source.notes),
                device=place,
                precision=precision,
                preprocessing=preprocessing,
                weights_sha256=source.sha256,
                card=source.card,
                channels_last=options.channels_last,
                class_names=source.class_names,
                states_preprocessing=given is not None or stated is not None,
                piece_pixels=_piece_pixels()
                if place.type == "cpu" and not options.compile
                else None,
                eager=network if options.compile else None,
            )
    finally:
        for module, mode in modes.items():
            module.training = mode


def _piece_pixels() -> int:
    """What torch computes at once on the CPU: 4 to 8 images of 224 pixels a side.

    The maps of more are too large for the heap: each layer's memory would be mapped anew, page by
    page, which takes longer than small matrices do. More threads want larger pieces.
    """
    return max(4, min(8, torch.get_num_threads())) * 224**2
