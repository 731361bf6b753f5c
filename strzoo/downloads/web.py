"""Ask a web server for bytes without ever waiting longer than allowed.

`Web.get` and `Answer.read` end at the deadline and when the caller cancels, also while a
server is silent; every failure of `requests` and `urllib3` becomes one of ours.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from strzoo.downloads.addresses import join_address, split_address
from strzoo.downloads.failures import our_errors
from strzoo.errors import CancelledError, NetworkError, StrzooError, one_line, required
from strzoo.version import VERSION

if TYPE_CHECKING:
    import requests

BLOCK = 1 << 18  # bytes asked of the socket at once; a read returns what has arrived
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_POLL = 0.1  # seconds between looks at the cancel switch


class Cancel(Protocol):
    """Anything that says whether to stop: a `threading.Event` does."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Network:
    """How long to wait, how often to try, and where Google Drive is. Times are seconds."""

    drive: str = "https://drive.google.com"
    cookies: Path | None = None  # a Netscape cookies.txt; no cookie is kept or sent without it
    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # of silence, before a connection counts as stalled
    total_time: float = 7200.0  # for one file, all sources and retries together
    attempts: int = 5  # in a row without getting further
    backoff: float = 1.0  # first pause; it doubles
    max_backoff: float = 30.0
    max_wait: float = 120.0  # the longest Retry-After that is waited for
    max_redirects: int = 10
    max_pages: int = 5  # confirmation pages of Google Drive, one after the other
    max_bytes: int = 4 << 30  # no published file comes near it; stops a body without end


class Deadline:
    """The moment by which everything must be done, and the caller's cancel switch."""

    def __init__(self, seconds: float, cancel: Cancel | None = None) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancel = cancel

    @property
    def remaining(self) -> float:
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.remaining <= 0 or (self._cancel is not None and self._cancel.is_set())

    def check(self) -> None:
        """Raise `CancelledError` or `NetworkError` when it is over."""
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError("the download was cancelled; run it again to resume")
        if self.remaining <= 0:
            raise NetworkError(f"gave up after {self._seconds:g} s; run it again to resume")

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the deadline nor a cancellation, which raise."""
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _POLL, max(self.remaining, 0)))
            self.check()


class Web:
    """One session with the outside: proxies from the environment, cookies only if asked for."""

    def __init__(self, network: Network, deadline: Deadline) -> None:
        with required("requests", "downloading"):
            import requests

        self.network, self.deadline = network, deadline
        self._session = requests.Session()
        # Even when it does not follow a redirect, requests looks where it leads, and for that
        # reads its whole body into memory; `get` follows them itself.
        self._session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
        # A compressed body would make sizes and ranges count other bytes than the file's.
        self._session.headers.update(
            {"User-Agent": f"strzoo/{VERSION}", "Accept-Encoding": "identity"}
        )
        if network.cookies is None:
            nobody = http.cookiejar.DefaultCookiePolicy(allowed_domains=[])
            self._session.cookies.set_policy(nobody)
        else:
            self._session.cookies.update(_read_cookies(network.cookies))

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET, redirects followed, once its headers are in.

        Raises:
            TransientError: no connection, a time-out or a broken answer.
            NetworkError: an address makes no sense, too many redirects, or the deadline passed.
            CancelledError: the caller cancelled.
        """
        split_address(url)
        # Not left to requests, which reads the whole body of a redirect into memory.
        for _ in range(self.network.max_redirects + 1):
            answer = self._ask(url, headers)
            if not answer.is_redirect:
                return answer
            answer.close()
            url = answer.location
        raise NetworkError(f"gave up after {self.network.max_redirects} redirects")

    def _ask(self, url: str, headers: Mapping[str, str]) -> Answer:
        self.deadline.check()
        opened: Future[requests.Response] = Future()
        timeout = (self.network.connect_timeout, self.network.read_timeout)

        def work() -> None:
            try:
                opened.set_result(
                    self._session.get(
                        url,
                        headers=dict(headers),
                        stream=True,
                        timeout=timeout,
                        allow_redirects=False,
                    )
                )
            except BaseException as error:
                opened.set_exception(error)

        # A thread, because neither a name lookup nor headers that drip in can be timed out
        # as a whole. One that is given up on ends with its socket's own time-outs.
        threading.Thread(target=work, daemon=True, name="strzoo-get").start()
        try:
            while not wait((opened,), timeout=_POLL).done:
                self.deadline.check()
            with our_errors():
                return Answer(opened.result(), self.deadline)
        except BaseException:
            opened.add_done_callback(_close_late)
            raise


