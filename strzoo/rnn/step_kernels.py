"""The element-wise part of a FastGRNN step as machine code, by llvmlite (the extra strzoo[engine]).

numpy makes a step of some fifteen passes over its elements; here it is one loop, which LLVM
vectorises, forward and backward. In fp32 only: its exponential is a polynomial of that accuracy.
Without llvmlite, or where it cannot load code, the loops of `strzoo.rnn.steps` run on numpy alone.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from strzoo.rnn.gates import Gate

if TYPE_CHECKING:
    from llvmlite import ir

_LOG = logging.getLogger(__name__)

# What the functions read: an array of addresses and counts, in this order.
FORWARD = ("product", "driven", "gap", "states", "gate", "update", "scales", "elements")
BACKWARD = ("grad", "carried", "product", "gate", "update", "states", "slopes",
            "by_update", "by_nu", "by_zeta", "scales", "batch", "size")  # fmt: skip

Step = Callable[[int, int, int], None]


class StepKernels:
    """The compiled functions of two nonlinearities. Each takes the address of its table (`FORWARD`,
    `BACKWARD`; 64-bit values), the number of the step, and that of its row in `driven`."""

    def __init__(self, gate: Gate, update: Gate) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=3,
            jit=True,
        )
        module = llvm.parse_assembly(_emit(gate, update))
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = True
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, machine)  # owns the code
        self._engine.finalize_object()
        self.forward = self._find("forward")
        self.keep = self._find("keep")
        self.backward = self._find("backward")

    def _find(self, name: str) -> Step:
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
        return kind(self._engine.get_function_address(name))


@lru_cache(maxsize=64)
def compile_steps(gate: Gate, update: Gate) -> StepKernels | None:
    """The functions for these nonlinearities; None where llvmlite is missing or fails."""
    try:
        return StepKernels(gate, update)
    except ImportError:
        return None
    except Exception as error:  # LLVM raises errors of several classes
        _LOG.warning("the steps of FastGRNN run on numpy: llvmlite failed (%s)", error)
        return None


def _emit(gate: Gate, update: Gate) -> str:
    from llvmlite import ir

    module = ir.Module("fastgrnn")
    _Function(module, "forward", FORWARD, gate, update).emit_forward(keep=False)
    _Function(module, "keep", FORWARD, gate, update).emit_forward(keep=True)
    _Function(module, "backward", BACKWARD, gate, update).emit_backward()
    return str(module)


class _Function:
    """One function of a module: its table is read, and a loop over the elements is emitted.

    The loop is a function of its own whose pointers are `noalias`, which is inlined.
    """

    def __init__(
        self, module: ir.Module, name: str, fields: tuple[str, ...], gate: Gate, update: Gate
    ) -> None:
        from llvmlite import ir

        self.ir, self.gate, self.update = ir, gate, update
        self.f32, self.i64 = ir.FloatType(), ir.IntType(64)
        self.pointer = ir.PointerType(self.f32)
        counts = ("elements", "batch", "size")
        kinds = [self.i64 if field in counts else self.pointer for field in fields]
        inner_type = ir.FunctionType(ir.VoidType(), [*kinds, self.i64, self.i64])
        inner = ir.Function(module, inner_type, f"{name}_loop")
        inner.linkage = "internal"
        inner.attributes.add("alwaysinline")
        outer = ir.Function(module, ir.FunctionType(ir.VoidType(), [self.i64] * 3), name)
        self.build = ir.IRBuilder(outer.append_basic_block())
        table = self.build.inttoptr(outer.args[0], ir.PointerType(self.i64))
        values = []
        for index, kind in enumerate(kinds):
            place = self.build.gep(table, [ir.Constant(self.i64, index)])
            value = self.build.load(place)
            values.append(value if kind == self.i64 else self.build.inttoptr(value, kind))
        self.build.call(inner, [*values, *outer.args[1:]])
        self.build.ret_void()
        for argument in inner.args:
            if argument.type == self.pointer:
                argument.add_attribute("noalias")
        self.args = dict(zip((*fields, "step", "row"), inner.args, strict=True))
        self.build = ir.IRBuilder(inner.append_basic_block())

    def emit_forward(self, *, keep: bool) -> None:
        """h' = z (h - zeta c) + (zeta + nu) c."""
        args, count = self.args, self.args["elements"]
        now = self.build.mul(args["step"], count)
        after = self.build.add(now, count)
        row = self.build.mul(args["row"], count)
        zeta, both = self._load("scales", self._int(0)), self._load("scales", self._int(1))
        with self._loop(count) as index:
            driven = self._load("driven", self.build.add(row, index))
            total = self._add(self._load("product", index), driven)
            z = _GATES[self.gate.name](self, total)
            c = _GATES[self.update.name](self, self._add(total, self._load("gap", index)))
            here = self.build.add(now, index)
            if keep:
                self._store(z, "gate", here)
                self._store(c, "update", here)
            less = self._subtract(self._load("states", here), self._times(zeta, c))
            state = self._add(self._times(z, less), self._times(both, c))
            self._store(state, "states", self.build.add(after, index))
        self.build.ret_void()

    def emit_backward(self) -> None:
        """A step of `strzoo.rnn.steps.backward`: `carried` holds e z of the step after."""
        args, size = self.args, self.args["size"]
        now = self.build.mul(self.build.mul(args["step"], args["batch"]), size)
        zeta, both = self._load("scales", self._int(0)), self._load("scales", self._int(1))
        with self._loop(args["batch"]) as row:
            begin = self.build.mul(row, size)
            with self._loop(size) as column:
                index = self.build.add(begin, column)
                here = self.build.add(now, index)
                error = self._add(self._load("carried", index), self._load("product", index))
                error = self._add(error, self._load("grad", here))
                z, c = self._load("gate", here), self._load("update", here)
                less = self._subtract(self._load("states", here), self._times(zeta, c))
                through_z = self._times(_SLOPES[self.gate.name](self, z), less)
                factor = self._subtract(both, self._times(zeta, z))
                through_c = self._times(_SLOPES[self.update.name](self, c), factor)
                self._store(self._times(error, self._add(through_z, through_c)), "slopes", here)
                self._store(self._times(error, z), "carried", index)
                by_c = self._times(error, c)
                sums = {"by_update": self._times(error, through_c), "by_nu": by_c,
                        "by_zeta": self._subtract(by_c, self._times(by_c, z))}  # fmt: skip
                for name, value in sums.items():
                    self._store(self._add(self._load(name, column), value), name, column)
        self.build.ret_void()

    def _loop(self, count: Any) -> _Loop:
        return _Loop(self, count)

    def _int(self, value: int) -> Any:
        return self.ir.Constant(self.i64, value)

    def number(self, value: float) -> Any:
        """A constant."""
        return self.ir.Constant(self.f32, value)

    def _load(self, name: str, index: Any) -> Any:
        return self.build.load(self.build.gep(self.args[name], [index]))

    def _store(self, value: Any, name: str, index: Any) -> None:
        self.build.store(value, self.build.gep(self.args[name], [index]))

    def _add(self, a: Any, b: Any) -> Any:
        return self.build.fadd(a, b, flags=("contract",))

    def _subtract(self, a: Any, b: Any) -> Any:
        return self.build.fsub(a, b, flags=("contract",))

    def _times(self, a: Any, b: Any) -> Any:
        return self.build.fmul(a, b, flags=("contract",))

    def affine(self, x: Any, scale: float, shift: float) -> Any:
        """scale x + shift."""
        return self._add(self._times(x, self.number(scale)), self.number(shift))

    def clip(self, x: Any, low: float, high: float) -> Any:
        """x within bounds; NaN stays NaN, since both comparisons are false."""
        for sign, bound in (("<", low), (">", high)):
            limit = self.number(bound)
            x = self.build.select(self.build.fcmp_ordered(sign, x, limit), limit, x)
        return x

    def where_below(self, x: Any, bound: float, value: float) -> Any:
        """`value` where |x| < bound, else 0."""
        inside = self.build.fcmp_ordered("<", self.clip_sign(x), self.number(bound))
        return self.build.select(inside, self.number(value), self.number(0.0))

    def clip_sign(self, x: Any) -> Any:
        """|x|."""
        negative = self.build.fcmp_ordered("<", x, self.number(0.0))
        return self.build.select(negative, self.build.fneg(x), x)

    def expm1(self, x: Any) -> Any:
        """e^x - 1 with its relative accuracy kept near 0, for |x| < 88.

        e^x = 2^n e^r with n the nearest integer to x / ln 2; e^r - 1 is its Taylor series up to
        r^7, which is exact to fp32 for |r| <= ln 2 / 2. Adding 3 * 2^22 rounds to an integer, which
        then stands in the lowest bits.
        """
        build, magic = self.build, 3.0 * 2**22
        shifted = self.affine(x, _round(1 / math.log(2)), magic)
        n = build.fsub(shifted, self.number(magic))
        high = 0.693359375  # of ln 2, few bits: the product with n is exact
        r = self._subtract(x, self._times(n, self.number(high)))
        r = self._subtract(r, self._times(n, self.number(_round(math.log(2) - high))))
        series = self.number(_round(1 / math.factorial(7)))
        for power in range(6, 0, -1):
            series = self._add(
                self._times(series, r), self.number(_round(1 / math.factorial(power)))
            )
        series = self._times(series, r)
        i32 = self.ir.IntType(32)
        bits = build.shl(build.bitcast(shifted, i32), self.ir.Constant(i32, 23))
        power_of_2 = build.bitcast(build.add(bits, self.ir.Constant(i32, 127 << 23)), self.f32)
        return self._add(self._times(power_of_2, series), self._add(power_of_2, self.number(-1.0)))


