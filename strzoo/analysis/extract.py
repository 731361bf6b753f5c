"""extract_budget: the per-layer sparsity of any network or checkpoint, as a Budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strzoo.analysis.report import report
from strzoo.arguments import checked
from strzoo.errors import StrzooError
from strzoo.settings import Settings
from strzoo.zoo.budgets import Budget

if TYPE_CHECKING:
    from strzoo.analysis.results import Report
    from strzoo.hub.resolve import Model


@checked
def extract_budget(
    target: Model | Report,
    *,
    name: str | None = None,
    architecture: str | None = None,
    method: str = "extracted",
    input_size: tuple[int, ...] | int | None = None,
    settings: Settings | None = None,
) -> Budget:
    """The sparsity, in percent, of each layer of `target` and of all of them together.

    Args:
        target: what `strzoo.report` takes, or a `Report`. Networks are run once on an input of
            `input_size`.
        name, architecture: for the budget; by default those of the report. The architecture is
            empty where nothing says it.
        method: what made the model sparse, for the budget.
        settings: cache folder and registries; from the environment by default.

    Returns:
        Sparsity in percent by layer, and of all layers together; number of classes, input size
        and options of the network where they are known.

    Raises:
        StrzooError: the sparsity of `target` is not known, or as `report`.
    """
    from strzoo.analysis.results import Report

    made = (
        target
        if isinstance(target, Report)
        else report(target, input_size=input_size, settings=settings)
    )
    sparsity = made.sparsity
    if sparsity is None:
        raise StrzooError(f"the sparsity of {made.model} is not known: {'; '.join(made.notes)}")
    layers = {layer.name: layer.sparsity or 0.0 for layer in made.layers}
    return Budget(
        name=name or made.model,
        architecture=made.architecture if architecture is None else architecture,
        method=method,
        sparsity=sparsity,
        source=f"extracted by strzoo from {made.source}",
        layers=layers,
        num_classes=made.num_classes,
        input_size=made.input_size if len(made.input_size) == 3 else None,
        options=made.options,
    )
