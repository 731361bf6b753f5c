"""Native functions with which threads work together without the Python interpreter.

Each worker thread waits in `serve` for tasks in its mailbox.

A task is a row of i64: the address of a `run_plan`, then its arguments. Several threads may have
the same tasks, each for memory of its own; then NEXT leads to the number of the next task that none
of them has begun.
"""

from __future__ import annotations

from llvmlite import ir

from strzoo.engine.codegen.builder import BYTES, I64, Emitter, number
from strzoo.engine.codegen.dispatch import KIND as RUN_PLAN
from strzoo.engine.codegen.dispatch import spin_until
from strzoo.engine.codegen.mailboxes import (
    ASLEEP,
    COUNT,
    DONE,
    HANDLE,
    MAILBOX,
    NEXT,
    OFFER,
    POST,
    TASKS,
    TICKET,
    WAIT,
    YIELD,
)

TASK_FIELDS = 1 + len(RUN_PLAN.args)
# How often a worker looks for the next task before it sleeps. Each time takes as long as the
# processor's pause instruction (25 to 45 ns), so calls that follow at once find the worker awake.
IDLE_SPINS = 1500

_WAIT = ir.FunctionType(I64, [BYTES, I64])
_POST = ir.FunctionType(I64, [BYTES, I64, BYTES])


def emit_team(module: ir.Module) -> None:
    """void serve(mailbox); void submit(mailboxes, count); void wait_all(mailboxes, count);
    void run_tasks(tasks, count, next); void run_team(mailboxes, count, tasks, number of tasks,
    next); void rest(count, yield)."""
    run_tasks = _function(module, "run_tasks", [BYTES, I64, BYTES])
    submit, wait_all = (_function(module, name, [BYTES, I64]) for name in ("submit", "wait_all"))
    _emit_run_tasks(run_tasks)
    _emit_submit(submit)
    _emit_wait_all(wait_all)
    _emit_serve(_function(module, "serve", [BYTES]), run_tasks)
    _emit_rest(_function(module, "rest", [I64, I64]))
    run_team = _function(module, "run_team", [BYTES, I64, BYTES, I64, BYTES])
    mailboxes, count, tasks, length, following = run_team.args
    e = Emitter(run_team, 1)
    e.build.call(submit, [mailboxes, count])
    e.build.call(run_tasks, [tasks, length, following])
    e.build.call(wait_all, [mailboxes, count])
    e.finish()


def _function(module: ir.Module, name: str, kinds: list[ir.Type]) -> ir.Function:
    return ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)


def _emit_run_tasks(function: ir.Function) -> None:
    """Run tasks, one after the other; with `next`, those that no other thread has begun."""
    tasks, count, following = function.args
    e = Emitter(function, 1)

    def run(index: ir.Value) -> None:
        task = e.at(tasks, e.mul(index, 8 * TASK_FIELDS))
        run = e.build.inttoptr(e.load(task, I64, 0), RUN_PLAN.as_pointer())
        e.build.call(run, [e.load(task, kind, 8 * (i + 1)) for i, kind in enumerate(RUN_PLAN.args)])

    def run_all() -> None:
        with e.loop(0, count) as index:
            run(index)

    def run_shared() -> None:
        counter = e.build.bitcast(following, I64.as_pointer())
        look, work, done = (function.append_basic_block(name) for name in ("look", "work", "done"))
        e.build.branch(look)
        e.build.position_at_end(look)
        index = e.build.atomic_rmw("add", counter, number(1), "acq_rel")
        e.build.cbranch(e.build.icmp_signed("<", index, count), work, done)
        e.build.position_at_end(work)
        run(index)
        e.build.branch(look)
        e.build.position_at_end(done)

    e.either(e.build.icmp_unsigned("==", following, ir.Constant(BYTES, None)), run_all, run_shared)
    e.finish()


def _emit_rest(function: ir.Function) -> None:
    """Wait as for others, in vain, until a thread would have yielded its core `count` times."""
    count, yield_ = function.args
    e = Emitter(function, 1)
    rests = e.build.alloca(I64)
    e.build.store(number(0), rests)

    def note() -> None:
        e.build.store(e.add(e.build.load(rests), 1), rests)

    def arrived() -> ir.Value:
        value = e.build.load_atomic(rests, "acquire", 8)  # as one looks at the work that is done
        return e.build.icmp_signed(">=", value, count)

    spin_until(e, arrived, yield_, note)
    e.finish()


def _emit_submit(function: ir.Function) -> None:
    """Offer the workers the tasks in their mailboxes, if any, and wake those that sleep."""
    mailboxes, count = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        mailbox = e.at(mailboxes, e.mul(index, MAILBOX))
        with e.when(e.build.icmp_signed("!=", e.load(mailbox, I64, COUNT), number(0))):
            ticket = e.add(e.load(mailbox, I64, TICKET), 1)
            e.build.store_atomic(ticket, _counter(e, mailbox, OFFER), "seq_cst", 8)
            e.build.store_atomic(ticket, _counter(e, mailbox, TICKET), "seq_cst", 8)
            asleep = _counter(e, mailbox, ASLEEP)
            was_asleep = e.build.atomic_rmw("xchg", asleep, number(0), "seq_cst")
            with e.when(e.build.icmp_signed("!=", was_asleep, number(0))):
                post = e.build.inttoptr(e.load(mailbox, I64, POST), _POST.as_pointer())
                nothing = ir.Constant(BYTES, None)
                e.build.call(post, [e.load(mailbox, BYTES, HANDLE), number(1), nothing])
    e.finish()


