"""Options that several commands share, so that they are spelled and behave alike."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from strzoo.settings import Settings
from strzoo.spelling import printable

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
plot_option = click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw a .png, .svg or .pdf."
)
html_option = click.option(
    "--html", "page", type=click.Path(path_type=Path), help="Write a page to look at."
)
force_option = click.option("--force", is_flag=True, help="Overwrite an existing file.")


def split_list(text: str) -> list[str]:
    """The parts of an option such as `npz,mtx`, without spaces; empty ones are left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def settings_options(command: Command) -> Command:
    """Add --cache-dir, --offline, --registry and --architecture; the command gets them as
    `settings`."""

    @click.option(
        "--cache-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Cache folder [env STRZOO_HOME; default ~/.cache/strzoo].",
    )
    @click.option(
        "--offline/--online",
        default=None,
        help="Never touch the network [env STRZOO_OFFLINE].",
    )
    @click.option(
        "--registry",
        "registries",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="Add the models of a registry file [env STRZOO_REGISTRY].",
    )
    @click.option(
        "--architecture",
        default="",
        metavar="SOURCE",
        help="The network of a checkpoint that does not say it, or whose code is to be run: "
        "timm:NAME, torchvision:NAME, package.module:function.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        cache_dir: Path | None,
        offline: bool | None,
        registries: tuple[Path, ...],
        architecture: str,
        **kwargs: Any,
    ) -> Any:
        settings = Settings.from_env(
            cache_dir=cache_dir, offline=offline, registries=registries, architecture=architecture
        )
        return command(*args, settings=settings, **kwargs)

    return wrapped  # type: ignore[return-value]


class _Formatter(logging.Formatter):
    """Messages may hold names from files of strangers."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def verbosity_options(command: Command) -> Command:
    """Add -q and -v; logs go to stderr. The command gets `quiet`."""

    @click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings.")
    @click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
    @functools.wraps(command)
    def wrapped(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("strzoo: %(levelname)s: %(message)s"))
        logger = logging.getLogger("strzoo")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
        return command(*args, quiet=quiet, **kwargs)

    return wrapped  # type: ignore[return-value]
