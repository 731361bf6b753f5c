"""A cache folder that the tests of the engine share, so that code is generated once."""

from __future__ import annotations

import os

import pytest

from strzoo.settings import Settings


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a cache folder for the session and all of its processes; only for what does
    not test the cache."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return Settings(cache_dir=folder / "engine cache", offline=True)
