"""What an exported file says about itself: ONNX metadata properties, all text.

The only place that spells strzoo's keys. docs/onnx.md lists them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strzoo.errors import IntegrityError
from strzoo.version import VERSION
from strzoo.zoo.registry import ModelCard, Preprocessing

if TYPE_CHECKING:
    import onnx

_PREFIX = "strzoo."
_PROBABILITIES = "softmax probabilities"


@dataclass(frozen=True)
class ModelMetadata:
    """The entries of one file, typed.

    Args:
        model: id of the published model, else a name.
        precision: "fp32", "fp16" or "int8".
        sparsity: percent.
        block: input channels whose weights are zero together; 1 if each is zero by itself.
        preprocessing: of evaluation; None if the file does not say.
        input_size: height and width of the images; None if the file does not say.
        built_in: whether the graph takes bytes and normalises them itself.
        probabilities: whether the output is probabilities, else logits.
        class_names: one per class, or none.
        card: what is published about the model, when writing.
    """

    model: str = ""
    architecture: str = ""
    precision: str = ""
    sparsity: float | None = None
    block: int = 1
    preprocessing: Preprocessing | None = None
    input_size: tuple[int, int] | None = None
    built_in: bool = False
    probabilities: bool = False
    class_names: tuple[str, ...] = ()
    card: ModelCard | None = None

    def to_entries(self) -> dict[str, str]:
        """The entries as they stand in a file."""
        entries = {
            "version": VERSION,
            "model": self.model,
            "architecture": self.architecture,
            "precision": self.precision,
            "sparsity": f"{self.sparsity or 0.0:.4f}",
            "output": _PROBABILITIES if self.probabilities else "logits",
        }
        if self.block > 1:
            entries["block"] = str(self.block)
        if self.preprocessing is not None:
            entries["preprocessing"] = json.dumps(self._spell_preprocessing(self.preprocessing))
        if card := self.card:
            entries |= {
                "dataset": card.dataset,
                "source": card.source,
                "license": card.license,
                "citation": card.citation,
                "published": json.dumps(dataclasses.asdict(card.published)),
            }
        if self.class_names:
            entries["class_names"] = json.dumps(list(self.class_names), ensure_ascii=False)
        return {_PREFIX + key: value for key, value in entries.items()}

    def _spell_preprocessing(self, given: Preprocessing) -> dict[str, Any]:
        height, width = self.input_size or (given.crop, given.crop)
        return {
            "resize": given.resize,
            "crop": given.crop,
            "interpolation": given.interpolation,
            "input_height": height,
            "input_width": width,
            "mean": list(given.mean),
            "std": list(given.std),
            "built_in": self.built_in,
            "input": "uint8 NHWC, 0 to 255" if self.built_in else "float32 NCHW, normalised",
        }


def read_metadata(entries: Mapping[str, str], where: str) -> ModelMetadata:
    """The typed metadata of a file whose entries these are; foreign entries are ignored.

    Args:
        entries: keys and values as in the file.
        where: names the file in messages.

    Raises:
        IntegrityError: an entry of ours is not readable.
    """
    preprocessing, size, built_in = None, None, False
    text = entries.get(_PREFIX + "preprocessing")
    if text is not None:
        try:
            value: dict[str, Any] = json.loads(text)
            mean, std = (tuple(float(x) for x in value[key]) for key in ("mean", "std"))
            if len(mean) not in (1, 3) or len(std) != len(mean):
                raise ValueError("mean and std need 3 values, or 1")
            preprocessing = Preprocessing(
                int(value["resize"]), int(value["crop"]), str(value["interpolation"]), mean, std
            )
            built_in = bool(value["built_in"])
            if "input_height" in value:
                size = int(value["input_height"]), int(value["input_width"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            reason = " ".join(str(error).split())[:160]
            raise IntegrityError(
                f"{where}: its strzoo.preprocessing is not readable: {reason}"
            ) from None
    return ModelMetadata(
        model=entries.get(_PREFIX + "model", ""),
        architecture=entries.get(_PREFIX + "architecture", ""),
        precision=entries.get(_PREFIX + "precision", ""),
        sparsity=_read_number(entries.get(_PREFIX + "sparsity", "")),
        block=int(_read_number(entries.get(_PREFIX + "block", "")) or 1),
        preprocessing=preprocessing,
        input_size=size,
        built_in=built_in,
        probabilities=entries.get(_PREFIX + "output", "").startswith("softmax"),
        class_names=_read_names(entries.get(_PREFIX + "class_names", "[]")),
    )


def our_entries(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata entries of a model that are strzoo's."""
    return {e.key: e.value for e in model.metadata_props if e.key.startswith(_PREFIX)}


def set_entries(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Store `entries` as the model's metadata, replacing what is there, and name its producer."""
    model.producer_name, model.producer_version = "strzoo", VERSION
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def _read_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
