"""The function that runs a plan. Threads share out the work of each instruction while it lasts, and
begin the next one when all of it is done.

The units of an instruction are divided evenly: each thread has its own range, in which it writes to
memory that it has written before (docs/engine-inside.md). It takes a part at a time, up to the next
multiple of the instruction's `step`, and when nothing is left of its own range, from the ranges of
others. So a thread that comes late, or that the system has put aside between two parts, delays
nobody. Only a part that was begun is waited for.

What threads tell each other is in a block of memory (`blocks`).
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from strzoo.engine.codegen.blocks import BUSY, CLAIM, DONE, NAME, THREAD, WAITED, YIELD
from strzoo.engine.codegen.builder import BYTES, I64, KERNEL, Emitter, number
from strzoo.engine.codegen.operands import HEAD

SPINS = 4000  # times that a thread looks whether the work is done before it yields its core
KIND = ir.FunctionType(ir.VoidType(), [BYTES, I64, I64, *KERNEL.args[1:6], BYTES, I64, I64, I64])

_POSITION_BITS = 40  # of a claim, above which is the instruction's number
_NUMBER, _SUM, _UNITS, _STEP = 8, 16, 8 * len(HEAD), 8 * len(HEAD) + 8  # bytes, in a row


def emit_program(module: ir.Module) -> ir.Function:
    """void run_plan(rows, count, row size, arena, constants, scratch, input, output, block, thread,
    threads, images). One thread alone needs no block."""
    function = ir.Function(module, KIND, NAME)
    names = "rows count size arena constants scratch input output block thread threads images"
    for name, argument in zip(names.split(), function.args, strict=True):
        argument.name = name
    rows, count, size, *places, block, thread, threads, images = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        row = e.at(rows, e.mul(index, size))
        kernel = e.build.inttoptr(e.load(row, I64, 0), KERNEL.as_pointer())
        units = e.load(row, I64, _UNITS)

        def run(
            first: ir.Value,
            last: ir.Value,
            row: ir.Value = row,
            kernel: ir.Value = kernel,
        ) -> None:
            e.build.call(kernel, [row, *places, first, last, images])

        e.either(
            e.build.icmp_signed("==", threads, number(1)),
            lambda units=units, run=run: run(number(0), units),  # type: ignore[misc]
            lambda row=row, run=run: _Shared(e, row, block, thread, threads).run(run),  # type: ignore[misc]
        )
    e.finish()
    return function


class _Shared:
    """One thread's part in the work of one instruction."""

    def __init__(
        self, e: Emitter, row: ir.Value, block: ir.Value, thread: ir.Value, threads: ir.Value
    ) -> None:
        self.e, self.row, self.block, self.thread, self.threads = e, row, block, thread, threads
        fields = (_NUMBER, _SUM, _UNITS, _STEP)
        self.number, self.sum, self.units, self.step = (e.load(row, I64, at) for at in fields)

    def run(self, run: Callable[[ir.Value, ir.Value], None]) -> None:
        """Take parts while there are any, then wait until all of the work is done."""
        e, build = self.e, self.e.build
        busy = self._word(self.thread, BUSY)
        with e.carrying(0, self.threads, [number(0)]) as (index, counted, following):
            other = e.add(self.thread, index)
            over = build.icmp_signed(">=", other, self.threads)
            owner = build.select(over, build.sub(other, self.threads), other)
            following.append(self._take_all(owner, counted[0], busy, run))
        done = self._address(DONE)
        with e.when(build.icmp_signed(">", following[0], number(0))):
            build.atomic_rmw("add", done, following[0], "acq_rel")
        spin_until(
            e,
            lambda: build.icmp_signed(">=", build.load_atomic(done, "acquire", 8), self.sum),
            e.load(self.block, I64, YIELD),
            self._note_wait,
        )

    def _take_all(
        self,
        owner: ir.Value,
        counted: ir.Value,
        busy: ir.Value,
        run: Callable[[ir.Value, ir.Value], None],
    ) -> ir.Value:
        """Run what is left of the range of `owner`; returns `counted` and the units of it."""
        e, build = self.e, self.e.build
        claim = self._word(owner, CLAIM)
        start, end = (
            build.udiv(e.mul(self.units, index), self.threads) for index in (owner, e.add(owner, 1))
        )
        look, take, work, leave = (
            e.function.append_basic_block(name) for name in ("look", "take", "work", "leave")
        )
        before = build.block
        build.branch(look)

        build.position_at_end(look)
        total = build.phi(I64)
        total.add_incoming(counted, before)
        word = build.load_atomic(claim, "acquire", 8)
        reached = build.lshr(word, number(_POSITION_BITS))
        position = build.and_(word, number((1 << _POSITION_BITS) - 1))
        # The range was not begun, it is taken up to a position, or the instruction is finished.
        here = build.icmp_signed("==", reached, self.number)
        past = build.icmp_signed(">", reached, self.number)
        first = build.select(here, position, build.select(past, end, start))
        build.cbranch(build.icmp_signed("<", first, end), take, leave)

        build.position_at_end(take)
        next_step = e.mul(e.add(build.udiv(first, self.step), 1), self.step)
        last = e.smallest_integer(next_step, end)
        taken = build.or_(build.shl(self.number, number(_POSITION_BITS)), last)
        result = build.cmpxchg(claim, word, taken, "acq_rel", "acquire")
        total.add_incoming(total, take)
        build.cbranch(build.extract_value(result, 1), work, look)

        build.position_at_end(work)
        build.store_atomic(number(1), busy, "monotonic", 8)
        run(first, last)
        build.store_atomic(number(0), busy, "monotonic", 8)
        counted_now = build.add(total, build.sub(last, first))
        total.add_incoming(counted_now, build.block)
        build.branch(look)

        build.position_at_end(leave)
        return total

    def _note_wait(self) -> None:
        """Count, for the first thread, for whom it waits."""
        e = self.e
        with (
            e.when(e.build.icmp_signed("==", self.thread, number(0))),
            e.loop(0, self.threads) as other,
        ):
            busy = e.build.load_atomic(self._word(other, BUSY), "monotonic", 8)
            there = e.at(self.block, e.add(e.mul(other, THREAD), THREAD + WAITED))
            e.store(e.add(e.load(there, I64), busy), there)

    def _word(self, thread: ir.Value, offset: int) -> ir.Value:
        return self._address(self.e.add(self.e.mul(thread, THREAD), THREAD + offset))

    def _address(self, offset: int | ir.Value) -> ir.Value:
        return self.e.build.bitcast(self.e.at(self.block, offset), I64.as_pointer())


def spin_until(
    e: Emitter,
    arrived: Callable[[], ir.Value],
    yield_: ir.Value,
    on_rest: Callable[[], None] = lambda: None,
) -> None:
    """Loop until `arrived()` is true. Every `SPINS` times do what `on_rest` says and call the
    function at `yield_`, so that a thread without a core of its own gets one."""
    build = e.build
    check, wait, rest, done = (
        e.function.append_basic_block(name) for name in ("check", "wait", "rest", "done")
    )
    before = build.block
    build.branch(check)
    build.position_at_end(check)
    spins = build.phi(I64)
    spins.add_incoming(number(0), before)
    build.cbranch(arrived(), done, wait)
    build.position_at_end(wait)
    next_spins = build.add(spins, number(1))
    spins.add_incoming(next_spins, wait)
    build.cbranch(build.icmp_signed(">", next_spins, number(SPINS)), rest, check)
    build.position_at_end(rest)
    on_rest()
    nothing = ir.FunctionType(ir.VoidType(), []).as_pointer()
    build.call(build.inttoptr(yield_, nothing), [])
    spins.add_incoming(number(0), build.block)
    build.branch(check)
    build.position_at_end(done)
