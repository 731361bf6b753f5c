"""`strzoo cache`: list, path, verify and prune the cache folder."""

from __future__ import annotations

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, say, simple_table
from strzoo.cli.progress import spell_bytes
from strzoo.downloads.cache import Cache
from strzoo.downloads.download import default_format
from strzoo.downloads.maintenance import (
    CacheEntry,
    list_cached,
    list_compiled,
    prune,
    verify_cached,
)
from strzoo.errors import IntegrityError, StrzooError, UsageError
from strzoo.settings import Settings
from strzoo.zoo.registry import FORMATS, load_registry


@click.group()
def cache() -> None:
    """Look after the downloaded files: list, path, verify, prune."""


@cache.command("list")
@json_option
@settings_options
def list_command(as_json: bool, settings: Settings) -> None:
    """List the cached files, without reading them."""
    entries = list_cached(Cache(settings.cache_dir), load_registry(settings))
    compiled = list_compiled(settings.cache_dir)
    size = sum(path.stat().st_size for path in compiled)
    if as_json:
        files = [_describe(entry) for entry in entries]
        document = {"schema": 1, "cache_dir": str(settings.cache_dir), "files": files}
        print_json({**document, "compiled": {"files": len(compiled), "bytes": size}})
        return
    rows = [
        (e.card.id, e.format, e.path.name, e.sha256 or "-", _hash_kind(e), f"{e.bytes:,}")
        for e in entries
    ]
    title = f"{settings.cache_dir}: {spell_bytes(sum(e.bytes for e in entries))}"
    header = ("model", "format", "file", "sha256", "hash", "bytes")
    print_table(simple_table(header, rows, left=5, title=title))
    if compiled:
        say(f"compiled by the sparse engine: {len(compiled)} files, {spell_bytes(size)}")


@cache.command()
@click.argument("model", required=False, metavar="[ID]", shell_complete=complete_model)
@click.option("--format", type=click.Choice(FORMATS), help="Which file  [default: dense]")
@settings_options
def path(model: str | None, format: str | None, settings: Settings) -> None:
    """Print the cache folder, or where the file of the model ID is.

    A file that is not there is an error; `strzoo download` fetches it.
    """
    if model is None:
        if format:
            raise UsageError("--format needs a model id")
        say(settings.cache_dir)
        return
    card = load_registry(settings).get(model)
    file = Cache(settings.cache_dir).path(card, format or default_format(card))
    if not file.is_file():
        raise StrzooError(f"{file} is not there; run `strzoo download {card.id}`")
    say(file)


@cache.command()
@click.argument("models", nargs=-1, metavar="[ID]...", shell_complete=complete_model)
@json_option
@settings_options
@verbosity_options
def verify(models: tuple[str, ...], as_json: bool, settings: Settings, quiet: bool) -> None:
    """Compare hash and content of the cached files with what they should be.

    All files, or those of the models ID... Ends with exit code 4 if one is damaged; the next
    `strzoo download` replaces it.
    """
    registry = load_registry(settings)
    ids = {card.id for card in registry.select(models)} if models else None
    verdicts = list(verify_cached(Cache(settings.cache_dir), registry, ids))
    absent = (ids or set()) - {verdict.entry.card.id for verdict in verdicts}
    if as_json:
        files = [{**_describe(v.entry), "problem": v.problem} for v in verdicts]
        print_json({"schema": 1, "cache_dir": str(settings.cache_dir), "files": files})
    else:
        rows = [(v.entry.path.name, _hash_kind(v.entry), v.problem or "sound") for v in verdicts]
        header = ("file", "hash", "verdict")
        print_table(simple_table(header, rows, left=3, wrap=("verdict",)))
    damaged = [v.entry.path.name for v in verdicts if v.problem]
    if damaged:
        raise IntegrityError(f"damaged: {', '.join(damaged)}; `strzoo download` replaces them")
    if absent:
        raise StrzooError(f"not in the cache: {', '.join(sorted(absent))}")


@cache.command("prune", short_help="Remove left-overs, and the files of models.")
@click.argument("models", nargs=-1, metavar="[ID]...", shell_complete=complete_model)
@click.option("--forget", is_flag=True, help="Drop the recorded hashes of the models too.")
@click.option("--compiled", is_flag=True, help="Remove what the sparse engine keeps.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@settings_options
def prune_command(
    models: tuple[str, ...],
    forget: bool,
    compiled: bool,
    dry_run: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Remove left-over partial downloads and rejected files, and the files of the models ID...

    ID may be a glob pattern; quote '*' to empty the cache.
    """
    if forget and not models:
        raise UsageError("--forget needs model ids; quote '*' for all")
    cards = load_registry(settings).select(models) if models else ()
    removed = prune(
        Cache(settings.cache_dir), cards, forget=forget, compiled=compiled, dry_run=dry_run
    )
    if as_json:
        files = [{"path": str(item.path), "bytes": item.bytes} for item in removed]
        print_json({"schema": 1, "dry_run": dry_run, "removed": files})
        return
    for item in removed:
        say(item.path)
    verb = "would free" if dry_run else "freed"
    say(f"{verb} {spell_bytes(sum(item.bytes for item in removed))}", err=True)


def _hash_kind(entry: CacheEntry) -> str:
    if entry.sha256 is None:
        return "not yet known"
    return "pinned" if entry.pinned else "recorded"


def _describe(entry: CacheEntry) -> dict[str, object]:
    return {
        "model": entry.card.id,
        "format": entry.format,
        "path": str(entry.path),
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "pinned": entry.pinned,
    }
