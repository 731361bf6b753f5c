"""Dense MACs and parameters of any network: counted by fvcore, cross-checked independently.

Without fvcore the independent count stands alone, and the report says so.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strzoo.analysis.dense_counts import INPUT_SIZE
from strzoo.analysis.results import DenseCounts, LayerCount
from strzoo.analysis.unlayered import (
    AttentionHook,
    attentions,
    no_fused_attention,
    note_idle,
    note_matrices,
    output_layer,
)
from strzoo.errors import StrzooError, VerificationError
from strzoo.sparse.selection import TRANSPOSED, sparse_layers
from strzoo.sparse.selection import prunable_layers as prunable_layers
from strzoo.sparse.sparsify import to_dense_
from strzoo.sparse.unwrap import plain_network

log = logging.getLogger(__name__)

WITHOUT_FVCORE = (
    "MACs counted from the shapes of convolutions, linears and pools alone: fvcore, which counts "
    "other operators too, is not installed"
)
# With fvcore's name for them.
_POOLS: dict[type[nn.Module], str] = {
    nn.AdaptiveAvgPool1d: "adaptive_avg_pool1d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
    nn.AdaptiveAvgPool3d: "adaptive_avg_pool3d",
    nn.AvgPool1d: "avg_pool1d",
    nn.AvgPool2d: "avg_pool2d",
    nn.AvgPool3d: "avg_pool3d",
}
_MEANS = (*_POOLS.values(), "mean")  # of each of which fvcore counts the inputs
# Not counted here, where fvcore counts what they write: products and pools are.
_COPIES = ("upsample_nearest2d", "upsample_bilinear2d", "grid_sampler")
_KNOWN = ("torch", "strzoo")  # packages whose layers compute their own product alone
_NORMALISATIONS = ("batch_norm", "group_norm", "instance_norm", "layer_norm")


def count_dense(
    model: nn.Module, input_size: tuple[int, ...] = INPUT_SIZE, *, name: str | None = None
) -> DenseCounts:
    """What `model` costs per image when dense, for an input of `input_size` (no batch axis).

    The model is run once, in evaluation mode, and left as it was. Layers that the forward pass
    does not reach have 0 MACs, and a note names them.

    Raises:
        StrzooError: the forward pass fails on that input, or the model cannot be traced.
        VerificationError: fvcore's count of a layer differs from the one by its output shape.
    """
    model = plain_network(model)
    params = sum(p.numel() for n, p in model.named_parameters() if "sparseThreshold" not in n)
    types = {n: type(m).__name__ for n, m in prunable_layers(model).items()}
    traced = to_dense_(copy.deepcopy(model)) if sparse_layers(model) else model
    layers = prunable_layers(traced)
    with _evaluating(traced):
        example = _example(traced, input_size)
        outputs, expected, pools = _count_by_shapes(traced, layers, example)
        if has_fvcore():
            by_module, by_operator, uncounted = _count_by_fvcore(traced, example)
            for layer_name in map(output_layer, attentions(traced)):
                # Its product runs in the attention module, as one of that module's linears.
                by_module[layer_name] = Counter(linear=expected[layer_name])
        else:
            by_module = {layer_name: Counter(conv=macs) for layer_name, macs in expected.items()}
            by_operator, uncounted = pools + Counter(conv=expected.total()), Counter()
    counts, notes = [], [] if has_fvcore() else [WITHOUT_FVCORE]
    for layer_name, layer in layers.items():
        # fvcore knows a model that is a single layer by the empty name, as torch does.
        found = sum(by_module.get(layer_name, Counter()).values())
        if found != expected[layer_name]:
            if type(layer).__module__.partition(".")[0] in _KNOWN:
                raise VerificationError(
                    f"{layer_name}: fvcore counts {found} MACs, its shapes give "
                    f"{expected[layer_name]}"
                )
            notes.append(
                f"{layer_name}, a {types[layer_name]}, computes more than its own product: "
                f"{found:,} MACs instead of {expected[layer_name]:,}"
            )
        weight = layer.weight
        assert isinstance(weight, Tensor)
        counts.append(
            LayerCount(
                layer_name,
                types[layer_name],
                tuple(weight.shape),
                outputs.get(layer_name, ()),
                found,
            )
        )
    notes += note_idle([layer.name for layer in counts if layer.weights and not layer.macs])
    notes += note_matrices(traced)
    inside: Counter[str] = Counter()
    for layer_name in layers:
        inside.update(by_module.get(layer_name, {}))
    other = {op: count - inside[op] for op, count in sorted(by_operator.items())}
    return DenseCounts(
        name or type(model).__name__,
        tuple(input_size),
        params,
        tuple(counts),
        {op: count for op, count in other.items() if count},
        dict(sorted(uncounted.items())),
        tuple(notes),
    )


def has_fvcore() -> bool:
    """Whether fvcore is installed."""
    try:
        return importlib.util.find_spec("fvcore") is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), no_fused_attention():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _example(model: nn.Module, input_size: tuple[int, ...]) -> Tensor:
    first = next(model.parameters(), torch.zeros(1))
    try:
        return torch.zeros(1, *input_size, dtype=first.dtype, device=first.device)
    except (RuntimeError, TypeError) as error:
        size = "x".join(map(str, input_size))
        raise StrzooError(f"no image of size {size} fits in memory; pass a smaller one") from error


def _count_by_shapes(
    model: nn.Module, layers: dict[str, nn.Module], example: Tensor
) -> tuple[dict[str, tuple[int, ...]], Counter[str], Counter[str]]:
    """From one forward pass: output shape and MACs (positions x weights) of each layer, and MACs
    of what is none: the average pools, one for each of their inputs, and attention's inputs."""
    outputs: dict[str, tuple[int, ...]] = {}
    macs: Counter[str] = Counter()
    pools: Counter[str] = Counter()

    def observe(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = tuple(output.shape[1:])
            weight = module.weight
            assert isinstance(weight, Tensor)
            if isinstance(module, nn.Linear):
                positions = output.numel() // module.out_features
            elif isinstance(module, TRANSPOSED):
                positions = math.prod(inputs[0].shape[2:])
            else:
                positions = math.prod(output.shape[2:])
            macs[name] += positions * weight.numel()

        return hook

    def pool(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pools[_POOLS[type(module)]] += inputs[0].numel()

    handles = [layer.register_forward_hook(observe(name)) for name, layer in layers.items()]
    handles += [m.register_forward_hook(pool) for m in model.modules() if type(m) in _POOLS]
    for name, attention in attentions(model).items():
        hook = AttentionHook(name, outputs, macs, pools)
        handles.append(attention.register_forward_hook(hook, with_kwargs=True))
    try:
        model(example)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        size = "x".join(map(str, example.shape[1:]))
        reason = " ".join(str(error).split())[:160]
        raise StrzooError(
            f"{type(model).__name__} does not run on one {size} input ({reason}); "
            "pass the input size it takes, (channels, height, width) if it has not three channels"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return outputs, macs, pools


def _count_by_fvcore(
    model: nn.Module, example: Tensor
) -> tuple[dict[str, Counter[str]], Counter[str], Counter[str]]:
    """MACs by module and operator, MACs by operator, and how often each uncounted operator runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore and torch's tracer warn of their own internals
        from fvcore.nn.flop_count import FlopCountAnalysis
        from fvcore.nn.jit_handles import conv_flop_count, elementwise_flop_counter, get_shape

        def convolve(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
            shapes = [get_shape(value) for value in (inputs[0], inputs[1], outputs[0])]
            return Counter(conv=conv_flop_count(*shapes))

        analysis = FlopCountAnalysis(model, (example,))
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        for free in (*_NORMALISATIONS, *_COPIES):
            analysis.set_op_handle(f"aten::{free}", elementwise_flop_counter(0, 0))
        for mean in _MEANS:
            analysis.set_op_handle(f"aten::{mean}", elementwise_flop_counter(1, 0))
        # Convolutions whose padding is a word, "same" or "valid".
        analysis.set_op_handle("aten::_convolution_mode", convolve)
        try:
            by_operator = Counter(analysis.by_operator())
        except (RuntimeError, TypeError, ValueError) as error:
            raise StrzooError(
                f"fvcore cannot trace {type(model).__name__}: {' '.join(str(error).split())[:160]}"
            ) from error
        modules = {name: Counter(ops) for name, ops in analysis.by_module_and_operator().items()}
        return modules, by_operator, Counter(analysis.unsupported_ops())
