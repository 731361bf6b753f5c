"""Model name -> verified local file: the cache, then every source in turn.

`download` and `import_file` are the public entrances; both end in `_accept`, the only way to a
final name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from strzoo.arguments import checked
from strzoo.downloads.cache import Cache, CachedFile, Check, check_content
from strzoo.downloads.sources import LocalSource, RefusedError, Source, SourceError, list_sources
from strzoo.downloads.staging import Partial
from strzoo.downloads.transfer import Progress, check_magic, copy_file, fetch, sync_file
from strzoo.downloads.web import Cancel, Deadline, Network, Web
from strzoo.errors import IntegrityError, NetworkError, OfflineError, StrzooError
from strzoo.files import run_checkpoint
from strzoo.settings import Settings, user_path
from strzoo.zoo.registry import ModelCard, Registry, load_registry

logger = logging.getLogger(__name__)

Identify: TypeAlias = Callable[[Path, Registry, ModelCard | None], tuple[ModelCard, str]]
"""Says which published model and format a file holds; checks it if the card is given."""


@dataclass(frozen=True)
class Fetched:
    """A verified file in the cache, and where it came from ("cache" if it was there)."""

    card: ModelCard
    format: str
    file: CachedFile
    source: str


@checked
def download(
    name: str,
    *,
    format: str | None = None,
    settings: Settings | None = None,
    network: Network | None = None,
    source: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """The local, verified file of a published model, fetched if it is not in the cache.

    Args:
        name: a model id, its Python spelling or a unique prefix.
        format: "str" or "dense"; without it the dense file where there is one.
        settings: cache folder, mirrors, offline; from the environment if not given.
        network: time-outs and retries.
        source: a file, or a folder that holds `<id>-<format>.pth`, to try first.
        progress: called as `progress(bytes_present, bytes_expected_or_None)`; what it raises
            ends the download and leaves a partial to resume.
        cancel: a `threading.Event` or the like; once set, the download ends within a second.

    Returns:
        The file, under its final name in the cache folder.

    Raises:
        UnknownNameError, UsageError: no such model or format.
        NetworkError: no source could deliver it; the message says what each one said.
        IntegrityError: a source delivered something else.
        OfflineError: the network is off and the file is not here.
        CancelledError: cancelled; a later call resumes.
        StrzooError: the cache cannot be written, or the disk is full.
    """
    settings = settings or Settings.from_env()
    card = load_registry(settings).get(name)
    fetched = obtain(
        card,
        format or default_format(card),
        settings,
        network=network,
        local=source,
        progress=progress,
        cancel=cancel,
    )
    return fetched.file.path


def default_format(card: ModelCard) -> str:
    """The format meant when none is named: dense where there is one."""
    return "dense" if "dense" in card.files else next(iter(card.files))


def obtain(
    card: ModelCard,
    format: str,
    settings: Settings,
    *,
    network: Network | None = None,
    local: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    check: Check = check_content,
) -> Fetched:
    """`download` for a card in hand, with a typed result. `check` looks into the file.

    Raises:
        StrzooError: as `download`.
    """
    network = network or Network()
    sources = list_sources(card, format, settings, local)
    deadline = Deadline(network.total_time, cancel)
    cache = Cache(settings.cache_dir, check)
    if local is None and (found := cache.find(card, format)):
        return Fetched(card, format, found, "cache")
    job = _Job(card, format, settings, network, deadline, cache, progress)
    if settings.offline and not any(isinstance(s, LocalSource) for s in sources):
        raise job.failure()
    with cache.tidied(), cache.lock(card.filename(format), deadline):
        cache.staging.clean()
        first = sources[:1] if local is not None else ()
        if fetched := job.try_all(first):
            return fetched
        # Another process may have been faster; a damaged file makes way now.
        if found := cache.find(card, format, reject=True):
            return Fetched(card, format, found, "cache")
        if fetched := job.try_all(sources[len(first) :]):
            return fetched
        raise job.failure()


class _Job:
    """One file on its way into the cache, and what the sources tried so far have said."""

    def __init__(
        self,
        card: ModelCard,
        format: str,
        settings: Settings,
        network: Network,
        deadline: Deadline,
        cache: Cache,
        progress: Progress | None,
    ) -> None:
        self.card, self.format, self.settings, self.network = card, format, settings, network
        self.deadline, self.cache, self.progress = deadline, cache, progress
        self.filename = card.filename(format)
        self.said: list[tuple[Source, StrzooError]] = []

    def try_all(self, sources: tuple[Source, ...]) -> Fetched | None:
        """The file from the first source that has it. Trouble with our own disk raises."""
        for source in sources:
            if self.settings.offline and not isinstance(source, LocalSource):
                continue
            if self.said and self.deadline.remaining <= 0:
                return None  # the error to come says who used up the time
            self.deadline.check()
            try:
                return self._try(source)
            except (NetworkError, IntegrityError, SourceError) as error:
                logger.warning("%s: %s: %s", self.filename, source.label, error)
                self.said.append((source, error))
        return None

    def failure(self) -> StrzooError:
        """The error that says what every source said and what to do by hand."""
        said = "; ".join(f"{source.label}: {error}" for source, error in self.said)
        place = self.cache.path(self.card, self.format)
        address = self.card.file(self.format).address
        if self.settings.offline:
            tried = f" ({said})" if said else ""
            state = "is damaged" if place.exists() else "is not in the cache"
            by_hand = f"fetch {address} elsewhere and run `strzoo import FILE {self.card.id}`"
            return OfflineError(
                f"{self.filename} {state} and the network is off{tried}; put it at {place}, or "
                f"{by_hand}"
            )
        errors = [error for _, error in self.said]
        kind = IntegrityError if any(isinstance(e, IntegrityError) for e in errors) else None
        hint = "run it again to resume"
        if kind or any(isinstance(e, RefusedError) for e in errors) or not self._resumes():
            hint = f"open {address} in a browser, then run `strzoo import FILE {self.card.id}`"
        return (kind or NetworkError)(f"cannot fetch {self.filename}: {said}; {hint}")

    def _resumes(self) -> bool:
        return bool(self.cache.staging.entries(self.filename))

    def _try(self, source: Source) -> Fetched:
        """The file from this source; one resumed download that came out wrong starts again."""
        identity = "local" if isinstance(source, LocalSource) else source.identity
        for last in (False, True):
            with self.cache.staging.hold(self.filename, identity) as partial:
                resumed = partial.size > 0
                try:
                    sha256 = self._bring(source, partial)
                    self.deadline.check()
                    card, format, deadline = self.card, self.format, self.deadline
                    file = _accept(
                        self.cache, partial, card, format, sha256, source.label, deadline
                    )
                    self.cache.staging.drop_kept(self.filename)
                    return Fetched(self.card, self.format, file, source.label)
                except IntegrityError as error:
                    partial.discard()
                    if last or not resumed:
                        raise
                    logger.warning("%s: the resumed file is wrong: %s", self.filename, error)
        raise AssertionError("the loop returns or raises")

    def _bring(self, source: Source, partial: Partial) -> str:
        if isinstance(source, LocalSource):
            return copy_file(source, partial, self.deadline, self.progress)
        file = self.card.file(self.format)
        web = Web(self.network, self.deadline)
        try:
            return fetch(
                source,
                partial,
                web,
                expected=file.bytes,
                pinned=file.sha256 is not None or self.cache.record(self.filename) is not None,
                progress=self.progress,
            )
        finally:
            web.close()


def import_file(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    identify: Identify | None = None,
    check: Check = check_content,
) -> Fetched:
    """Place a file that was fetched by hand in the cache, recognised by its content.

    Args:
        path: the file; its name does not matter.
        name: the model it must be; without it any published one is recognised.
        settings: cache folder and registries; from the environment if not given.
        progress: called as `progress(bytes_copied, bytes_of_the_file)`.
        cancel: a `threading.Event` or the like; once set, the import ends soon.

    Raises:
        UnknownNameError: no model has that name.
        IntegrityError: the file is none of the published models, or not the named one.
        StrzooError: it cannot be read, or the cache cannot be written.
    """
    settings = settings or Settings.from_env()
    registry = load_registry(settings)
    wanted = registry.get(name) if name is not None else None
    path = user_path(path)
    path = run_checkpoint(path, None if wanted is None else default_format(wanted))
    deadline = Deadline(Network().total_time, cancel)
    cache = Cache(settings.cache_dir, check)
    source = LocalSource(path, path.name, str(path))
    cache.staging.clean()
    with cache.tidied(), cache.staging.hold("import", "local") as partial:
        sha256 = copy_file(source, partial, deadline, progress)
        try:
            _check_head(partial.data)
            card, format = (identify or identify_content)(partial.data, registry, wanted)
        except IntegrityError as error:
            said = str(error).replace(str(partial.data), str(path))
            raise IntegrityError(said if str(path) in said else f"{path}: {said}") from error
        file = _accept(cache, partial, card, format, sha256, str(path), deadline)
    return Fetched(card, format, file, str(path))


def identify_content(
    path: Path, registry: Registry, wanted: ModelCard | None
) -> tuple[ModelCard, str]:
    """Which published model and format the file holds.

    Raises:
        IntegrityError: none, or not `wanted`.
    """
    from strzoo.checkpoint import identify, map_checkpoint

    checkpoint = map_checkpoint(path)
    if wanted is None:
        return identify(checkpoint, registry)
    if checkpoint.format not in wanted.files:
        raise IntegrityError(
            f"{path} is a {checkpoint.format!r} file; {wanted.id} has {', '.join(wanted.files)}"
        )
    return wanted, checkpoint.format


def _accept(
    cache: Cache,
    partial: Partial,
    card: ModelCard,
    format: str,
    sha256: str,
    source: str,
    deadline: Deadline,
) -> CachedFile:
    """Check everything that can be checked, then publish the partial under its final name."""
    file, filename = card.file(format), card.filename(format)
    try:
        _check_head(partial.data)
    except IntegrityError as error:
        raise IntegrityError(f"{filename}: {error}") from error
    if file.bytes is not None and partial.size != file.bytes:
        raise IntegrityError(f"{filename} has {partial.size:,} bytes; its card says {file.bytes:,}")
    cache.expect(card, format, sha256)
    cache.check(partial.data, card, format, shown=filename)
    deadline.check()  # reading a model takes a while
    sync_file(partial.data)
    return cache.publish(partial.data, card, format, sha256, source)


def _check_head(path: Path) -> None:
    with open(path, "rb") as stream:
        check_magic(stream.read(32))
