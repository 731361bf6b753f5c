"""A structured layer over llvmlite's IR builder: loops, conditions, vectors, addresses.

Every kernel has one signature, so that an instruction is a function and a row of numbers:

    void kernel(op, arena, constants, scratch, input, output, first, last, images)

`op` points to the instruction's row of i64 operands. The work of an instruction is a number of
units, such as the planes of all tiles, of which the call does [first, last). Places in the arena
and in the constants are byte offsets, so that a plan can be saved and loaded unchanged. Arithmetic
is on i64 and on vectors: of fp32, or of 16-bit fixed point (`Emitter.fixed`), twice as many in a
vector, whose sums saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy

from llvmlite import ir

from strzoo.engine.codegen.operands import Kernel, Operand, Place, Real, Table, row_operands

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32 = ir.FloatType()
BYTES = I8.as_pointer()
KERNEL = ir.FunctionType(ir.VoidType(), [BYTES] * 6 + [I64] * 3)
ARGUMENTS = (
    "op",
    "arena",
    "constants",
    "scratch",
    "input",
    "output",
    "first",
    "last",
    "images",
)


def number(value: int) -> ir.Constant:
    """A constant i64."""
    return ir.Constant(I64, value)


def vector_type(lanes: int, element: ir.Type = F32) -> ir.Type:
    """`lanes` numbers; a single one is no vector, because LLVM handles <1 x float> poorly."""
    return ir.VectorType(element, lanes) if lanes > 1 else element


# The instruction that multiplies two vectors of so many 16-bit numbers and keeps the rounded upper
# half of twice the product: (a * b + 2^14) >> 15.
_MULTIPLY_ROUNDED = {
    ("x86_64", 32): "llvm.x86.avx512.pmul.hr.sw.512",
    ("x86_64", 16): "llvm.x86.avx2.pmul.hr.sw",
    ("x86_64", 8): "llvm.x86.ssse3.pmul.hr.sw.128",
    ("aarch64", 8): "llvm.aarch64.neon.sqrdmulh.v8i16",
}
# Both steps in one, with the same result, where the processor has the feature.
_MULTIPLY_ADD_ROUNDED = "llvm.aarch64.neon.sqrdmlah.v8i16"
_MULTIPLY_ADD_FEATURE = "+rdm"


def inner_function(module: ir.Module, name: str, kind: ir.FunctionType) -> tuple[ir.Function, bool]:
    """A function that kernels of the module call, and whether it has yet to be written."""
    found = module.globals.get(name)
    if found is not None:
        return found, False
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function, True


class Emitter:
    """Writes one function, if it is that of a kernel, with the kernel's operands.

    Args:
        lanes: 32-bit numbers in a vector; with `fixed`, vectors hold twice as many of 16 bits.
    """

    def __init__(
        self,
        function: ir.Function,
        lanes: int,
        kernel: Kernel | None = None,
        *,
        fixed: bool = False,
    ) -> None:
        self.function = function
        self.module: ir.Module = function.module
        self.lanes, self.fixed = lanes, fixed
        self.element = I16 if fixed else F32
        self.width = 2 * lanes if fixed else lanes  # numbers in a vector
        self.build = ir.IRBuilder(function.append_basic_block("entry"))
        self._operands: dict[str, Operand] = {}
        self._positions: dict[str, int] = {}
        if kernel is not None:
            self._operands = {operand.name: operand for operand in kernel.operands}
            self._positions = {o.name: index for index, o in enumerate(row_operands(kernel))}
        if function.function_type == KERNEL:
            for name, argument in zip(ARGUMENTS, function.args, strict=True):
                argument.name = name
                if name in ("op", "arena", "constants", "scratch", "input", "output"):
                    argument.add_attribute("noalias")
                setattr(self, name, argument)

    op: ir.Value
    arena: ir.Value
    constants: ir.Value
    scratch: ir.Value
    input: ir.Value
    output: ir.Value
    first: ir.Value
    last: ir.Value
    images: ir.Value

    @property
    def registers(self) -> int:
        """Vector registers of a processor with such vectors."""
        return 32 if self.lanes == 16 else 16

    # Numbers

    def field(self, name: str) -> ir.Value:
        """The operand of that name, an i64."""
        assert not isinstance(self._operands[name], Real), name
        return self.load(self.op, I64, number(8 * self._positions[name]))

    def real_field(self, name: str) -> ir.Value:
        """The operand of that name, a float64 rounded to fp32."""
        assert isinstance(self._operands[name], Real), name
        value = self.load(self.op, ir.DoubleType(), number(8 * self._positions[name]))
        return self.build.fptrunc(value, F32)

    def base(self, name: str) -> ir.Value:
        """The start of the area that the operand `name` is an offset into."""
        operand = self._operands[name]
        assert isinstance(operand, Place | Table), name
        base: ir.Value = getattr(self, operand.area)
        return base

    def address(self, name: str) -> ir.Value:
        """The address of what the operand `name` leads to."""
        return self.at(self.base(name), self.field(name))

    def integer(self, value: int | ir.Value) -> ir.Value:
        return number(value) if isinstance(value, int) else value

    def add(self, a: ir.Value, b: int | ir.Value) -> ir.Value:
        return self.build.add(a, self.integer(b))

    def mul(self, a: ir.Value, b: int | ir.Value) -> ir.Value:
        return self.build.mul(a, self.integer(b))

    def smallest_integer(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.build.select(self.build.icmp_signed("<", a, b), a, b)

    def largest_integer(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.build.select(self.build.icmp_signed(">", a, b), a, b)

    # Memory

    def at(self, base: ir.Value, offset: int | ir.Value) -> ir.Value:
        """The address `offset` bytes after `base`."""
        return self.build.gep(base, [self.integer(offset)])

    def load(
        self, base: ir.Value, type_: ir.Type, offset: int | ir.Value = 0, align: int = 4
    ) -> ir.Value:
        place = self.build.bitcast(self.at(base, offset), type_.as_pointer())
        return self.build.load(place, align=align)

    def store(
        self, value: ir.Value, base: ir.Value, offset: int | ir.Value = 0, align: int = 4
    ) -> None:
        place = self.build.bitcast(self.at(base, offset), value.type.as_pointer())
        self.build.store(value, place, align=align)

    def load_i32(self, base: ir.Value, offset: int | ir.Value = 0) -> ir.Value:
        return self.build.sext(self.load(base, I32, offset), I64)

    def load_vector(
        self, base: ir.Value, offset: int | ir.Value = 0, lanes: int | None = None
    ) -> ir.Value:
        return self.load(base, vector_type(lanes or self.width, self.element), offset)

    def prefetch(self, place: ir.Value) -> None:
        """Fetch the cache line at `place`, which will be read soon, to the nearest cache."""
        kind = ir.FunctionType(ir.VoidType(), [BYTES, I32, I32, I32])
        function = self.intrinsic("llvm.prefetch.p0", kind)
        read, near, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        self.build.call(function, [place, read, near, data])

    # Vectors

    def splat(self, value: ir.Value, lanes: int | None = None) -> ir.Value:
        lanes = lanes or self.width
        if lanes == 1:
            return value
        kind = vector_type(lanes, value.type)
        one = self.build.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.build.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)

    def spread(self, base: ir.Value, offset: ir.Value, count: int) -> list[ir.Value]:
        """`count` numbers from there on, each in a vector of its own."""
        size = 2 if self.fixed else 4
        kind = ir.VectorType(I32, self.width)
        if self.lanes < 16 or not self.fixed:
            numbers = self.load(base, ir.VectorType(self.element, count), offset, align=size)
            masks = [[index] * self.width for index in range(count)]
        else:
            # All of them in each 16 bytes, from where one instruction spreads one. LLVM would fetch
            # them as an integer, and take two for each. It does not look behind an assembly
            # instruction, even behind none.
            whole = self.load(base, ir.IntType(8 * size * count), offset, align=size)
            whole = self.splat(whole, self.width // count)
            same = ir.InlineAsm(ir.FunctionType(whole.type, [whole.type]), "", "=v,0")
            whole = self.build.call(same, [whole])
            numbers = self.build.bitcast(whole, vector_type(self.width, self.element))
            part = 16 // size
            starts = [place // part * part for place in range(self.width)]
            masks = [[start + index for start in starts] for index in range(count)]
        return [
            self.build.shuffle_vector(numbers, numbers, ir.Constant(kind, mask)) for mask in masks
        ]

    def widened(self, count: int) -> Emitter:
        """An emitter at the same place, for vectors of fp32 that are `count` times as wide. LLVM
        takes them apart, step by step."""
        wide = copy(self)
        wide.lanes = wide.width = count * self.lanes
        return wide

    def joined(self, values: Sequence[ir.Value]) -> ir.Value:
        """Vectors (a power of two of them) or numbers, one after the other in one vector."""
        if len(values) == 1:
            return values[0]
        if not isinstance(values[0].type, ir.VectorType):
            made: ir.Value = ir.Constant(vector_type(len(values)), ir.Undefined)
            for index, value in enumerate(values):
                made = self.build.insert_element(made, value, ir.Constant(I32, index))
            return made
        size = 2 * values[0].type.count
        both = ir.Constant(ir.VectorType(I32, size), list(range(size)))
        pairs = zip(values[::2], values[1::2], strict=True)
        return self.joined([self.build.shuffle_vector(a, b, both) for a, b in pairs])

    def parted(self, value: ir.Value, count: int) -> list[ir.Value]:
        """A vector as `count` vectors, or numbers."""
        if count == 1:
            return [value]
        size = value.type.count // count
        if size == 1:
            indices = [ir.Constant(I32, index) for index in range(count)]
            return [self.build.extract_element(value, index) for index in indices]
        masks = [range(start, start + size) for start in range(0, value.type.count, size)]
        kind = ir.VectorType(I32, size)
        return [
            self.build.shuffle_vector(value, value, ir.Constant(kind, list(mask))) for mask in masks
        ]

    def constant(self, value: float, lanes: int | None = None) -> ir.Constant:
        lanes = lanes or self.width
        number = int(value) if self.fixed else value
        if lanes == 1:
            return ir.Constant(self.element, number)
        return ir.Constant(vector_type(lanes, self.element), [number] * lanes)

    def intrinsic(self, name: str, kind: ir.FunctionType) -> ir.Function:
        return self.module.globals.get(name) or ir.Function(self.module, kind, name)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c; fused if the processor can do that, never a library call."""
        suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
        kind = ir.FunctionType(a.type, [a.type] * 3)
        return self.build.call(self.intrinsic(f"llvm.fmuladd.{suffix}", kind), [a, b, c])

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c; in fixed point, the product is rounded to units of `c`, 2^15 of `a` times `b`,
        and the sum saturates."""
        if not self.fixed:
            return self.fma(a, b, c)
        if self.multiplies_and_adds:
            kind = ir.FunctionType(a.type, [a.type] * 3)
            return self.build.call(self.intrinsic(_MULTIPLY_ADD_ROUNDED, kind), [c, a, b])
        return self.sum(c, self._product(a, b))

    def multiply_add_four(
        self, weights: Sequence[ir.Value], vectors: Sequence[ir.Value], c: ir.Value
    ) -> ir.Value:
        """`c` and the sum of four products in fixed point, of which only the last sum saturates:
        the others must fit 16 bits. Additions that saturate share few units of the processor with
        the multiplications (Zen 4), others do not."""
        products = [self._product(a, b) for a, b in zip(weights, vectors, strict=True)]
        add = self.build.add
        return self.sum(c, add(add(products[0], products[1]), add(products[2], products[3])))

    def _product(self, a: ir.Value, b: ir.Value) -> ir.Value:
        name = _MULTIPLY_ROUNDED[self._machine, a.type.count]
        kind = ir.FunctionType(a.type, [a.type] * 2)
        return self.build.call(self.intrinsic(name, kind), [a, b])

    @property
    def _machine(self) -> str:
        return str(self.module.triple).split("-")[0].replace("arm64", "aarch64")

    @property
    def multiplies_and_adds(self) -> bool:
        """Whether one instruction multiplies and adds numbers in fixed point."""
        features = getattr(self.module, "features", "")
        return self._machine == "aarch64" and _MULTIPLY_ADD_FEATURE in features

    def sum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a + b; in fixed point, the largest or smallest number where that is out of range."""
        if not self.fixed:
            return self.build.fadd(a, b)
        kind = ir.FunctionType(a.type, [a.type] * 2)
        return self.build.call(self.intrinsic(f"llvm.sadd.sat.v{a.type.count}i16", kind), [a, b])

    def largest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """max(a, b); a NaN in `a` is kept, because the comparison is false for it."""
        compare = self.build.icmp_signed if self.fixed else self.build.fcmp_ordered
        return self.build.select(compare(">", b, a), b, a)

    def largest_bytes(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of each two unsigned bytes."""
        octets = ir.VectorType(I8, 4 * self.lanes)
        x, y = (self.build.bitcast(value, octets) for value in (a, b))
        larger = self.build.select(self.build.icmp_unsigned(">", y, x), y, x)
        return self.build.bitcast(larger, a.type)

    def smallest(self, a: ir.Value, b: ir.Value) -> ir.Value:
        compare = self.build.icmp_signed if self.fixed else self.build.fcmp_ordered
        return self.build.select(compare("<", b, a), b, a)

    # Control

    @contextmanager
    def loop(
        self, start: int | ir.Value, stop: ir.Value, step: int | ir.Value = 1
    ) -> Iterator[ir.Value]:
        """for index in range(start, stop, step), with a positive step."""
        with self.carrying(start, stop, [], step) as (index, _, _):
            yield index

    @contextmanager
    def carrying(
        self,
        start: int | ir.Value,
        stop: ir.Value,
        initial: Sequence[ir.Value],
        step: int | ir.Value = 1,
    ) -> Iterator[tuple[ir.Value, list[ir.Value], list[ir.Value]]]:
        """A loop that carries values. Yields the index, the values at the start of an iteration,
        and a list that the body fills with the next values. After the loop that list holds the
        results."""
        build = self.build
        first, last = self.integer(start), stop
        before = build.block
        body, done = self._block("body"), self._block("done")
        build.cbranch(build.icmp_signed("<", first, last), body, done)
        build.position_at_end(body)
        index = build.phi(I64)
        index.add_incoming(first, before)
        values = [build.phi(value.type) for value in initial]
        for phi, value in zip(values, initial, strict=True):
            phi.add_incoming(value, before)
        following: list[ir.Value] = []
        yield index, list(values), following
        after = build.add(index, self.integer(step))
        end = build.block
        index.add_incoming(after, end)
        for phi, value in zip(values, following, strict=True):
            phi.add_incoming(value, end)
        build.cbranch(build.icmp_signed("<", after, last), body, done)
        build.position_at_end(done)
        for position, (value, start_value) in enumerate(zip(following, initial, strict=True)):
            result = build.phi(value.type)
            result.add_incoming(start_value, before)
            result.add_incoming(value, end)
            following[position] = result

    @contextmanager
    def when(self, condition: ir.Value) -> Iterator[None]:
        with self.build.if_then(condition):
            yield

    def either(self, condition: ir.Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
        with self.build.if_else(condition) as (then, otherwise):
            with then:
                yes()
            with otherwise:
                no()

    def finish(self) -> None:
        self.build.ret_void()

    def _block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)
