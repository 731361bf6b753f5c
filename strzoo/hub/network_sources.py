"""Sources of networks: published models, checkpoint files, and modules in memory."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from strzoo.errors import IntegrityError, StrzooError
from strzoo.hub.hashes import hash_tensors, read_hash
from strzoo.settings import Settings
from strzoo.zoo.registry import ModelCard, Preprocessing, load_registry

if TYPE_CHECKING:
    from torch import nn

    from strzoo.checkpoint import Checkpoint
    from strzoo.checkpoint.record import TrainedOn
    from strzoo.downloads.cache import CachedFile
    from strzoo.models.libraries import Stated
    from strzoo.models.spec import ModelSpec

from strzoo.hub.source import ImageSize, Source


class CheckpointSource(Source):
    """A checkpoint file, or a `Checkpoint` in memory.

    Args:
        entry: of a file that holds several state dicts, the one that is meant.
    """

    kind = "checkpoint"
    described = "a checkpoint"

    def __init__(
        self,
        settings: Settings,
        *,
        path: Path | None = None,
        checkpoint: Checkpoint | None = None,
        entry: str | None = None,
    ) -> None:
        self._entry = entry
        self._file = path or (checkpoint.path if checkpoint else None)
        super().__init__(self._file.name if self._file else "", settings)
        if checkpoint is not None:
            self.__dict__["checkpoint"] = checkpoint
            self.in_memory = True

    in_memory = False

    @property
    def name(self) -> str:
        return super().name or self.architecture

    @cached_property
    def card(self) -> ModelCard | None:
        from strzoo.checkpoint import identify

        try:
            return identify(self.checkpoint, load_registry(self.settings))[0]
        except IntegrityError:  # the user's own network
            return None

    @property
    def path(self) -> Path | None:
        return self._file

    @cached_property
    def checkpoint(self) -> Checkpoint:
        from strzoo.checkpoint import map_checkpoint

        assert self._file is not None
        return map_checkpoint(
            self._file,
            architecture=self.settings.architecture or None,
            entry=self._entry,
            limits=self.settings.limits,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.checkpoint.notes

    @cached_property
    def sha256(self) -> str:
        if self._file is None or self.in_memory:
            return hash_tensors(self.checkpoint.state_dict)
        return read_hash(self._file)

    @property
    def architecture(self) -> str:
        return self.checkpoint.architecture

    @property
    def input_size(self) -> ImageSize:
        trained_on = self.checkpoint.trained_on
        return trained_on.input_size if trained_on else self.checkpoint.spec.input_size

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        trained_on = self.checkpoint.trained_on if self.card is None else None
        if trained_on is not None:
            return trained_on.preprocessing
        return super().stated_preprocessing or self.checkpoint.spec.preprocessing

    @property
    def class_names(self) -> tuple[str, ...]:
        trained_on = self.checkpoint.trained_on if self.card is None else None
        return (trained_on.class_names if trained_on else ()) or super().class_names


class CardSource(CheckpointSource):
    """A published model by its id: its file is found or fetched when the weights are needed."""

    kind = "id"
    described = "a published model"

    def __init__(self, card: ModelCard, settings: Settings, format: str | None = None) -> None:
        super().__init__(settings)
        self.__dict__["card"] = card
        self._card, self._format = card, format

    @cached_property
    def cached_file(self) -> CachedFile | None:
        """The verified file in the cache, without touching the network. An STR file gives the
        dense form too, and thresholds beside it, so it comes first unless "dense" is asked for by
        a card that has no other."""
        from strzoo.downloads.cache import Cache  # and with it all that downloads

        cache = Cache(self.settings.cache_dir)
        formats = ["str"] if self._format == "str" else list(self._card.files)
        for format in formats:
            if format in self._card.files and (found := cache.find(self._card, format)):
                return found
        return None

    @cached_property
    def _located(self) -> CachedFile:
        format = self._format or "dense"
        self._card.file(format)
        if format == "dense" and self.cached_file is not None:
            return self.cached_file
        from strzoo.downloads.download import obtain

        return obtain(self._card, format, self.settings).file

    @property
    def path(self) -> Path:
        return self._located.path

    @property
    def sha256(self) -> str:
        return self._located.sha256

    @cached_property
    def checkpoint(self) -> Checkpoint:
        from strzoo.checkpoint import map_checkpoint

        return map_checkpoint(
            self.path, architecture=self._card.architecture, limits=self.settings.limits
        )

    @property
    def architecture(self) -> str:
        return self._card.architecture

    @property
    def input_size(self) -> ImageSize:
        steps = self._card.preprocessing
        return steps.channels, steps.crop, steps.crop

    def build_network(self, format: str | None = None) -> nn.Module:
        return self.checkpoint.build_model(format or self._format or "dense")


class ModuleSource(Source):
    """Any network in memory. It is not copied: `build_network` gives the network itself.

    What is known of it is known of the network inside its wrappers (DataParallel, torch.compile).
    """

    kind = "module"

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        from strzoo.sparse.unwrap import check_values, unwrap

        self.model, self.inner = model, unwrap(model)
        check_values(self.inner)
        super().__init__(type(self.inner).__name__, settings)

    @cached_property
    def sha256(self) -> str:
        return hash_tensors(self.inner.state_dict())

    @cached_property
    def architecture(self) -> str:
        """The name by which `create_model` builds it, else its class."""
        return self.spec.architecture if self.spec else type(self.inner).__name__

    @cached_property
    def spec(self) -> ModelSpec | None:
        """The arguments by which `create_model` builds it; None for anybody's own."""
        from strzoo.checkpoint.structure import stated_source
        from strzoo.models.spec import ModelSpec

        if source := stated_source(self.inner):
            return source
        stated = self._stated
        if not isinstance(stated, ModelSpec) or type(stated.outline) is not type(self.inner):
            return None
        state = self.inner.state_dict()
        fits = all(k in state and state[k].shape == s for k, s in stated.shapes().items())
        return stated if fits else None

    @cached_property
    def _stated(self) -> Stated | ModelSpec | None:
        """What timm has noted on a network that it made, or what is known of the architecture."""
        from strzoo.checkpoint.recognise import declare, infer_spec
        from strzoo.checkpoint.structure import guess_source
        from strzoo.models.libraries import read_timm

        if guess_source(self.inner):
            return read_timm(self.inner.pretrained_cfg)  # type: ignore[arg-type]
        try:
            return infer_spec(self.inner.state_dict(), declare(self.inner), None)
        except StrzooError:  # anybody's own
            return None

    @cached_property
    def _trained_on(self) -> TrainedOn | None:
        """What the checkpoint said that the network was built from."""
        from strzoo.checkpoint.record import recall_data

        return recall_data(self.inner)

    @property
    def input_size(self) -> ImageSize:
        if self._trained_on is not None:
            return self._trained_on.input_size
        from strzoo.sparse.selection import takes_grey

        channels, height, width = self._stated.input_size if self._stated else super().input_size
        return 1 if takes_grey(self.inner) else channels, height, width

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        if self._trained_on is not None:
            return self._trained_on.preprocessing
        return self._stated.preprocessing if self._stated else None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._trained_on.class_names if self._trained_on else super().class_names

    described = "a network in memory"

    def build_network(self, format: str | None = None) -> nn.Module:
        return self.model

    def build_dense(self) -> nn.Module:
        import torch

        from strzoo.sparse.sparsify import to_dense_
        from strzoo.sparse.unwrap import copy_plain

        network = to_dense_(copy_plain(self.inner))
        return network.to(device="cpu", dtype=torch.float32).requires_grad_(False).eval()
