"""The public surface as plain values: names and parameters, commands and options, exit codes."""

from __future__ import annotations

import inspect
from typing import Any

import click

import strzoo
import strzoo.errors
from strzoo.cli import cli


def describe_names() -> dict[str, list[str]]:
    """Each public name and its parameters; [] for what is not called."""
    found = {}
    for name in strzoo.__all__:
        value = getattr(strzoo, name)
        try:
            found[name] = list(inspect.signature(value).parameters) if callable(value) else []
        except ValueError:
            found[name] = []
    return found


def describe_commands() -> dict[str, list[str]]:
    """Each command, subcommands included, with its arguments and options."""
    found: dict[str, list[str]] = {}

    def visit(command: click.Command, name: str) -> None:
        context = click.Context(command)
        found[name] = sorted({o for p in command.params for o in (*p.opts, *p.secondary_opts)})
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                inner = command.get_command(context, child)
                assert inner is not None
                visit(inner, f"{name} {child}")

    visit(cli, "strzoo")
    return found


def describe_exit_codes() -> dict[str, int]:
    errors = vars(strzoo.errors).values()
    kinds = [e for e in errors if isinstance(e, type) and issubclass(e, strzoo.StrzooError)]
    return {kind.__name__: kind.exit_code for kind in kinds}


def describe_surface() -> dict[str, Any]:
    return {
        "names": describe_names(),
        "commands": describe_commands(),
        "exit_codes": describe_exit_codes(),
    }
