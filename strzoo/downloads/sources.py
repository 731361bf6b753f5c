"""Where a published file can come from, in the order in which the places are tried.

A file or folder the user names, the mirrors, the card's own address, Google Drive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from strzoo.downloads.addresses import host, join_address, split_address
from strzoo.downloads.failures import TransientError
from strzoo.downloads.headers import parse_count
from strzoo.downloads.web import Answer, Network, Web
from strzoo.errors import NetworkError, StrzooError, UsageError, one_line, required
from strzoo.settings import Settings, user_path
from strzoo.zoo.registry import ModelCard

_GOOGLE = (".google.com", ".googleusercontent.com")
_PAGE_LIMIT = 1 << 18  # bytes; the real pages have a few thousand
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class SourceError(StrzooError):
    """A local source is missing or cannot be read; another source may do."""


class RefusedError(NetworkError):
    """The server will not hand the file to a program now: quota or permission."""


@dataclass(frozen=True)
class LocalSource:
    """A file, or a folder that holds the file under its published name."""

    path: Path
    filename: str
    label: str

    @property
    def file(self) -> Path:
        """The file itself.

        Raises:
            SourceError: there is none.
        """
        path = self.path / self.filename if self.path.is_dir() else self.path
        if not path.is_file():
            raise SourceError(f"{path} does not exist" if not path.exists() else f"{path}: no file")
        return path


@dataclass(frozen=True)
class WebSource:
    """A file at a plain http or https address."""

    url: str
    label: str

    @property
    def identity(self) -> str:
        return self.url

    def open(self, web: Web, headers: Mapping[str, str]) -> Answer:
        """The answer whose body is the file, or the part asked for.

        Raises:
            TransientError, NetworkError: the server does not send it.
        """
        answer = web.get(self.url, headers)
        try:
            check_status(answer)
            if answer.status != 416 and answer.is_page:
                raise NetworkError("the server sent an HTML page instead of the file")
        except BaseException:
            answer.close()
            raise
        return answer


@dataclass(frozen=True)
class DriveSource:
    """A file on Google Drive, through the confirmation pages of large files."""

    drive_id: str
    label: str = "Google Drive"

    @property
    def identity(self) -> str:
        return f"drive:{self.drive_id}"

    def open(self, web: Web, headers: Mapping[str, str]) -> Answer:
        """As `WebSource.open`. gdown reads the confirmation page; how often, and which address
        is followed, is decided here.

        Raises:
            RefusedError: quota exceeded, or the file is not shared with everyone.
            TransientError, NetworkError: Drive does not send the file.
        """
        url = f"{web.network.drive}/uc?export=download&id={self.drive_id}"
        for _ in range(web.network.max_pages):
            answer = web.get(url, headers)
            try:
                if _is_login(answer.url) or answer.status in (401, 403):
                    raise RefusedError(_refusal(answer))
                check_status(answer)
                if answer.status == 416 or not answer.is_page:
                    return answer
                url = _next_address(answer, web.network)
            except BaseException:
                answer.close()
                raise
            answer.close()
        raise RefusedError(f"still asks for confirmation after {web.network.max_pages} pages")


Source: TypeAlias = LocalSource | WebSource | DriveSource


def list_sources(
    card: ModelCard, format: str, settings: Settings, local: str | os.PathLike[str] | None = None
) -> tuple[Source, ...]:
    """The sources of a card's file, in order; the cache is not one of them.

    `local` is a file or a folder; `settings.mirrors` are http(s) addresses or folders under
    which the file has the name `card.filename(format)`.
    """
    file, filename = card.file(format), card.filename(format)
    sources: list[Source] = []
    if local is not None:
        path = user_path(local)
        sources.append(LocalSource(path, filename, f"{path}"))
    for mirror in settings.mirrors:
        sources.append(_source_at(mirror, filename, f"mirror {mirror}", is_folder=True))
    if file.url:
        sources.append(_source_at(file.url, filename, file.url, is_folder=False))
    if file.drive_id:
        sources.append(DriveSource(file.drive_id))
    return tuple(sources)


def check_status(answer: Answer) -> None:
    """Raise `TransientError` or `NetworkError` unless the answer is 200, 206 or 416."""
    if answer.status in (200, 206, 416):
        return
    if answer.status in _RETRIED:
        raise TransientError(f"answered {answer.reason}", wait=_retry_after(answer))
    raise NetworkError(f"answered {answer.reason}")


def _source_at(address: str, filename: str, label: str, *, is_folder: bool) -> Source:
    scheme, separator, _ = address.partition("://")
    if not separator:
        return LocalSource(user_path(address), filename, label)
    try:
        if scheme.lower() == "file":
            return LocalSource(user_path(unquote(urlsplit(address).path)), filename, label)
        split_address(address)
    except (NetworkError, ValueError) as error:
        raise UsageError(
            f"{one_line(label)}: {one_line(str(error))}; give an http or https address, or a folder"
        ) from error
    return WebSource(f"{address.rstrip('/')}/{filename}" if is_folder else address, label)


def _retry_after(answer: Answer) -> float | None:
    seconds = parse_count(answer.headers.get("Retry-After", ""))
    return None if seconds is None else float(seconds)


def _is_login(url: str) -> bool:
    return host(url).startswith("accounts.") or "/ServiceLogin" in urlsplit(url).path


def _refusal(answer: Answer) -> str:
    """Why Drive refused, from the page it sent."""
    if _is_login(answer.url):
        return "asks to sign in: the file is not shared with everyone"
    text = answer.text(_PAGE_LIMIT) if answer.status != 204 else ""
    if "quota" in text.lower() or "too many users" in text.lower():
        return f"quota exceeded: too many downloads of this file lately (HTTP {answer.status})"
    return f"permission denied ({answer.reason}): the file is not shared with everyone"


def _next_address(answer: Answer, network: Network) -> str:
    """Where the confirmation page leads.

    Raises:
        RefusedError: the page is not a confirmation but says that the file is not to be had.
        NetworkError: it leads away from Google.
    """
    with required("gdown", "reading Google Drive's confirmation page"):
        from gdown.download import get_url_from_gdrive_confirmation
        from gdown.exceptions import FileURLRetrievalError

    # gdown parses line by line: on one line, a form spread over several is understood, and a
    # page of a million lines takes no time.
    page = " ".join(answer.text(_PAGE_LIMIT).split())
    try:
        found = get_url_from_gdrive_confirmation(page)
    except FileURLRetrievalError as error:
        raise RefusedError(_page_reason(page, str(error))) from error
    except Exception as error:  # whatever gdown or its parser trips over in a strange page
        said = one_line(repr(error), 120)
        raise NetworkError(f"sent a confirmation page that gdown cannot read: {said}") from error
    url = join_address(answer.url, found)
    base, target = urlsplit(network.drive), urlsplit(url)
    trusted = target.hostname == base.hostname or (
        (base.hostname or "").endswith(_GOOGLE) and (target.hostname or "").endswith(_GOOGLE)
    )
    if not trusted or target.scheme != base.scheme:
        raise NetworkError(f"a page leads away from Google Drive, to {host(url)}; not followed")
    return url


def _page_reason(page: str, error: str) -> str:
    everything = f"{page} {error}".lower()
    if "quota" in everything or "too many users" in everything:
        return "quota exceeded: too many downloads of this file lately"
    if "permission" in page.lower() or "access denied" in page.lower():
        return "permission denied: the file is not shared with everyone"
    title = re.search(r"<title>([^<]{1,80})", page)
    named = f" titled {' '.join(title[1].split())!r}" if title else ""
    return f"sent an HTML page{named} instead of the file"
