"""`strzoo import`: a file that was fetched by hand takes its place in the cache."""

from __future__ import annotations

from pathlib import Path

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.download import describe, print_fetched
from strzoo.cli.interrupts import remembered_interrupts
from strzoo.cli.options import json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json
from strzoo.cli.progress import download_bar
from strzoo.downloads.download import identify_content, import_file
from strzoo.errors import CancelledError
from strzoo.settings import Settings


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("model", required=False, metavar="[ID]", shell_complete=complete_model)
@json_option
@settings_options
@verbosity_options
def import_command(
    file: Path, model: str | None, as_json: bool, settings: Settings, quiet: bool
) -> None:
    """Check FILE, recognise by its content which published model it is, and cache a copy.

    With ID it must be that model. The name of FILE does not matter; FILE stays where it is.
    """
    try:
        with download_bar(file.name, quiet=quiet) as progress, remembered_interrupts() as cancel:
            fetched = import_file(
                file,
                model,
                settings=settings,
                progress=progress,
                cancel=cancel,
                identify=cancel.before(identify_content),
            )
    except CancelledError as error:
        raise KeyboardInterrupt from error
    if as_json:
        print_json({"schema": 1, "files": [describe(fetched)]})
    else:
        print_fetched([fetched])
