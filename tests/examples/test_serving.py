"""examples/serving: what docs/serving.md says, by its own commands, without torch or onnx."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import strzoo
from strzoo.cli import run
from strzoo.models import registry
from tests.helpers.serving import SERVING, Service, ask_ready, make_network, send, serve

PAGE = (SERVING.parent.parent / "docs" / "serving.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
# In the interpreters of the service, what the image lacks cannot be imported.
WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "onnx", "onnxscript", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


class Tiny(nn.Module):
    def __init__(self, *, num_classes: int, conv: type[nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.tiny, self.bn1 = conv(3, 8, 3), nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = conv(8, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.bn1(self.tiny(x)).relu())).flatten(1)


# Small enough to compile in a second.
TINY = strzoo.Architecture(
    name="tiny",
    published="Tiny",
    build=Tiny,
    options={},
    recognise=lambda state, declared: {} if "tiny.weight" in state else None,
    input_size=lambda options: (3, 32, 32),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, answers.json, model.strz by the page's command, and a cache with its code."""
    folder = tmp_path_factory.mktemp("serving") / "made"
    strzoo.register_architecture(TINY)
    make_network(folder, "tiny", images=6)
    assert COMMANDS[0][:3] == ["strzoo", "compile", "model.pth"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRZOO_HOME", str(folder / "home"))
        patch.chdir(folder)
        assert run(COMMANDS[0][1:]) == 0
    registry._registered.pop("tiny")
    (folder / "sitecustomize.py").write_text(WITHOUT)
    return folder


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRZOO_HOME", str(folder / "home"))


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """The service as the page starts it, of one process and with small limits."""
    (words,) = (words for words in COMMANDS if "examples/serving/service.py" in words)
    assert words[:3] == ["python", "examples/serving/service.py", "model.strz"]
    options = [*words[3:], "--workers", "1", "--callers", "2", "--max-bytes", "300000"]
    options[options.index("8000") - 1 : options.index("8000") + 1] = []
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "STRZOO_HOME": str(folder / "home")}
    log = folder / "log"
    with serve(folder / "model.strz", *options, environment=environment, log=log) as running:
        yield running


def test_one_image_by_the_command_of_the_page(service: Service, folder: Path) -> None:
    (words,) = (list(words) for words in COMMANDS if words[0] == "curl")
    words[words.index("@cat.jpg")] = f"@{folder / 'photos' / '003.jpg'}"
    words[-1] = words[-1].replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run([*words, "--silent", "--fail"], capture_output=True, check=True)
    guesses = json.loads(done.stdout)["guesses"]
    expected = json.loads((folder / "answers.json").read_text())["003.jpg"]
    assert [guess["index"] for guess in guesses] == [index for index, _ in expected]
    assert [guess["probability"] for guess in guesses] == pytest.approx([p for _, p in expected])


