"""torch.hub entry points, one per model of the zoo: dots in ids become underscores.

    torch.hub.load("strzoo/strzoo", "resnet50_str_90_23", pretrained=True)

Every entry takes the keyword arguments of `strzoo.load` (format, pretrained, num_classes, ...).
"""

from typing import Any as _Any

from strzoo.zoo.registry import ModelCard as _ModelCard
from strzoo.zoo.registry import load_registry as _load_registry

dependencies = ["torch", "safetensors", "numpy"]


def _entry(card: _ModelCard) -> _Any:
    def entry(pretrained: bool = True, **options: _Any) -> _Any:
        from strzoo.hub.load import load

        return load(card.id, pretrained=pretrained, **options)

    published = card.published
    entry.__name__ = entry.__qualname__ = card.identifier
    entry.__doc__ = (
        f"{card.id}: {card.architecture}, {card.method}, {published.sparsity:.2f} % sparsity, "
        f"top-1 {published.top1:.2f} % on {card.dataset}. Arguments as strzoo.load."
    )
    return entry


globals().update({card.identifier: _entry(card) for card in _load_registry()})
