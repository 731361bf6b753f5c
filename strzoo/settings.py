"""Where files live and whether the network may be used: one frozen record, passed in.

Nothing here is read at import time and nothing is global; `Settings.from_env` reads the
documented environment variables when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from strzoo.errors import UsageError
from strzoo.files import user_path

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """Cache folder, extra registries, mirrors and network switches."""

    cache_dir: Path
    offline: bool = False
    registries: tuple[Path, ...] = ()
    mirrors: tuple[str, ...] = field(default=())

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        registries: Iterable[str | os.PathLike[str]] = (),
        mirrors: Iterable[str] = (),
    ) -> Settings:
        """Settings from the environment; arguments given here win over it.

        The cache folder is `cache_dir`, else `STRZOO_HOME`, else `$TORCH_HOME/strzoo`, else
        `$XDG_CACHE_HOME/strzoo`, else `~/.cache/strzoo`. `STRZOO_OFFLINE=1` turns the network
        off. `STRZOO_REGISTRY` adds registry files (several joined by the path separator),
        `STRZOO_MIRROR` a mirror; arguments come before the environment's.

        Raises:
            UsageError: `STRZOO_OFFLINE` is neither true nor false, or a folder or file is no path.
        """
        env = os.environ if env is None else env
        extra = [p for p in env.get("STRZOO_REGISTRY", "").split(os.pathsep) if p]
        mirror = env.get("STRZOO_MIRROR", "")
        return cls(
            cache_dir=user_path(cache_dir) if cache_dir else _cache_dir(env),
            offline=_switch(env, "STRZOO_OFFLINE") if offline is None else offline,
            registries=tuple(user_path(p) for p in [*registries, *extra]),
            mirrors=tuple([*mirrors, mirror] if mirror else mirrors),
        )


def _cache_dir(env: Mapping[str, str]) -> Path:
    if home := env.get("STRZOO_HOME"):
        return user_path(home)
    for variable in ("TORCH_HOME", "XDG_CACHE_HOME"):
        if base := env.get(variable):
            return user_path(base) / "strzoo"
    return user_path("~/.cache/strzoo")


def _switch(env: Mapping[str, str], name: str) -> bool:
    value = env.get(name, "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise UsageError(f"{name}={env[name]!r} is neither true nor false; use 1 or 0")
    return value in _TRUE
