"""`strzoo verify`: do the published figures follow from what is computed?"""

from __future__ import annotations

import click

from strzoo.cli.completion import complete_model
from strzoo.cli.options import json_option, settings_options, verbosity_options
from strzoo.cli.output import print_json, print_table, simple_table
from strzoo.errors import UsageError, VerificationError
from strzoo.settings import Settings
from strzoo.spelling import spell_change

HEADER = ("model", "from", "figure", "published", "computed", "difference", "verdict")


@click.command()
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option("--against", metavar="ID", help="The model a checkpoint file should be.")
@json_option
@settings_options
@verbosity_options
def verify(
    models: tuple[str, ...], against: str | None, as_json: bool, settings: Settings, quiet: bool
) -> None:
    """Compute params, sparsity and FLOPs of MODELS and compare them with the published figures.

    MODELS are ids, glob patterns or checkpoint files; all published models by default. Ends
    with exit code 6 if a figure differs; a known misprint is reported as such and passes.
    """
    from strzoo.analysis.verify import verify as verify_one
    from strzoo.hub.resolve import is_file
    from strzoo.zoo.registry import load_registry

    if against and len(models) != 1:
        raise UsageError("--against takes exactly one checkpoint file")
    registry = load_registry(settings)
    targets: list[str] = []
    for model in models or ("*",):
        targets += [model] if is_file(model) else [card.id for card in registry.select([model])]
    results = [verify_one(t, against=against, settings=settings) for t in dict.fromkeys(targets)]
    if as_json:
        passed = all(result.passed for result in results)
        print_json({"schema": 1, "passed": passed, "models": [r.to_dict() for r in results]})
    else:
        rows = []
        for result in results:
            for line in result.lines:
                points = line.quantity == "sparsity"
                unit = " pt" if points else " %"
                shown = "-" if line.difference is None else f"{spell_change(line.difference)}{unit}"
                note = f" ({line.note})" if line.note else ""
                rows.append(
                    (
                        result.model,
                        result.source,
                        line.quantity,
                        line.published,
                        line.computed or "-",
                        shown,
                        line.verdict + note,
                    )
                )
        print_table(
            simple_table(HEADER, rows, left=3, wrap=("verdict",), optional=("from", "difference")),
        )
    failed = [result.model for result in results if not result.passed]
    if failed:
        raise VerificationError(f"published figures differ from computed ones: {', '.join(failed)}")