class _Loop:
    """`with loop as index:` emits what is inside for each index from 0 to `count`."""

    def __init__(self, function: _Function, count: Any) -> None:
        self._function, self._count = function, count

    def __enter__(self) -> Any:
        f = self._function
        before = f.build.block
        self._body = f.build.append_basic_block()
        self._after = f.build.append_basic_block()
        f.build.cbranch(f.build.icmp_signed(">", self._count, f._int(0)), self._body, self._after)
        f.build.position_at_end(self._body)
        self._index = f.build.phi(f.i64)
        self._index.add_incoming(f._int(0), before)
        return self._index

    def __exit__(self, *_: object) -> None:
        f = self._function
        following = f.build.add(self._index, f._int(1), flags=("nsw",))
        self._index.add_incoming(following, f.build.block)
        more = f.build.icmp_signed("<", following, self._count)
        f.build.cbranch(more, self._body, self._after)
        f.build.position_at_end(self._after)


def _round(value: float) -> float:
    """The nearest fp32 number, which is what LLVM accepts as a constant of that type."""
    return ctypes.c_float(value).value


def _sigmoid(f: _Function, x: Any) -> Any:
    opposite = f.clip(f.build.fneg(x), -80.0, 80.0)
    return f.build.fdiv(f.number(1.0), f.affine(f.expm1(opposite), 1.0, 2.0))


