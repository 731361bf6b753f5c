"""A network to serve, examples/serving in processes of its own, and its load generator."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import strzoo
from strzoo.data.images import prepare
from strzoo.data.loading import normalise
from strzoo.data.preprocessing import IMAGENET, fit_preprocessing
from tests.helpers.photographs import crop_photographs, jpeg
from tests.helpers.published import str_state

SERVING = Path(__file__).resolve().parent.parent.parent / "examples" / "serving"
CLIENTS = 32
_START = 120.0  # seconds


def make_network(folder: Path, architecture: str, images: int = 24) -> Path:
    """model.pth, whose path is returned, photos/, and answers.json by torch."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number, piece in enumerate(crop_photographs(images)):
        (photos / f"{number:03}.jpg").write_bytes(jpeg(piece.resize((300, 240))))
    budget = strzoo.load_budget("resnet50_str_90.23") if architecture == "resnet50" else 90.0
    network = strzoo.create_model(architecture, layer="str")
    network.load_state_dict(str_state(architecture, budget))
    estimate_batchnorm(network, 224 if architecture == "resnet50" else 32)
    checkpoint = folder / "model.pth"
    strzoo.save_checkpoint(strzoo.build_checkpoint(network), checkpoint)
    known = {
        Path(found.source).name: [(guess.index, guess.probability) for guess in found.guesses]
        for found in strzoo.predict(checkpoint, photos)
    }
    (folder / "answers.json").write_text(json.dumps(known))
    return checkpoint


def estimate_batchnorm(network: nn.Module, side: int) -> None:
    """Statistics of photographs, so that answers depend on the image."""
    steps = fit_preprocessing(IMAGENET, side)
    pixels = torch.stack(
        [torch.from_numpy(prepare(p, steps).copy()) for p in crop_photographs(32, seed=9)]
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean
    network.train()
    with torch.no_grad():
        network(normalise(pixels, steps))
    network.eval()


class Service:
    """A running service.

    Args:
        process: of its supervisor.
        url: of the service.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url

    def restart(self) -> None:
        """Have each process replaced."""
        self.process.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def serve(
    model: Path,
    *options: object,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Service]:
    """The service in processes of its own, while the context lasts.

    Args:
        model: file to serve.
        options: of service.py.
        environment: of the processes; by default this one's.
        log: file for what they say; by default the terminal.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(SERVING / "service.py"), str(model), "--port", str(port), *map(str, options)]
    with contextlib.nullcontext() if log is None else open(log, "wb") as stream:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + _START
        while not ask_ready(url):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the service did not start (exit code {process.poll()})")
            time.sleep(0.05)
        yield Service(process, url)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_START)


def ask_ready(url: str) -> dict[str, Any] | None:
    """What the service says about itself; None while it takes no requests."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def send(
    url: str,
    folder: Path,
    requests: int,
    service: Service | None = None,
    restarts: Sequence[float] = (),
) -> dict[str, Any]:
    """What the load generator says; the service is restarted meanwhile, at these seconds."""
    command = [
        sys.executable, str(SERVING / "load.py"), url, str(folder / "photos"),
        "--requests", str(requests), "--clients", str(CLIENTS),
        "--expected", str(folder / "answers.json"),
    ]  # fmt: skip
    begun = time.monotonic()
    done = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as load:
        while load.poll() is None:
            time.sleep(0.05)
            passed = time.monotonic() - begun
            if service is not None and done < len(restarts) and passed > restarts[done]:
                service.restart()
                done += 1
        assert load.stdout is not None
        found: dict[str, Any] = json.load(load.stdout)
    return found | {"restarts": done}
