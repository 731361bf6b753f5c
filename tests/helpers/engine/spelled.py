"""Instructions of 512 bits and dot products on processors without them, in LLVM's own terms.

So the code for AVX-512 and VNNI is generated as ever and runs anywhere that has AVX2; only what
these instructions do is said here once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from strzoo.engine.codegen.quads import QUAD_LANES
from strzoo.engine.hardware import host_hardware
from strzoo.engine.storage import machine_code

_HOST = host_hardware()
# The lanes that code can be generated for and run here, with what is spelled out.
RUNNABLE = (4, 8, 16) if _HOST.lanes >= 8 and _HOST.fixed else (_HOST.lanes,)
LANES = [lanes for lanes in QUAD_LANES if lanes in RUNNABLE]
needs_lanes = pytest.mark.skipif(not LANES, reason="no vectors of 8 bits here")


@contextmanager
def spelled_out(features: str | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Inside, kernels of any of `RUNNABLE` run here. Machine code must not be kept.

    Args:
        features: that kernels believe the processor to have, such as "+avx512vbmi2"; its own by
            default.
    """
    optimise, (triple, own) = machine_code._optimise, machine_code._host()
    have = {text[1:] for text in own.split(",") if text.startswith("+")}

    def spelled(text: str, machine: Any, effort: int) -> Any:
        return optimise(_spell(text, have), machine, effort)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine_code, "_optimise", spelled)
        if features is not None:
            patch.setattr(machine_code, "_host", lambda: (triple, features))
        yield patch


def _spell(text: str, have: set[str]) -> str:
    """The module `text` with functions in place of the instructions that are not there."""
    for name, (needs, define) in _SPELLINGS.items():
        declared = re.search(rf'^declare .*@"{re.escape(name)}"\(.*\n', text, re.MULTILINE)
        if declared is None or needs & have:
            continue
        mine = f'@"spelled.{name}"'
        text = text.replace(declared[0], "").replace(f'@"{name}"', mine)
        text += define(mine)
    if "avx512bw" not in have:
        # No register holds what the empty assembly instructions pass on.
        empty = r'call (<[^>]+>) +asm +"", *"=v,0" *\((<[^>]+>) (%\S+)\)'
        text = re.sub(empty, r"bitcast \2 \3 to \1", text)
    for half, kind, count, result in _HALF_NAMES.values():
        if f"@{half}(" in text and not re.search(rf'^declare .*@"?{half}"?\(', text, re.MULTILINE):
            text += f"declare {result} @{half}({', '.join([kind] * count)})\n"
    return text


_HALF_NAMES = {
    "llvm.x86.avx512.packssdw.512": ("llvm.x86.avx2.packssdw", "<8 x i32>", 2, "<16 x i16>"),
    "llvm.x86.avx512.packuswb.512": ("llvm.x86.avx2.packuswb", "<16 x i16>", 2, "<32 x i8>"),
    "llvm.x86.avx512.pmaddw.d.512": ("llvm.x86.avx2.pmadd.wd", "<16 x i16>", 2, "<8 x i32>"),
    "llvm.x86.avx512.pmul.hr.sw.512": (
        "llvm.x86.avx2.pmul.hr.sw", "<16 x i16>", 2, "<16 x i16>",
    ),
    "llvm.x86.avx512.mask.cvtps2dq.512": (
        "llvm.x86.avx.cvt.ps2dq.256", "<8 x float>", 1, "<8 x i32>",
    ),
}  # fmt: skip


def _halves(half: str, kind: str, count: int, result: str) -> Callable[[str], str]:
    """An instruction that treats the 128-bit parts of its operands alike, by one of 256 bits."""

    def define(name: str) -> str:
        names = [f"%a{k}" for k in range(count)]
        arguments = [f"{_doubled(kind)} {value}" for value in names]
        if "cvtps2dq" in name:  # all lanes, by the rounding of the moment
            arguments += ["<16 x i32> %rest", "i16 %lanes", "i32 %rounding"]
        lines = []
        for part in range(2):
            for value in names:
                lines.append(f"  {value}.{part} = {_cut(kind, value, part)}")
            given = ", ".join(f"{kind} {value}.{part}" for value in names)
            lines.append(f"  %r{part} = call {result} @{half}({given})")
        whole = _doubled(result)
        lanes = _lanes(whole)
        order = _order(range(lanes))
        lines.append(f"  %r = shufflevector {result} %r0, {result} %r1, <{lanes} x i32> {order}")
        return _function(whole, name, arguments, lines)

    return define