@pytest.mark.slow
def test_no_request_is_lost_or_wrong_while_the_service_restarts(
    service: Service, folder: Path
) -> None:
    before = ask_ready(service.url)
    assert before is not None
    found = send(service.url, folder, 1000, service, [0.3])
    # The last requests may be answered before the new process has taken over.
    until = time.monotonic() + 60
    while (after := ask_ready(service.url)) is None or after["process"] == before["process"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (found["answered"], found["restarts"]) == (1000, 1)
    assert (found["lost"], found["wrong"], found["broken"], found["problems"]) == (0, 0, 0, [])


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"", 400, "the body is empty"),
        (b"no image at all", 400, "no image format is known"),
        ("cut", 400, "the image cannot be read"),
        ("wide", 400, "it has 36,000,000 pixels; at most 25,000,000 are taken"),
        (bytes(300001), 413, "larger than 300,000 bytes"),
        (iter([bytes(200000), bytes(200000)]), 413, "larger than 300,000 bytes"),  # no length
    ],
)
def test_a_bad_image_is_answered_with_its_reason(
    service: Service, folder: Path, content: Any, code: int, reason: str
) -> None:
    if content == "cut":
        content = (folder / "photos" / "001.jpg").read_bytes()[:3000]
    elif content == "wide":
        stream = io.BytesIO()
        Image.new("1", (6000, 6000)).save(stream, "PNG")
        content = stream.getvalue()
        assert len(content) < 10_000
    request = urllib.request.Request(f"{service.url}/predict", data=content, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == code
    assert reason in json.load(caught.value)["detail"]


@pytest.mark.slow
def test_a_model_that_cannot_be_opened_does_not_replace_the_one_in_service(
    service: Service, folder: Path
) -> None:
    before = ask_ready(service.url)
    kept = (folder / "model.strz").rename(folder / "kept.strz")
    (folder / "model.strz").write_bytes(b"STRZPLAN" + bytes(100))
    service.restart()
    wait_for(lambda: "aborting the restart" in (folder / "log").read_text())
    kept.replace(folder / "model.strz")
    assert ask_ready(service.url) == before


@pytest.mark.slow
def test_a_stop_answers_what_is_under_way(folder: Path) -> None:
    content = (folder / "photos" / "000.jpg").read_bytes()
    with (
        serve(folder / "model.strz", "--wait", "1", log=folder / "log") as service,
        ThreadPoolExecutor() as clients,
    ):
        url = f"{service.url}/predict"
        answers = [clients.submit(urllib.request.urlopen, url, content, 30) for _ in range(3)]
        wait_for(lambda: (ask_ready(service.url) or {"pending": 0})["pending"] == 3)
        service.process.terminate()  # all three wait for others to share their batch
        for answer in answers:
            with answer.result() as found:
                assert found.headers["connection"] == "close"
                assert json.load(found)["guesses"]
        assert service.process.wait(30) == 0
        assert ask_ready(service.url) is None


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """service.py, imported here, over a model that waits until it is let go."""
    monkeypatch.syspath_prepend(SERVING)
    import service

    class Slow:
        name, engine, most = "slow", "stub", None

        def __init__(self) -> None:
            self.go = threading.Event()
            self.batches: list[int] = []

        def run(self, images: np.ndarray) -> np.ndarray:
            self.go.wait(30)
            self.batches.append(len(images))
            return images * 2

        def read_image(self, content: bytes, most: int) -> np.ndarray:
            return np.array([float(content)])

        def read_scores(self, scores: np.ndarray, top: int) -> list[float]:
            return [float(scores[0])]

    slow = Slow()
    monkeypatch.setattr(service, "open_model", lambda path, threads: slow)
    return service, slow


def post(content: bytes) -> Any:
    """A request as a server hands it to the application."""
    from starlette.requests import Request

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def test_full_queues_and_late_answers_are_refused_and_not_computed(modules: Any) -> None:
    module, slow = modules

    async def run() -> list[Any]:
        made = module.Service(module.Settings("", queue=4, batch=1, deadline=0.2))
        outcomes = await asyncio.gather(
            *(made.predict(post(str(n).encode())) for n in range(6)), return_exceptions=True
        )
        slow.go.set()
        outcomes.append(await made.predict(post(b"21")))
        assert made.pending == 0
        await asyncio.to_thread(made.close)
        return outcomes

    *outcomes, last = asyncio.run(run())
    assert [error.status_code for error in outcomes] == [504] * 4 + [503] * 2
    assert outcomes[5].headers == {"Retry-After": "1"}
    assert last == [42.0]
    # The first was being computed at its deadline; the three behind it never were.
    assert slow.batches == [1, 1]


def test_batches_fill_while_the_model_works_and_an_error_reaches_its_callers(modules: Any) -> None:
    from batching import Batcher

    slow = modules[1]
    batcher = Batcher(slow.run, most=4, wait=0.0)
    first = batcher.submit(np.array([0.0]))
    wait_for(first.running)
    results = [batcher.submit(np.array([float(n)])) for n in range(1, 8)]
    slow.go.set()
    batcher.close()  # runs what waits
    assert [float(r.result()[0]) for r in results] == [2.0 * n for n in range(1, 8)]
    assert slow.batches == [1, 4, 3]

    def fail(images: np.ndarray) -> np.ndarray:
        raise ValueError("no")

    batcher = Batcher(fail, most=4, wait=0.0)
    for _ in range(2):  # the thread survives
        with pytest.raises(ValueError, match="no"):
            batcher.submit(np.zeros(1)).result(30)
    assert batcher.alive
    batcher.close()


def wait_for(condition: Callable[[], object]) -> None:
    """Until it holds; fails after a minute."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("threads", 0), ("top", -1), ("deadline", -1.0), ("wait", -0.1),
     ("deadline", float("nan"))],
)  # fmt: skip
def test_settings_that_no_service_can_keep_are_refused(
    modules: Any, name: str, value: float
) -> None:
    module, _ = modules
    with pytest.raises(ValueError, match=rf"--{name} is {value}; it must be at least"):
        module.Settings("m.strz", **{name: value})