def _tanh(f: _Function, x: Any) -> Any:
    less = f.expm1(f.clip(f.affine(x, 2.0, 0.0), -40.0, 40.0))
    return f.build.fdiv(less, f.affine(less, 1.0, 2.0))


def _ramp(f: _Function, x: Any, reach: float) -> Any:
    return f.clip(f.affine(x, 1 / (2 * reach), 0.5), 0.0, 1.0)


_Emitter = Callable[[_Function, Any], Any]
_GATES: dict[str, _Emitter] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": lambda f, x: f.clip(x, 0.0, math.inf),
    "quantTanh": lambda f, x: f.clip(x, -1.0, 1.0),
    "quantSigm": lambda f, x: _ramp(f, x, 1.0),
    "quantSigm4": lambda f, x: _ramp(f, x, 2.0),
}
_SLOPES: dict[str, _Emitter] = {
    "sigmoid": lambda f, y: f._subtract(y, f._times(y, y)),
    "tanh": lambda f, y: f._subtract(f.number(1.0), f._times(y, y)),
    "relu": lambda f, y: f.build.select(
        f.build.fcmp_ordered(">", y, f.number(0.0)), f.number(1.0), f.number(0.0)
    ),
    "quantTanh": lambda f, y: f.where_below(y, 1.0, 1.0),
    "quantSigm": lambda f, y: f.where_below(f.affine(y, 1.0, -0.5), 0.5, 0.5),
    "quantSigm4": lambda f, y: f.where_below(f.affine(y, 1.0, -0.5), 0.5, 0.25),
}
