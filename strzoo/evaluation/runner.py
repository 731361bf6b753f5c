"""A model of any kind as one thing that turns pixels into logits.

`open_runner` takes an id, a checkpoint (STR as it is, or converted on the fly), an ONNX file or
any network.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from strzoo.analysis.report import is_file_argument
from strzoo.checkpoint import Checkpoint, identify, read_checkpoint
from strzoo.data.images import check_steps
from strzoo.data.loading import normalise
from strzoo.devices import find_device, float32_mode
from strzoo.errors import IntegrityError, UsageError
from strzoo.evaluation.results import PRECISIONS
from strzoo.files import sha256_file
from strzoo.hub.load import weights_path
from strzoo.settings import Settings
from strzoo.zoo.registry import FORMATS, ModelCard, Preprocessing, get_card, load_registry

log = logging.getLogger(__name__)

Model = nn.Module | Checkpoint | str | os.PathLike[str]
ENGINES = ("torch", "onnxruntime", "sparse")
# What the published networks were evaluated with, and what small networks are by convention.
IMAGENET = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = replace(IMAGENET, resize=32, crop=32)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Runner:
    """`forward` takes inputs as `prepare` makes them from uint8 [B, H, W, 3] on `device`, and
    gives logits [B, num_classes] there. `fixed_batch` is the one batch size an ONNX file takes,
    `piece_pixels` how many pixels at once are fastest, of all images together. `known_steps` tells
    a stated preprocessing from a guessed one; `eager` is the network itself where `forward` is
    compiled, for one size of batch."""

    name: str
    forward: Callable[[Tensor], Tensor]
    device: torch.device
    precision: str
    steps: Preprocessing
    weights_sha256: str
    card: ModelCard | None = None
    channels_last: bool = True
    takes_bytes: bool = False
    fixed_batch: int | None = None
    piece_pixels: int | None = None
    class_names: tuple[str, ...] = ()
    known_steps: bool = False
    eager: Callable[[Tensor], Tensor] | None = None
    versions: tuple[tuple[str, str], ...] = ()

    def prepare(self, pixels: Tensor) -> Tensor:
        """The network's input from uint8 [B, H, W, 3]."""
        if self.takes_bytes:
            return pixels
        return normalise(pixels, self.steps, channels_last=self.channels_last)

    def most_at_once(self, batch: int) -> int:
        """How many images of a batch `forward` should be given at once."""
        if self.fixed_batch or self.piece_pixels is None:
            return self.fixed_batch or batch
        return min(max(1, self.piece_pixels // self.steps.crop**2), batch)

    def count_classes(self) -> int:
        """Outputs of the network, by running one black image; it also warms up.

        Raises:
            UsageError: the network does not run on images of this size.
        """
        crop = self.steps.crop
        pixels = torch.zeros(self.fixed_batch or 1, crop, crop, 3, dtype=torch.uint8)
        try:
            run = self.eager or self.forward
            shape = run(self.prepare(pixels.to(self.device))).shape
        except (RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UsageError(
                f"{self.name} does not run on images of {crop}x{crop} pixels ({reason}); "
                "give its size with --crop"
            ) from error
        if len(shape) != 2:
            raise UsageError(f"{self.name} gives outputs of shape {tuple(shape)}, not (N, classes)")
        return int(shape[1])


def open_runner(
    model: Model,
    *,
    format: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
    compile: bool = False,
    channels_last: bool = True,
    providers: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    settings: Settings | None = None,
    engine: str | None = None,
) -> contextlib.AbstractContextManager[Runner]:
    """The model, ready to run while the context lasts; a network passed in is left as it was.

    Args:
        model: a model id, a checkpoint, ONNX or .strz file, a `Checkpoint` or any network.
        format: "str" or "dense"; by default dense for an id, and what a file holds.
        device: "cpu", "cuda", "cuda:1"; by default a GPU if there is one (a network's own).
        precision: "fp32", "tf32", "bf16", "fp16"; "auto" is fp32 on the CPU and tf32 on a GPU.
        compile: torch.compile the network.
        channels_last: memory layout of weights and images.
        providers: execution providers for an ONNX file.
        preprocessing: instead of the model's own.
        settings: cache, registries, network; from the environment by default.
        engine: one of `ENGINES`; by default what is made for that kind of model.

    Raises:
        UsageError, UnknownNameError: an argument is not valid or not possible here.
        StrzooError and its subclasses: the model cannot be had or read.
    """
    if format not in (None, *FORMATS):
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if preprocessing is not None:
        check_steps(preprocessing)
    settings = settings or Settings.from_env()
    suffix = Path(model).suffix if isinstance(model, str | os.PathLike) else ""
    engine = engine or {".onnx": "onnxruntime", ".strz": "sparse"}.get(suffix, "torch")
    _check_engine(engine, model, suffix)
    if engine == "sparse":
        from strzoo.evaluation.sparse_runner import open_sparse

        if format is not None or compile or precision not in ("auto", "fp32"):
            raise UsageError(
                "the sparse engine runs the dense form in fp32; leave out such options"
            )
        return contextlib.nullcontext(
            open_sparse(
                model,
                device=device,
                providers=providers,
                preprocessing=preprocessing,
                settings=settings,
            )
        )
    if engine == "onnxruntime":
        assert isinstance(model, str | os.PathLike)
        from strzoo.evaluation.onnx_runner import open_onnx

        if format is not None or compile or precision not in ("auto", "fp32"):
            raise UsageError(
                f"{os.fspath(model)} is an ONNX file: its format and precision are in the file, "
                "and nothing is compiled"
            )
        return contextlib.nullcontext(open_onnx(Path(model), device, providers, preprocessing))
    if providers:
        raise UsageError("execution providers are for ONNX files")
    return _open_torch(
        model, format, device, precision, compile, channels_last, preprocessing, settings
    )


def _check_engine(engine: str, model: Model, suffix: str) -> None:
    """Raise a UsageError unless the engine is known and takes that kind of model."""
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
    if suffix == ".strz" and engine != "sparse":
        raise UsageError(f"{model} is a plan of the sparse engine; {engine} cannot run it")
    if (suffix == ".onnx") != (engine == "onnxruntime") and engine != "sparse":
        takes = "an ONNX file" if engine == "onnxruntime" else "an id, a checkpoint or a network"
        raise UsageError(f"engine {engine} takes {takes}")


@contextlib.contextmanager
def _open_torch(
    model: Model,
    format: str | None,
    device: str | torch.device | None,
    precision: str,
    compile: bool,
    channels_last: bool,
    preprocessing: Preprocessing | None,
    settings: Settings,
) -> Iterator[Runner]:
    if isinstance(model, nn.Module):
        network, card, small = model, None, False
        name, digest = type(model).__name__, hash_state(model)
        own = next(iter(model.parameters()), torch.empty(0)).device
        place = find_device(device) if device is not None else own
        if place != own:
            raise UsageError(f"the network is on {own}; move it to {place} first")
    else:
        name, network, card, digest, small = _load(model, format, settings)
        place = find_device(device)
        network = network.to(place)
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
    if precision == "auto":
        precision = "tf32" if place.type == "cuda" else "fp32"
    if precision == "tf32" and place.type != "cuda":
        raise UsageError("precision tf32 is for GPUs; choose fp32 or bf16")
    steps = preprocessing or (card.preprocessing if card else SMALL if small else IMAGENET)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    run = torch.compile(network) if compile else network
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def forward(inputs: Tensor) -> Tensor:
        with torch.autocast(place.type, dtype=dtype, enabled=dtype is not None):
            logits: Tensor = run(inputs)
        return logits

    try:
        with torch.inference_mode(), float32_mode(place, precision):
            yield Runner(
                name=name,
                forward=forward,
                device=place,
                precision=precision,
                steps=check_steps(steps),
                weights_sha256=digest,
                card=card,
                channels_last=channels_last,
                known_steps=card is not None or preprocessing is not None,
                piece_pixels=_piece_pixels() if place.type == "cpu" and not compile else None,
                eager=network if compile else None,
            )
    finally:
        for module, mode in modes.items():
            module.training = mode


def _piece_pixels() -> int:
    """What torch computes at once on the CPU: 4 to 8 images of 224 pixels a side.

    The maps of more are too large for the heap: each layer's memory would be mapped anew, page by
    page, which takes longer than small matrices do. More threads want larger pieces.
    """
    return max(4, min(8, torch.get_num_threads())) * 224**2


def _load(
    model: Checkpoint | str | os.PathLike[str], format: str | None, settings: Settings
) -> tuple[str, nn.Module, ModelCard | None, str, bool]:
    """Name, network, card, hash, and whether it is for small images."""
    card: ModelCard | None
    if isinstance(model, Checkpoint):
        checkpoint = model
        network = checkpoint.build_model(format)
        digest, card = hash_state(network), _find_card(checkpoint, settings)
    elif is_file_argument(os.fspath(model)):
        checkpoint = read_checkpoint(model)
        digest, card = sha256_file(model), _find_card(checkpoint, settings)
        network = checkpoint.build_model(format)
    else:
        card = get_card(os.fspath(model), settings=settings)
        path = weights_path(card.id, format or "dense", settings)
        checkpoint = read_checkpoint(path, architecture=card.architecture)
        network, digest = checkpoint.build_model(format or "dense"), sha256_file(path)
    spec = checkpoint.spec
    name = card.id if card else checkpoint.path.name if checkpoint.path else spec.architecture
    return name, network, card, digest, spec.small_stem or spec.architecture == "resnet20"


def _find_card(checkpoint: Checkpoint, settings: Settings) -> ModelCard | None:
    try:
        return identify(checkpoint, load_registry(settings))[0]
    except IntegrityError:  # the user's own network
        return None


def hash_state(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a network's state."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
