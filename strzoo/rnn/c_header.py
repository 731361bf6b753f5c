"""A FastGRNN classifier as one C99 header: weights, and functions that classify step by step.

The header needs <math.h> alone, allocates nothing, and computes in `float`, or in what
NAME_REAL is defined as before it is included (with NAME_EXP and NAME_TANH to match).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from strzoo.errors import UsageError
from strzoo.files import atomic_path, check_destination
from strzoo.rnn.cell import FastGRNNCell
from strzoo.rnn.classifier import SequenceClassifier
from strzoo.rnn.export_onnx import RNNExport, check_precision, measure_weights
from strzoo.rnn.gates import find_gate
from strzoo.rnn.quantisation import Int8Classifier, quantise
from strzoo.version import VERSION

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_PER_LINE = 8
# Names that C or the header's own parts take.
_TAKEN = {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else",
    "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "main", "register",
    "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef",
    "union", "unsigned", "void", "volatile", "while",
}  # fmt: skip


def export_c(
    model: SequenceClassifier,
    path: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    name: str = "fastgrnn",
    force: bool = False,
) -> RNNExport:
    """Write `model` as a C header of four functions.

        void NAME_reset(NAME_state *state);
        void NAME_step(NAME_state *state, const NAME_real *input);
        void NAME_logits(const NAME_state *state, NAME_real *logits);
        int NAME_classify(const NAME_real *sequence, int steps, NAME_real *logits);

    of which the last does the work of the others and returns the class. Learned ranks are folded.

    Args:
        model: a classifier in one direction.
        path: of the header.
        precision: "fp32", or "int8" for int8 weights (`strzoo.rnn.quantise`).
        name: prefix of everything in the header: a lower-case C identifier.
        force: overwrite an existing file.

    Returns:
        The record of the export; without differences, since nothing is compiled.

    Raises:
        UsageError: an unknown precision, a name that is none, or a bidirectional network, which
            cannot go step by step.
        StrzooError: the destination is refused.
    """
    check_precision(precision)
    if not _IDENTIFIER.fullmatch(name) or name in _TAKEN:
        raise UsageError(f"{name!r} is no lower-case C identifier; give one such as 'fastgrnn'")
    if model.rnn.bidirectional:
        raise UsageError(
            "a bidirectional network needs the whole sequence and has no C header; export it as "
            "ONNX"
        )
    path = check_destination(path, force=force)
    folded = model.fold().float().eval().cpu()
    chosen = quantise(folded) if precision == "int8" else folded
    kilobytes = measure_weights(chosen)
    text = "\n".join(_lines(chosen, name, precision, kilobytes)) + "\n"
    with atomic_path(path, force=force) as temporary:
        temporary.write_text(text, encoding="ascii")
    return RNNExport(path, "c", precision, len(text), kilobytes)


class _Writer:
    """The parts of the header that depend on the network."""

    def __init__(self, model: SequenceClassifier | Int8Classifier, name: str) -> None:
        self.int8 = model if isinstance(model, Int8Classifier) else None
        self.name, self.real = name, f"{name}_real"

    def array(self, label: str, values: Tensor, kind: str | None = None) -> Iterator[str]:
        flat = values.detach().flatten().tolist()
        spelled = [str(v) if kind else f"{v:.9g}" for v in flat]
        if not kind:  # a whole number needs a point to be a floating-point constant
            spelled = [s if any(c in s for c in ".en") else s + ".0" for s in spelled]
        yield f"static const {kind or self.real} {self.name}_{label}[{len(flat)}] = {{"
        for start in range(0, len(flat), _PER_LINE):
            yield "    " + ", ".join(spelled[start : start + _PER_LINE]) + ","
        yield "};"

    def matrix(self, label: str, key: str, value: Tensor) -> Iterator[str]:
        """A matrix [in, out], stored by outputs, so that each is one run of memory."""
        if self.int8 is None:
            yield from self.array(label, value.t())
            return
        matrix = self.int8.matrices[key]
        yield from self.array(label, matrix.values.t(), "signed char")
        yield from self.array(f"{label}_scale", matrix.scale)

    def product(self, label: str, source: str, sizes: tuple[int, int], target: str) -> str:
        """A call that adds source times the matrix to target."""
        scale = f", {self.name}_{label}_scale" if self.int8 is not None else ""
        matrix = f"{self.name}_{label}{scale}"
        return f"{self.name}_multiply({matrix}, {source}, {sizes[0]}, {sizes[1]}, {target});"


def _lines(
    model: SequenceClassifier | Int8Classifier, name: str, precision: str, kilobytes: float
) -> Iterator[str]:
    network = model.network if isinstance(model, Int8Classifier) else model
    writer, upper = _Writer(model, name), name.upper()
    cells: list[FastGRNNCell] = [layer[0] for layer in network.rnn.layers]
    guard, steps = f"{upper}_H", network.steps
    yield f"/* A FastGRNN classifier, written by strzoo {VERSION}: {precision}, weights of"
    yield f"   {kilobytes:.2f} KB (1,024 bytes each). Link with -lm. */"
    yield f"#ifndef {guard}"
    yield f"#define {guard}"
    yield "#include <math.h>"
    yield f"#ifndef {upper}_REAL"
    yield f"#define {upper}_REAL float"
    yield f"#define {upper}_EXP expf"
    yield f"#define {upper}_TANH tanhf"
    yield "#endif"
    yield f"#define {upper}_INPUTS {network.rnn.input_size}"
    yield f"#define {upper}_CLASSES {network.num_classes}"
    yield f"#define {upper}_STEPS {steps or 0} /* of a sequence; 0: any number */"
    yield f"typedef {upper}_REAL {writer.real};"
    yield from writer.array("mean", network.mean)
    yield from writer.array("std", network.std)
    for index, cell in enumerate(cells):
        for key, value in cell.named_parameters():
            if key[0] in "WU":
                yield from writer.matrix(f"{key}_{index}", f"rnn.cells.{index}.{key}", value)
            elif key.startswith("bias"):
                yield from writer.array(f"{key}_{index}", value)
    yield from writer.matrix("fc", "fc.weight", network.fc.weight.t())
    yield from writer.array("fc_bias", network.fc.bias)
    states = " ".join(f"{writer.real} h{i}[{c.hidden_size}];" for i, c in enumerate(cells))
    yield f"typedef struct {{ int step; {states} }} {name}_state;"
    yield from _multiply(writer)
    yield from _gates(writer, cells)
    yield from _reset(writer, cells)
    yield from _step(writer, network, cells)
    yield from _classify(writer, network, cells)
    yield f"#endif /* {guard} */"


def _multiply(writer: _Writer) -> Iterator[str]:
    real, int8 = writer.real, writer.int8 is not None
    kind = "signed char" if int8 else real
    scale = f"const {real} *scale, " if int8 else ""
    yield f"static inline void {writer.name}_multiply(const {kind} *weight, {scale}const {real} *x,"
    yield f"        int inputs, int outputs, {real} *sums) {{"
    yield "    for (int j = 0; j < outputs; j++) {"
    yield f"        {real} sum = 0;"
    yield "        for (int i = 0; i < inputs; i++) sum += x[i] * weight[j * inputs + i];"
    yield f"        sums[j] += sum{' * scale[j]' if int8 else ''};"
    yield "    }"
    yield "}"


def _gates(writer: _Writer, cells: list[FastGRNNCell]) -> Iterator[str]:
    upper = writer.name.upper()
    for kind in dict.fromkeys(k for cell in cells for k in (cell.gate, cell.update)):
        expression = find_gate(kind).c
        for word in ("EXP", "TANH"):
            expression = re.sub(rf"\b{word}\b", f"{upper}_{word}", expression)
        yield f"static inline {writer.real} {_gate_name(writer, kind)}({writer.real} x) {{"
        yield f"    return {expression};"
        yield "}"


def _gate_name(writer: _Writer, kind: str) -> str:
    return f"{writer.name}_{kind.lower()}"


def _reset(writer: _Writer, cells: list[FastGRNNCell]) -> Iterator[str]:
    yield f"static inline void {writer.name}_reset({writer.name}_state *state) {{"
    yield "    state->step = 0;"
    for index, cell in enumerate(cells):
        yield f"    for (int i = 0; i < {cell.hidden_size}; i++) state->h{index}[i] = 0;"
    yield "}"


def _step(writer: _Writer, network: SequenceClassifier, cells: list[FastGRNNCell]) -> Iterator[str]:
    name, real, size = writer.name, writer.real, network.rnn.input_size
    yield f"static inline void {name}_step({name}_state *state, const {real} *input) {{"
    yield f"    {real} x[{size}];"
    offset = f"state->step * {size} + i" if network.steps else "i"
    yield f"    for (int i = 0; i < {size}; i++)"
    yield f"        x[i] = (input[i] - {name}_mean[{offset}]) / {name}_std[{offset}];"
    source = "x"
    for index, cell in enumerate(cells):
        yield from ("    " + line for line in _cell(writer, index, cell, source))
        source = f"state->h{index}"
    yield "    state->step++;"
    yield "}"


def _cell(writer: _Writer, index: int, cell: FastGRNNCell, source: str) -> Iterator[str]:
    size, name, real = cell.hidden_size, writer.name, writer.real
    state = f"state->h{index}"
    yield "{"
    yield f"    {real} sum[{size}] = {{0}};"
    for side, start in (("W", source), ("U", state)):
        parts = [k for k in (side, f"{side}1", f"{side}2") if k in cell._parameters]
        for number, key in enumerate(parts):
            shape = getattr(cell, key).shape
            inner, last = f"inner_{key.lower()}", number == len(parts) - 1
            if not last:
                yield f"    {real} {inner}[{shape[1]}] = {{0}};"
            target = "sum" if last else inner
            yield "    " + writer.product(f"{key}_{index}", start, (shape[0], shape[1]), target)
            start = inner
    zeta, nu = (float(torch.sigmoid(v.detach().double())) for v in (cell.zeta, cell.nu))
    gate, update = (_gate_name(writer, kind) for kind in (cell.gate, cell.update))
    yield f"    for (int i = 0; i < {size}; i++) {{"
    yield f"        {real} z = {gate}(sum[i] + {name}_bias_gate_{index}[i]);"
    yield f"        {real} c = {update}(sum[i] + {name}_bias_update_{index}[i]);"
    mixed = f"({real}){zeta:.17g} * (1 - z) + ({real}){nu:.17g}"
    yield f"        {state}[i] = z * {state}[i] + ({mixed}) * c;"
    yield "    }"
    yield "}"


def _classify(
    writer: _Writer, network: SequenceClassifier, cells: list[FastGRNNCell]
) -> Iterator[str]:
    name, real = writer.name, writer.real
    size, classes = cells[-1].hidden_size, network.num_classes
    state = f"state->h{len(cells) - 1}"
    yield f"static inline void {name}_logits(const {name}_state *state, {real} *logits) {{"
    yield f"    for (int i = 0; i < {classes}; i++) logits[i] = {name}_fc_bias[i];"
    yield "    " + writer.product("fc", state, (size, classes), "logits")
    yield "}"
    yield f"static inline int {name}_classify(const {real} *sequence, int steps, {real} *logits) {{"
    yield f"    {name}_state state;"
    yield "    int best = 0;"
    yield f"    {name}_reset(&state);"
    yield "    for (int t = 0; t < steps; t++)"
    yield f"        {name}_step(&state, sequence + t * {network.rnn.input_size});"
    yield f"    {name}_logits(&state, logits);"
    yield f"    for (int i = 1; i < {classes}; i++) if (logits[i] > logits[best]) best = i;"
    yield "    return best;"
    yield "}"
