"""A cache folder that the tests of the engine share, so that code is generated once."""

from __future__ import annotations

from pathlib import Path

import pytest

from strzoo.settings import Settings


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a cache folder for the session; only for what does not test the cache."""
    return Settings(cache_dir=Path(tmp_path_factory.mktemp("engine")), offline=True)
