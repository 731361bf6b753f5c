"""The Triton kernels of `fused_threshold`; imported only where they run."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shrink(pointers, sizes, firsts, layer_of_block, thresholds, result, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """result = w - clamp(w, -t, t), which is sign(w) * relu(|w| - t) bit for bit (paper, eq. 3);
    0 in what fills up the last block of a layer."""
    block = tl.program_id(0)
    layer = tl.load(layer_of_block + block)
    start = (block - tl.load(firsts + layer)) * BLOCK
    weights = tl.load(pointers + layer).to(tl.pointer_type(tl.float32))
    bound = tl.load(thresholds + layer)
    inside = tl.arange(0, BLOCK)
    where = start + inside
    weight = tl.load(weights + where, mask=where < tl.load(sizes + layer), other=0.0)
    clipped = tl.minimum(tl.maximum(weight, -bound), bound)
    tl.store(result + block.to(tl.int64) * BLOCK + inside, weight - clipped)


@triton.jit
def shrink_backward(result, grads, partial, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """In place: the gradients of the survivors, 0 elsewhere; and of each block the sum of
    -sign(w) * gradient over the survivors, its part of the threshold's gradient."""
    block = tl.program_id(0)
    where = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(result + where)
    grad = tl.where(value != 0, tl.load(grads + where), 0.0)
    tl.store(grads + where, grad)
    tl.store(partial + block, tl.sum(tl.where(value > 0, -grad, grad), 0))


@triton.jit
def add_up(partial, firsts, totals, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of each layer's blocks, always in the same order."""
    layer = tl.program_id(0)
    end = tl.load(firsts + layer + 1)
    inside = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(tl.load(firsts + layer), end, BLOCK):
        total += tl.load(partial + start + inside, mask=start + inside < end, other=0.0)
    tl.store(totals + layer, tl.sum(total, 0))