class Answer:
    """A response whose body is read as it arrives."""

    def __init__(self, response: requests.Response, deadline: Deadline) -> None:
        self._response, self._deadline = response, deadline
        self._head: bytes | None = None
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="strzoo-watch").start()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._done.set()
        self._response.close()

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def reason(self) -> str:
        return one_line(f"HTTP {self.status} {self._response.reason or ''}", 80)

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def url(self) -> str:
        return self._response.url

    @property
    def is_redirect(self) -> bool:
        return self.status in _REDIRECTS and "Location" in self.headers

    @property
    def location(self) -> str:
        """Where a redirect leads.

        Raises:
            NetworkError: to no http or https address.
        """
        try:  # headers are read as Latin-1; addresses are UTF-8
            target = self.headers["Location"].encode("latin-1").decode("utf-8")
        except UnicodeError as error:
            raise NetworkError("redirects to an address that is not UTF-8") from error
        try:
            return join_address(self.url, target)
        except NetworkError as error:
            raise NetworkError(f"redirects to {error}") from error

    @property
    def is_page(self) -> bool:
        """Whether this is an HTML page, by what the server says or by how it begins."""
        declared = self.headers.get("Content-Type", "").lower().startswith("text/html")
        if declared and "Content-Disposition" not in self.headers:
            return True
        # A part of a file may begin with any byte; only a whole one is recognised by it.
        return self.status != 206 and self.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<"

    @property
    def head(self) -> bytes:
        """The first bytes of the body; `read` returns them again."""
        if self._head is None:
            self._head = self._read()
        return self._head

    def read(self) -> bytes:
        """The bytes that arrived next, b"" at the end. Errors as `Web.get`."""
        if self._head is not None:
            head, self._head = self._head, None
            if head:
                return head
        return self._read()

    def text(self, limit: int) -> str:
        """The body as text, cut at `limit` bytes."""
        body = bytearray()
        while len(body) < limit and (block := self.read()):
            body += block
        return bytes(body[:limit]).decode("utf-8", errors="replace")

    def _read(self) -> bytes:
        try:
            with our_errors():
                block: bytes = self._response.raw.read1(BLOCK)
        except StrzooError:
            self._deadline.check()  # the watch closes the connection: say why, not what broke
            raise
        self._deadline.check()
        return block

    def _watch(self) -> None:
        while not self._done.wait(min(_POLL, max(self._deadline.remaining, 0.001))):
            if self._deadline.over:
                # Ends a read that waits for the server; a connection already gone is fine.
                with contextlib.suppress(Exception):
                    self._response.raw.shutdown()
                return


def _close_late(opened: Future[requests.Response]) -> None:
    if opened.exception() is None:
        opened.result().close()


def _read_cookies(path: Path) -> http.cookiejar.CookieJar:
    jar = http.cookiejar.MozillaCookieJar(str(path))
    try:
        jar.load(ignore_discard=True, ignore_expires=True)
    except OSError as error:  # LoadError is one
        raise StrzooError(
            f"cannot read the cookies in {path}: {error.strerror or error}; export them from a "
            "browser in the Netscape format, or go without"
        ) from error
    for cookie in jar:
        if cookie.expires == 0:  # how browser extensions write a session cookie
            cookie.expires, cookie.discard = None, True
    return jar
