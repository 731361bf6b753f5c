"""Where files live, whether the network may be used, what inputs may take: frozen, passed in.

Nothing here is read at import time and nothing is global; `Settings.from_env` reads the
documented environment variables when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from strzoo.arguments import check_fields, check_path, checked
from strzoo.errors import IntegrityError, UsageError, one_line

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"", "0", "false", "no", "off"}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_LARGEST_LIMIT = 1 << 62


@dataclass(frozen=True)
class Limits:
    """What an input from outside may take; far more than any honest one does.

    Readers check what a file claims before they believe it. `STRZOO_MAX_BYTES`, `_TEXT`,
    `_ELEMENTS`, `_PIXELS`, `_SECONDS` and `_NESTING` override them (K, M, G, T are powers of 1024).

    Attributes:
        bytes: of memory for one thing that is read: a file's or an archive member's content, a
            group of rows, a list of samples.
        text: bytes of a text file (labels, names, JSON), which take many times that once parsed.
        elements: numbers in one tensor.
        pixels: of one image, decoded or resized.
        seconds: of one unit of work on an input that could go on for ever.
        nesting: levels of folders, functions and objects inside each other.
    """

    bytes: int = 1 << 30
    text: int = 32 << 20
    elements: int = 1 << 28
    pixels: int = 1 << 27
    seconds: int = 600
    nesting: int = 64

    @classmethod
    @checked
    def from_env(cls, env: Mapping[str, str] | None = None, **given: int) -> Limits:
        """Limits from the environment; those given here by name win over it.

        Raises:
            UsageError: a variable is not a positive whole number, or there is no such limit.
        """
        env = os.environ if env is None else env
        names = [limit.name for limit in fields(cls)]
        if unknown := sorted(set(given) - set(names)):
            raise UsageError(f"there is no limit {unknown[0]!r}; there are {', '.join(names)}")
        found = {n: _number(env, f"STRZOO_MAX_{n.upper()}") for n in names}
        return cls(**({n: value for n, value in found.items() if value is not None} | given))

    def __post_init__(self) -> None:
        check_fields(self)
        for limit in fields(self):
            if (value := getattr(self, limit.name)) < 1:
                raise UsageError(f"the limit {limit.name} is {value}; it must be at least 1")

    def check(self, name: str, found: int, what: str) -> None:
        """Raise an IntegrityError that names the limit if `found` is above the limit `name`.

        Args:
            name: of a field.
            found: what the input has, or claims to have.
            what: the input, for the message.
        """
        limit = getattr(self, name)
        if found > limit:
            unit = {"text": "bytes of text", "nesting": "levels"}.get(name, name)
            raise IntegrityError(
                f"{what} needs {_grouped(found)} {unit}, above the limit of {limit:,}; raise it "
                f"with STRZOO_MAX_{name.upper()} if you trust the file"
            )


def _grouped(number: int) -> str:
    return f"{number:,}" if number < _LARGEST_LIMIT else "more than 4 x 10^18"


@dataclass(frozen=True)
class Settings:
    """Cache folder, extra registries, mirrors, network switches and limits of inputs.

    `architecture` is the network of checkpoint files that do not say theirs, or that name code,
    which runs only if it is named here as well: "timm:NAME", "torchvision:NAME" or
    "package.module:function".
    """

    cache_dir: Path
    offline: bool = False
    registries: tuple[Path, ...] = ()
    mirrors: tuple[str, ...] = field(default=())
    limits: Limits = field(default_factory=Limits)
    architecture: str = ""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    @checked
    def from_env(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        offline: bool | None = None,
        registries: Iterable[str | os.PathLike[str]] = (),
        mirrors: Iterable[str] = (),
        limits: Limits | None = None,
        architecture: str = "",
    ) -> Settings:
        """Settings from the environment; arguments given here win over it.

        The cache folder is `cache_dir`, else `STRZOO_HOME`, else `$TORCH_HOME/strzoo`, else
        `$XDG_CACHE_HOME/strzoo`, else `~/.cache/strzoo`. `STRZOO_OFFLINE=1` turns the network
        off. `STRZOO_REGISTRY` adds registry files (several joined by the path separator),
        `STRZOO_MIRROR` a mirror; arguments come before the environment's. `Limits` lists the
        variables of the limits.

        Raises:
            UsageError: `STRZOO_OFFLINE` is neither true nor false, a limit is not a number, or a
                folder or file is no path.
        """
        env = os.environ if env is None else env
        extra = [p for p in env.get("STRZOO_REGISTRY", "").split(os.pathsep) if p]
        mirror = env.get("STRZOO_MIRROR", "")
        return cls(
            cache_dir=user_path(cache_dir) if cache_dir else _cache_dir(env),
            offline=_switch(env, "STRZOO_OFFLINE") if offline is None else offline,
            registries=tuple(user_path(p) for p in [*registries, *extra]),
            mirrors=tuple([*mirrors, mirror] if mirror else mirrors),
            limits=limits or Limits.from_env(env),
            architecture=architecture,
        )


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with `~` expanded.

    Raises:
        UsageError: as `check_path`, or it begins with the home of an unknown user.
    """
    check_path(path)
    text = os.fspath(path)
    try:
        expanded = Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{one_line(text, 120)!r}: no such user; write the folder out") from error
    check_path(expanded)
    return expanded


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


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "").strip().lower()
    if not text:
        return None
    digits, unit = (text[:-1], _UNITS[text[-1]]) if text[-1] in _UNITS else (text, 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits)):
        raise UsageError(f"{name}={text[:40]!r} is not a positive whole number, such as 4G")
    return min(int(digits) * unit, _LARGEST_LIMIT)
