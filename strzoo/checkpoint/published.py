"""Does a checkpoint match a model card, and which card does it match?"""

from __future__ import annotations

from strzoo.checkpoint.record import Checkpoint
from strzoo.errors import IntegrityError
from strzoo.models.spec import ModelSpec
from strzoo.zoo.registry import SPARSITY_TOLERANCE, ModelCard, Registry


def check_published(checkpoint: Checkpoint, card: ModelCard, format: str) -> None:
    """Raise an IntegrityError unless the checkpoint is what the card says it should be.

    Compared are architecture, number of classes, format, and the sparsity that follows from
    the weights.
    """
    where = checkpoint.path or "the checkpoint"
    pairs = (
        ("architecture", checkpoint.architecture, card.architecture),
        ("number of classes", checkpoint.spec.num_classes, card.num_classes),
        ("format", checkpoint.format, format),
    )
    for what, found, expected in pairs:
        if found != expected:
            raise IntegrityError(f"{where}: {what} is {found}, {card.id} has {expected}")
    found_sparsity, published = checkpoint.sparsity(), card.published.sparsity
    if abs(found_sparsity - published) > SPARSITY_TOLERANCE:
        raise IntegrityError(
            f"{where}: sparsity is {found_sparsity:.2f} %, {card.id} has {published:.2f} %"
        )


def identify(checkpoint: Checkpoint, registry: Registry) -> tuple[ModelCard, str]:
    """The card and the format of a published model, recognised by its content.

    Raises:
        IntegrityError: the checkpoint is none of the models of the registry, or could be several.
    """
    sparsity = checkpoint.sparsity()
    matches = [
        card
        for card in registry
        if card.architecture == checkpoint.architecture
        # Published networks have no bias in the classifier; those of other libraries have one.
        and checkpoint.spec == ModelSpec(card.architecture, card.num_classes)
        and checkpoint.format in card.files
        and abs(sparsity - card.published.sparsity) <= SPARSITY_TOLERANCE
    ]
    if len(matches) != 1:
        what = f"a {checkpoint.architecture} of {sparsity:.2f} % sparsity ({checkpoint.format})"
        candidates = ", ".join(c.id for c in matches) or "none of the published models"
        raise IntegrityError(f"{checkpoint.path or 'the checkpoint'} is {what}: {candidates}")
    return matches[0], checkpoint.format