def _emit_wait_all(function: ir.Function) -> None:
    """Withdraw offers that were not taken, and wait until the others have run their tasks."""
    mailboxes, count = function.args
    e = Emitter(function, 1)
    with e.loop(0, count) as index:
        mailbox = e.at(mailboxes, e.mul(index, MAILBOX))
        ticket = e.load(mailbox, I64, TICKET)

        def arrived(mailbox: ir.Value = mailbox, ticket: ir.Value = ticket) -> ir.Value:
            done = e.build.load_atomic(_counter(e, mailbox, DONE), "acquire", 8)
            return e.build.icmp_signed("==", done, ticket)

        offer = e.build.atomic_rmw("xchg", _counter(e, mailbox, OFFER), number(0), "seq_cst")
        withdrawn = e.build.icmp_signed("==", offer, ticket)
        with e.when(withdrawn):  # a call that offers nothing finds it done, too
            e.build.store_atomic(ticket, _counter(e, mailbox, DONE), "release", 8)
        spin_until(e, arrived, e.load(mailbox, I64, YIELD))
    e.finish()


def _emit_serve(function: ir.Function, run_tasks: ir.Function) -> None:
    """Run tasks as they come, until COUNT is STOP."""
    (mailbox,) = function.args
    e = Emitter(function, 1)
    build = e.build
    entry = build.block
    look, rest, sleep, wake, take, work, end = (
        function.append_basic_block(name)
        for name in ("look", "rest", "sleep", "wake", "take", "work", "end")
    )
    build.branch(look)

    build.position_at_end(look)
    seen, spins = build.phi(I64), build.phi(I64)
    ticket = build.load_atomic(_counter(e, mailbox, TICKET), "acquire", 8)
    build.cbranch(build.icmp_signed("!=", ticket, seen), take, rest)

    build.position_at_end(rest)
    _pause(e)
    tired = build.icmp_signed(">", spins, number(IDLE_SPINS))
    next_spins = build.add(spins, number(1))
    build.cbranch(tired, sleep, look)

    build.position_at_end(sleep)
    build.atomic_rmw("xchg", _counter(e, mailbox, ASLEEP), number(1), "seq_cst")
    again = build.load_atomic(_counter(e, mailbox, TICKET), "seq_cst", 8)
    with e.when(build.icmp_signed("==", again, seen)):
        wait = build.inttoptr(e.load(mailbox, I64, WAIT), _WAIT.as_pointer())
        build.call(wait, [e.load(mailbox, BYTES, HANDLE), number(-1)])
    build.branch(wake)

    build.position_at_end(wake)
    build.atomic_rmw("xchg", _counter(e, mailbox, ASLEEP), number(0), "seq_cst")
    build.branch(look)

    build.position_at_end(take)
    offer = _counter(e, mailbox, OFFER)
    taken = build.cmpxchg(offer, ticket, number(0), "seq_cst", "seq_cst")
    build.cbranch(build.extract_value(taken, 1), work, look)

    build.position_at_end(work)
    count = e.load(mailbox, I64, COUNT)
    stop = build.icmp_signed("<", count, number(0))
    with e.when(stop):
        build.branch(end)
    tasks, following = (e.load(mailbox, BYTES, at) for at in (TASKS, NEXT))
    build.call(run_tasks, [tasks, count, following])
    build.store_atomic(ticket, _counter(e, mailbox, DONE), "release", 8)
    worked = build.block
    build.branch(look)

    for value, before, after_rest, after_work in (
        (seen, number(0), seen, ticket),
        (spins, number(0), next_spins, number(0)),
    ):
        value.add_incoming(after_work, take)  # withdrawn: not to be taken any more
        value.add_incoming(before, entry)
        value.add_incoming(after_rest, rest)
        # A worker that wakes without a task sleeps again at once.
        value.add_incoming(value, wake)
        value.add_incoming(after_work, worked)

    build.position_at_end(end)
    e.finish()


def _pause(e: Emitter) -> None:
    """Give the core's other hardware thread priority for a moment, where an instruction can."""
    triple = str(e.module.triple)
    if triple.startswith(("x86_64", "i686", "amd64")):
        kind = ir.FunctionType(ir.VoidType(), [])
        e.build.call(e.intrinsic("llvm.x86.sse2.pause", kind), [])


def _counter(e: Emitter, mailbox: ir.Value, offset: int) -> ir.Value:
    return e.build.bitcast(e.at(mailbox, offset), I64.as_pointer())
