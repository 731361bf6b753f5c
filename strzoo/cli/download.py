"""`strzoo download`: published files into the cache, verified."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.interrupts import remembered_interrupts
from strzoo.cli.options import json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.progress import download_bar, spell_bytes
from strzoo.downloads.cache import check_content
from strzoo.downloads.download import Fetched, default_format, obtain
from strzoo.downloads.web import Network
from strzoo.errors import CancelledError, StrzooError
from strzoo.settings import Settings, user_path
from strzoo.zoo.registry import FORMATS, ModelCard, Registry, load_registry

HEADER = ("model", "format", "path", "sha256", "hash", "from", "bytes")
GDOWN_COOKIES = Path("~/.cache/gdown/cookies.txt")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="ID...", shell_complete=complete_model)
@click.option(
    "--format",
    "formats",
    type=click.Choice([*FORMATS, "all"]),
    help="Weights with thresholds, plain weights, or both  [default: dense]",
)
@click.option("--from", "source", metavar="PATH", help="Try this file or folder first.")
@click.option("--mirror", "mirrors", multiple=True, metavar="ADDRESS", help="An http(s) address "
              "or a folder to try before Google Drive [env STRZOO_MIRROR].")  # fmt: skip
@click.option("--cookies", is_flag=True, help=f"Send the cookies in {GDOWN_COOKIES} to Drive.")
@click.option(
    "--cookies-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Send the cookies of this file (Netscape format).",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=Network.total_time,
    show_default=True,
    help="Give up on a file after this many seconds, all sources and retries together.",
)
@json_option
@settings_options
@verbosity_options
def download(
    models: tuple[str, ...],
    formats: str | None,
    source: str | None,
    mirrors: tuple[str, ...],
    cookies: bool,
    cookies_file: Path | None,
    timeout: float,
    as_json: bool,
    settings: Settings,
    quiet: bool,
) -> None:
    """Fetch the files of the models ID... (ids, unique prefixes or glob patterns) into the cache.

    A file is there whole and verified, or not there. What was interrupted is resumed.
    """
    settings = dataclasses.replace(settings, mirrors=(*mirrors, *settings.mirrors))
    jar = cookies_file or (user_path(GDOWN_COOKIES) if cookies else None)
    network = Network(cookies=jar, total_time=timeout)
    wanted = choose_files(load_registry(settings), models, formats)
    start = time.monotonic()
    fetched: list[Fetched] = []
    failed: list[tuple[ModelCard, str, StrzooError]] = []
    for card, format in wanted:
        try:
            name = card.filename(format)
            with download_bar(name, quiet=quiet) as progress, remembered_interrupts() as cancel:
                fetched.append(
                    obtain(
                        card,
                        format,
                        settings,
                        network=network,
                        local=source,
                        progress=progress,
                        cancel=cancel,
                        check=cancel.before(check_content),
                    )
                )
        except CancelledError as error:
            raise KeyboardInterrupt from error
        except StrzooError as error:
            failed.append((card, format, error))
            if len(wanted) > 1:
                say(f"strzoo: error: {error}", err=True)
    if as_json:
        print_json({"schema": 1, "files": [describe(f) for f in fetched], "errors": [
            {"model": card.id, "format": format, "error": str(error), "exit_code": error.exit_code}
            for card, format, error in failed
        ]})  # fmt: skip
    elif fetched:
        print_fetched(fetched)
    if fetched and not quiet:
        size, seconds = sum(f.file.bytes for f in fetched), time.monotonic() - start
        files = "1 file" if len(fetched) == 1 else f"{len(fetched)} files"
        say(f"{files}, {spell_bytes(size)}, in {seconds:.1f} s", err=True)
    if len(wanted) == len(failed) == 1:
        raise failed[0][2]
    if failed:
        names = ", ".join(card.filename(format) for card, format, _ in failed)
        raise type(failed[0][2])(f"{len(failed)} of {len(wanted)} files are missing: {names}")


def choose_files(
    registry: Registry, models: tuple[str, ...], formats: str | None
) -> list[tuple[ModelCard, str]]:
    """The files meant. A pattern passes over models that lack the format; an id does not.

    Raises:
        UnknownNameError, UsageError: no such model, or the named one has no such file.
    """
    named = {registry.get(m).id for m in models if not any(c in m for c in "*?[")}
    chosen = []
    for card in registry.select(models):
        if formats == "all":
            chosen += [(card, format) for format in card.files]
        elif formats is None:
            chosen.append((card, default_format(card)))
        elif formats in card.files or card.id in named:
            card.file(formats)
            chosen.append((card, formats))
    return chosen


def print_fetched(fetched: list[Fetched]) -> None:
    """The table of files; `hash` says whether the card knew the hash."""
    rows = [
        (
            f.card.id,
            f.format,
            str(f.file.path),
            f.file.sha256,
            "pinned" if f.file.pinned else "recorded",
            f.source,
            f"{f.file.bytes:,}",
        )
        for f in fetched
    ]
    print_table(simple_table(HEADER, rows, left=6))


def describe(fetched: Fetched) -> dict[str, Any]:
    """A fetched file as it stands in the JSON document."""
    return {
        "model": fetched.card.id,
        "format": fetched.format,
        "path": str(fetched.file.path),
        "bytes": fetched.file.bytes,
        "sha256": fetched.file.sha256,
        "pinned": fetched.file.pinned,
        "source": fetched.source,
    }
