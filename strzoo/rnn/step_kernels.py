"""The element-wise part of a FastGRNN step as machine code, by llvmlite (the extra strzoo[engine]).

numpy makes a step of some fifteen passes over its elements; here it is one loop, which LLVM
vectorises, forward and backward. In fp32 only: its exponential is a polynomial of that accuracy.
Without llvmlite, or where it cannot load code, the loops of `strzoo.rnn.steps` run on numpy alone.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from strzoo.rnn.gates import Gate
from strzoo.rnn.kernel_math import FRACTIONS, GATES, SLOPES, Arithmetic

if TYPE_CHECKING:
    from llvmlite import ir

_LOG = logging.getLogger(__name__)

# What the functions read: an array of addresses and counts, in this order.
FORWARD = ("product", "driven", "gate_bias", "update_bias", "states", "gate", "update", "scales",
           "elements")  # fmt: skip
BACKWARD = ("grad", "carried", "product", "gate", "update", "states", "slopes",
            "by_all", "by_update", "by_nu", "by_zeta", "scales", "batch", "size")  # fmt: skip

Step = Callable[[int, int, int], None]


class StepKernels:
    """The compiled functions of two nonlinearities. Each takes the address of its table (`FORWARD`,
    `BACKWARD`; 64-bit values), the number of the step, and that of its row in `driven`, or in
    `grad`."""

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


class _Function(Arithmetic):
    """One function of a module: its table is read, and a loop over the elements is emitted.

    The loop is a function of its own whose pointers are `noalias`, which is inlined.
    """

    def __init__(
        self, module: ir.Module, name: str, fields: tuple[str, ...], gate: Gate, update: Gate
    ) -> None:
        super().__init__()
        ir, self.gate, self.update = self.ir, gate, update
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
            total = self.add(self._load("product", index), driven)
            z, c = self._both_gates(
                self.add(total, self._load("gate_bias", index)),
                self.add(total, self._load("update_bias", index)),
            )
            here = self.build.add(now, index)
            if keep:
                self._store(z, "gate", here)
                self._store(c, "update", here)
            less = self.subtract(self._load("states", here), self.times(zeta, c))
            state = self.add(self.times(z, less), self.times(both, c))
            self._store(state, "states", self.build.add(after, index))
        self.build.ret_void()

    def _both_gates(self, for_gate: Any, for_update: Any) -> tuple[Any, Any]:
        """z and c. Two fractions share one division, which costs as much as an exponential."""
        parts = [
            FRACTIONS[gate.name](self, x) if gate.name in FRACTIONS else (None, x)
            for gate, x in ((self.gate, for_gate), (self.update, for_update))
        ]
        (top, bottom), (other_top, other_bottom) = parts
        if top is not None and other_top is not None:
            share = self.divide(self.number(1.0), self.times(bottom, other_bottom))
            return (
                self.times(self.times(top, other_bottom), share),
                self.times(self.times(other_top, bottom), share),
            )
        z, c = (
            GATES[gate.name](self, below) if above is None else self.divide(above, below)
            for gate, (above, below) in zip((self.gate, self.update), parts, strict=True)
        )
        return z, c

    def emit_backward(self) -> None:
        """A step of `strzoo.rnn.steps.backward`: `carried` holds e z of the step after."""
        args, size = self.args, self.args["size"]
        now = self.build.mul(self.build.mul(args["step"], args["batch"]), size)
        given = self.build.mul(self.build.mul(args["row"], args["batch"]), size)
        zeta, both = self._load("scales", self._int(0)), self._load("scales", self._int(1))
        with self._loop(args["batch"]) as row:
            begin = self.build.mul(row, size)
            with self._loop(size) as column:
                index = self.build.add(begin, column)
                here = self.build.add(now, index)
                error = self.add(self._load("carried", index), self._load("product", index))
                error = self.add(error, self._load("grad", self.build.add(given, index)))
                z, c = self._load("gate", here), self._load("update", here)
                less = self.subtract(self._load("states", here), self.times(zeta, c))
                through_z = self.times(SLOPES[self.gate.name](self, z), less)
                factor = self.subtract(both, self.times(zeta, z))
                through_c = self.times(SLOPES[self.update.name](self, c), factor)
                slope = self.times(error, self.add(through_z, through_c))
                self._store(slope, "slopes", here)
                self._store(self.times(error, z), "carried", index)
                by_c = self.times(error, c)
                sums = {"by_all": slope, "by_update": self.times(error, through_c), "by_nu": by_c,
                        "by_zeta": self.subtract(by_c, self.times(by_c, z))}  # fmt: skip
                for name, value in sums.items():
                    self._store(self.add(self._load(name, column), value), name, column)
        self.build.ret_void()

    def _loop(self, count: Any) -> _Loop:
        return _Loop(self, count)

    def _int(self, value: int) -> Any:
        return self.ir.Constant(self.i64, value)

    def _load(self, name: str, index: Any) -> Any:
        return self.build.load(self.build.gep(self.args[name], [index]))

    def _store(self, value: Any, name: str, index: Any) -> None:
        self.build.store(value, self.build.gep(self.args[name], [index]))


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
