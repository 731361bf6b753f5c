"""The function that runs a plan: each thread runs its share of every instruction, with a barrier
after each."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, I64, KERNEL, Emitter, number

NAME = "run_plan"
SPINS = 4000  # times that a thread looks at the barrier before it yields its core
KIND = ir.FunctionType(ir.VoidType(), [BYTES, I64, I64, *KERNEL.args[1:6], BYTES, *KERNEL.args[6:]])


def emit_program(module: ir.Module) -> ir.Function:
    """void run_plan(rows, count, row size, arena, constants, scratch, input, output, barrier,
    thread, threads, images). The barrier is {i64 arrivals, address of a function that yields}."""
    function = ir.Function(module, KIND, NAME)
    names = "rows count size arena constants scratch input output barrier thread threads images"
    for name, argument in zip(names.split(), function.args, strict=True):
        argument.name = name
    rows, count, size, *places, barrier, thread, threads, images = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        row = e.at(rows, e.mul(index, size))
        kernel = e.build.inttoptr(e.load(row, I64, 0), KERNEL.as_pointer())
        e.build.call(kernel, [row, *places, thread, threads, images])
        with e.when(e.build.icmp_signed(">", threads, number(1))):
            _wait(e, barrier, e.mul(e.load(row, I64, 8), threads))
    e.finish()
    return function


def _wait(e: Emitter, barrier: ir.Value, arrivals: ir.Value) -> None:
    """Arrive, then wait until all threads have; the count of arrivals only grows during a run."""
    counter = e.build.bitcast(barrier, I64.as_pointer())
    e.build.atomic_rmw("add", counter, number(1), "acq_rel")

    def arrived() -> ir.Value:
        return e.build.icmp_signed(">=", e.build.load_atomic(counter, "acquire", 8), arrivals)

    spin_until(e, arrived, e.load(barrier, I64, 8))


def spin_until(e: Emitter, arrived: Callable[[], ir.Value], yield_: ir.Value) -> None:
    """Loop until `arrived()` is true. Every `SPINS` times call the function at `yield_`, so that a
    thread without a core of its own gets one."""
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
    nothing = ir.FunctionType(ir.VoidType(), []).as_pointer()
    build.call(build.inttoptr(yield_, nothing), [])
    spins.add_incoming(number(0), rest)
    build.branch(check)
    build.position_at_end(done)
