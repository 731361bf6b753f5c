"""Native functions by which threads work together without the interpreter: each worker waits in
`serve`, its box tells it what to do.

An order is a row of i64: the address of a `run_plan`, then its arguments. A box is what a worker
and its caller share; `handle`, `wait` and `post` are a semaphore of the system. Its functions are
called with more arguments than some systems' take, which C's conventions allow on all of them:

    wait(handle, forever = -1)        post(handle, one = 1, nothing = null)
"""

from __future__ import annotations

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, I64, Emitter, number
from strzoo.engine.codegen.dispatch import KIND as RUN_PLAN
from strzoo.engine.codegen.dispatch import spin_until

ORDER_FIELDS = 1 + len(RUN_PLAN.args)
# Byte offsets in a box. What the worker writes has a cache line of its own.
TICKET, ORDERS, COUNT, ASLEEP, HANDLE, WAIT, POST, YIELD = range(0, 64, 8)
DONE = 64
SEMAPHORE = 128  # room for one that lives in memory of ours
BOX = 256
STOP = -1  # as a count of orders: the worker returns
# Turns of looking for the next order before the worker sleeps, each as long as the processor's
# hint to wait takes (25 to 45 ns): calls that follow each other at once find it awake.
IDLE_SPINS = 1500

_WAIT = ir.FunctionType(I64, [BYTES, I64])
_POST = ir.FunctionType(I64, [BYTES, I64, BYTES])


def emit_team(module: ir.Module) -> None:
    """void serve(box); void send(boxes, count); void finish(boxes, count);
    void obey(orders, count); void lead(boxes, count, orders, number of orders)."""
    obey = _function(module, "obey", [BYTES, I64])
    send, finish = (_function(module, name, [BYTES, I64]) for name in ("send", "finish"))
    _emit_obey(obey)
    _emit_send(send)
    _emit_finish(finish)
    _emit_serve(_function(module, "serve", [BYTES]), obey)
    lead = _function(module, "lead", [BYTES, I64, BYTES, I64])
    boxes, count, orders, length = lead.args
    e = Emitter(lead, 1)
    e.build.call(send, [boxes, count])
    e.build.call(obey, [orders, length])
    e.build.call(finish, [boxes, count])
    e.finish()


NAMES = ("obey", "send", "finish", "serve", "lead")


def _function(module: ir.Module, name: str, kinds: list[ir.Type]) -> ir.Function:
    return ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)


def _emit_obey(function: ir.Function) -> None:
    """Carry out orders, one after the other."""
    orders, count = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        order = e.at(orders, e.mul(index, 8 * ORDER_FIELDS))
        run = e.build.inttoptr(e.load(order, I64, 0), RUN_PLAN.as_pointer())
        e.build.call(
            run, [e.load(order, kind, 8 * (i + 1)) for i, kind in enumerate(RUN_PLAN.args)]
        )
    e.finish()


def _emit_send(function: ir.Function) -> None:
    """Tell the workers that their boxes hold new orders, and wake those that sleep."""
    boxes, count = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        box = e.at(boxes, e.mul(index, BOX))
        e.build.atomic_rmw("add", _counter(e, box, TICKET), number(1), "seq_cst")
        was_asleep = e.build.atomic_rmw("xchg", _counter(e, box, ASLEEP), number(0), "seq_cst")
        with e.when(e.build.icmp_signed("!=", was_asleep, number(0))):
            post = e.build.inttoptr(e.load(box, I64, POST), _POST.as_pointer())
            nothing = ir.Constant(BYTES, None)
            e.build.call(post, [e.load(box, BYTES, HANDLE), number(1), nothing])
    e.finish()


def _emit_finish(function: ir.Function) -> None:
    """Wait until the workers have carried out what was sent."""
    boxes, count = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        box = e.at(boxes, e.mul(index, BOX))
        ticket = e.load(box, I64, TICKET)

        def arrived(box: ir.Value = box, ticket: ir.Value = ticket) -> ir.Value:
            done = e.build.load_atomic(_counter(e, box, DONE), "acquire", 8)
            return e.build.icmp_signed("==", done, ticket)

        spin_until(e, arrived, e.load(box, I64, YIELD))
    e.finish()


def _emit_serve(function: ir.Function, obey: ir.Function) -> None:
    """Carry out orders as they come, until told to stop."""
    (box,) = function.args
    e = Emitter(function, 1)
    build = e.build
    entry = build.block
    look, rest, sleep, wake, work, end = (
        function.append_basic_block(name)
        for name in ("look", "rest", "sleep", "wake", "work", "end")
    )
    build.branch(look)

    build.position_at_end(look)
    seen, spins = build.phi(I64), build.phi(I64)
    ticket = build.load_atomic(_counter(e, box, TICKET), "acquire", 8)
    build.cbranch(build.icmp_signed("!=", ticket, seen), work, rest)

    build.position_at_end(rest)
    _pause(e)
    tired = build.icmp_signed(">", spins, number(IDLE_SPINS))
    next_spins = build.add(spins, number(1))
    build.cbranch(tired, sleep, look)

    # Who sends looks at `asleep` after raising the ticket, so one of the two sees the other. A
    # signal can end the wait early, and a post can come too late to be waited for: both only make
    # the worker look once more.
    build.position_at_end(sleep)
    build.atomic_rmw("xchg", _counter(e, box, ASLEEP), number(1), "seq_cst")
    again = build.load_atomic(_counter(e, box, TICKET), "seq_cst", 8)
    with e.when(build.icmp_signed("==", again, seen)):
        wait = build.inttoptr(e.load(box, I64, WAIT), _WAIT.as_pointer())
        build.call(wait, [e.load(box, BYTES, HANDLE), number(-1)])
    build.branch(wake)

    build.position_at_end(wake)
    build.atomic_rmw("xchg", _counter(e, box, ASLEEP), number(0), "seq_cst")
    build.branch(look)

    build.position_at_end(work)
    count = e.load(box, I64, COUNT)
    stop = build.icmp_signed("<", count, number(0))
    with e.when(stop):
        build.branch(end)
    build.call(obey, [e.load(box, BYTES, ORDERS), count])
    build.store_atomic(ticket, _counter(e, box, DONE), "release", 8)
    worked = build.block
    build.branch(look)

    for value, before, after_rest, after_work in (
        (seen, number(0), seen, ticket),
        (spins, number(0), next_spins, number(0)),
    ):
        value.add_incoming(before, entry)
        value.add_incoming(after_rest, rest)
        # After a sleep that was no use the worker sleeps again at once.
        value.add_incoming(value, wake)
        value.add_incoming(after_work, worked)

    build.position_at_end(end)
    e.finish()


def _pause(e: Emitter) -> None:
    """Leave the core's units to its other thread for a moment, where there is such a hint."""
    triple = str(e.module.triple)
    if triple.startswith(("x86_64", "i686", "amd64")):
        kind = ir.FunctionType(ir.VoidType(), [])
        e.build.call(e.intrinsic("llvm.x86.sse2.pause", kind), [])


def _counter(e: Emitter, box: ir.Value, offset: int) -> ir.Value:
    return e.build.bitcast(e.at(box, offset), I64.as_pointer())