def _dot(lanes: int) -> Callable[[str], str]:
    """Four products of an unsigned and a signed byte, added to int32."""

    def define(name: str) -> str:
        kind = f"<{lanes} x i32>"
        total, lines = "%total", []
        for byte in range(4):
            lines += [
                f"  %x{byte}a = lshr {kind} %x, {_constant(lanes, 8 * byte)}",
                f"  %x{byte} = and {kind} %x{byte}a, {_constant(lanes, 255)}",
                f"  %w{byte}a = shl {kind} %w, {_constant(lanes, 24 - 8 * byte)}",
                f"  %w{byte} = ashr {kind} %w{byte}a, {_constant(lanes, 24)}",
                f"  %p{byte} = mul {kind} %x{byte}, %w{byte}",
                f"  %t{byte} = add {kind} {total}, %p{byte}",
            ]
            total = f"%t{byte}"
        lines.append(f"  %r = add {kind} {total}, zeroinitializer")
        return _function(kind, name, [f"{kind} {value}" for value in ("%total", "%x", "%w")], lines)

    return define


def _expand(name: str) -> str:
    """The first numbers where the mask has ones, in turn, and those of `rest` elsewhere."""
    lines, value, place = _in_memory("%x", "<32 x i16>"), "%rest", "0"
    for lane in range(32):
        lines += [
            f"  %b{lane} = extractelement <32 x i1> %mask, i32 {lane}",
            f"  %at{lane} = getelementptr i16, ptr %memory, i32 {place}",
            f"  %n{lane} = load i16, ptr %at{lane}, align 2",
            f"  %o{lane} = extractelement <32 x i16> %rest, i32 {lane}",
            f"  %c{lane} = select i1 %b{lane}, i16 %n{lane}, i16 %o{lane}",
            f"  %v{lane} = insertelement <32 x i16> {value}, i16 %c{lane}, i32 {lane}",
            f"  %one{lane} = zext i1 %b{lane} to i32",
            f"  %i{lane} = add i32 {place}, %one{lane}",
        ]
        value, place = f"%v{lane}", f"%i{lane}"
    lines.append(f"  %r = bitcast <32 x i16> {value} to <32 x i16>")
    arguments = ["<32 x i16> %x", "<32 x i16> %rest", "<32 x i1> %mask"]
    return _function("<32 x i16>", name, arguments, lines)


def _permute(lanes: int, number: str, place: str) -> Callable[[str], str]:
    """The numbers at the given places, of which the lowest bits count."""

    def define(name: str) -> str:
        kind, places = f"<{lanes} x {number}>", f"<{lanes} x {place}>"
        lines, value = _in_memory("%x", kind), "%x"
        for lane in range(lanes):
            lines += [
                f"  %p{lane}a = extractelement {places} %places, i32 {lane}",
                f"  %p{lane} = and {place} %p{lane}a, {lanes - 1}",
                f"  %at{lane} = getelementptr {number}, ptr %memory, {place} %p{lane}",
                f"  %n{lane} = load {number}, ptr %at{lane}",
                f"  %v{lane} = insertelement {kind} {value}, {number} %n{lane}, i32 {lane}",
            ]
            value = f"%v{lane}"
        lines.append(f"  %r = bitcast {kind} {value} to {kind}")
        return _function(kind, name, [f"{kind} %x", f"{places} %places"], lines)

    return define


def _in_memory(value: str, kind: str) -> list[str]:
    return [
        f"  %memory = alloca {kind}, align 64",
        f"  store {kind} {value}, ptr %memory, align 64",
    ]


def _function(kind: str, name: str, arguments: list[str], lines: list[str]) -> str:
    head = f"\ndefine internal {kind} {name}({', '.join(arguments)}) {{\n"
    return head + "\n".join([*lines, f"  ret {kind} %r", "}\n"])


def _lanes(kind: str) -> int:
    return int(kind[1:].split()[0])


def _doubled(kind: str) -> str:
    return kind.replace(str(_lanes(kind)), str(2 * _lanes(kind)), 1)


def _cut(kind: str, value: str, part: int) -> str:
    lanes, whole = _lanes(kind), _doubled(kind)
    order = _order(range(part * lanes, (part + 1) * lanes))
    return f"shufflevector {whole} {value}, {whole} poison, <{lanes} x i32> {order}"


def _order(places: range) -> str:
    return f"<{', '.join(f'i32 {place}' for place in places)}>"


def _constant(lanes: int, value: int) -> str:
    return f"<{', '.join([f'i32 {value}'] * lanes)}>"


# For each instruction: the features that have it, and its definition.
_SPELLINGS: dict[str, tuple[set[str], Callable[[str], str]]] = {
    **{name: ({"avx512bw"}, _halves(*parts)) for name, parts in _HALF_NAMES.items()},
    "llvm.x86.avx512.vpdpbusd.512": ({"avx512vnni"}, _dot(16)),
    "llvm.x86.avx512.vpdpbusd.256": ({"avx512vnni", "avxvnni"}, _dot(8)),
    "llvm.x86.avx512.mask.expand.v32i16": ({"avx512vbmi2"}, _expand),
    "llvm.x86.avx512.permvar.hi.512": ({"avx512bw"}, _permute(32, "i16", "i16")),
    "llvm.x86.avx512.permvar.sf.512": ({"avx512f"}, _permute(16, "float", "i32")),
}
