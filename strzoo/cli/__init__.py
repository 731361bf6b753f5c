"""The `strzoo` command: each subcommand is imported only when it runs.

Errors end in one line on stderr and a documented exit code (`strzoo.errors`); only here are
results printed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import click

from strzoo.cli.output import say
from strzoo.errors import StrzooError, install_advice
from strzoo.version import VERSION

# name -> (module, attribute, help line). The help line is here so that --help imports nothing.
COMMANDS = {
    "list": ("strzoo.cli.models", "list_command", "List the models of the zoo."),
    "info": ("strzoo.cli.models", "info", "Show all that is published about one model."),
    "download": ("strzoo.cli.download", "download", "Fetch published files into the cache."),
    "import": ("strzoo.cli.import_", "import_command", "Cache a file that was fetched by hand."),
    "cache": ("strzoo.cli.cache", "cache", "List, verify and prune the cached files."),
    "report": ("strzoo.cli.report", "report", "Params, sparsity and MACs, layer by layer."),
    "verify": ("strzoo.cli.verify", "verify", "Compare computed figures with the published."),
    "compare": ("strzoo.cli.compare", "compare", "Set several models side by side."),
    "evaluate": ("strzoo.cli.evaluate", "evaluate", "Measure top-1 and top-5 on ImageNet."),
    "predict": ("strzoo.cli.predict", "predict", "Name what is in images."),
    "train": ("strzoo.cli.train", "train", "Train a recipe: dense, STR, DNW or GMP."),
    "prune": ("strzoo.cli.prune", "prune", "Make a network sparse at once, without training."),
    "convert": ("strzoo.cli.convert", "convert", "Convert a checkpoint to another form."),
    "budgets": ("strzoo.cli.budgets", "budgets", "Show, compare and extract sparsity budgets."),
    "paper": ("strzoo.cli.paper", "paper", "Show the paper's tables and what repeats them."),
    "export": ("strzoo.cli.export", "export", "Write a model as ONNX, checked against torch."),
    "inspect": ("strzoo.cli.inspection", "inspect", "Report what an ONNX file holds."),
    "benchmark": ("strzoo.cli.benchmark", "benchmark", "Time models on several engines."),
    "tradeoff": (
        "strzoo.cli.tradeoff",
        "tradeoff",
        "Accuracy and latency at several sparsities.",
    ),
    "compile": ("strzoo.cli.compile", "compile_command", "Compile for the sparse CPU engine."),
    "matrices": ("strzoo.cli.matrices", "matrices", "Write each layer's weights as a matrix."),
    "rnn": ("strzoo.cli.rnn", "rnn", "FastGRNN with learned rank: train, report, export."),
    "demo": ("strzoo.cli.demo", "demo", "Train, convert, report and export on real digits."),
    "doctor": ("strzoo.cli.doctor", "doctor", "Show versions, devices, cache and disk."),
}
INTERRUPTED = 130
# What is imported -> what is installed, of the packages that strzoo requires.
PACKAGES = {
    **{name: name for name in ("torch", "torchvision", "numpy", "safetensors", "gdown", "requests",
                               "urllib3", "filelock", "onnx", "onnxscript", "onnxruntime",
                               "rich", "fvcore")},
    "PIL": "pillow",
    "yaml": "PyYAML",
}  # fmt: skip
# What writing to standard output raises: its reader left, a full disk or a closed descriptor.
_STREAM_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

EPILOG = """\b
Exit codes: 0 done, 1 error, 2 usage, 3 network or quota, 4 integrity,
5 offline and not cached, 6 verification mismatch, 130 interrupted.
"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            nearest = difflib.get_close_matches(args[0], COMMANDS, n=3, cutoff=0.5)
            choices = ", ".join(nearest or COMMANDS)
            raise click.UsageError(f"no command {args[0]!r}; try {choices}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name="strzoo")
def cli() -> None:
    """Sparse convolutional networks learned by STR: a model zoo and its tools.

    MODEL is an id such as resnet50_str_90.23 (a unique prefix will do) or a checkpoint file.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    seen: list[int] = []
    _open_closed_streams()

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    code = run(arguments, interrupted=lambda: bool(seen))
    # The work is done: an interrupt while the interpreter ends must not print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Schedulers and daemons may start a process without standard streams: Python has None there.

    The null device also keeps their numbers from the files that are opened next.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def run(
    arguments: Sequence[str] | None = None, *, interrupted: Callable[[], bool] = lambda: False
) -> int:
    """Run the command line; returns the exit code. `interrupted` says whether Ctrl-C was pressed:
    libraries that meet it while they are imported raise something else, which strzoo may have made
    an error of its own of."""
    try:
        try:
            code = cli.main(arguments, prog_name="strzoo", standalone_mode=False)
            sys.stdout.flush()
        except OSError as error:
            if error.filename is not None or error.errno not in _STREAM_ERRORS:
                raise
            return _report_stream(error)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return INTERRUPTED
    except click.UsageError as error:
        # A bare group raises its help as a usage error: that is for reading, not one line.
        if type(error).__name__ == "NoArgsIsHelpError":
            say(error.format_message(), err=True)
        else:
            _complain(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return error.exit_code
    except Exception as error:  # whatever it is, no traceback reaches the terminal
        if interrupted():
            _complain("interrupted")
            return INTERRUPTED
        message, code = _explain(error, arguments)
        _complain(message)
        return code


def _explain(error: Exception, arguments: Sequence[str] | None) -> tuple[str, int]:
    """The line and the exit code that an error ends the command with."""
    if isinstance(error, StrzooError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        message = "out of memory; close other programs or use a smaller model or batch"
        return message, StrzooError.exit_code
    if isinstance(error, ModuleNotFoundError):
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is not None:
            missing = f"this needs the package {package}, which is not installed"
            return f"{missing}: {install_advice(package)}", StrzooError.exit_code
    from strzoo.cli.last_resort import describe_defect

    return describe_defect(error, arguments), StrzooError.exit_code


def _complain(message: str) -> None:
    line = " ".join(message.split())
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed, or its disk full
        say(f"strzoo: error: {line}" if line != "interrupted" else "strzoo: interrupted", err=True)


def _report_stream(error: OSError) -> int:
    """A reader that left, or a full disk behind `>`: standard output is beyond use."""
    # The interpreter flushes stdout once more at exit; that must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:
        from strzoo.files import write_error

        _complain(str(write_error("standard output", error)))
    return StrzooError.exit_code
