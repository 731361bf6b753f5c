"""Each test here runs on the CPU, and on a GPU where there is one (`pytest -m cuda`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from strzoo.devices import float32_mode


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where the test computes, in fp32 without TF32."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    place = torch.device("cuda", 0) if request.param == "cuda" else torch.device("cpu")
    with float32_mode(place, "fp32"):
        yield place
    if place.type == "cuda":
        torch.cuda.empty_cache()


@pytest.fixture
def gpu() -> torch.device:
    """For what a CPU lacks."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device("cuda", 0)
