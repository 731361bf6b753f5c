"""Web addresses from outside: options, cards, redirects and pages go through one check."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from strzoo.errors import NetworkError, one_line

_LONGEST = 8192  # characters; the longest real ones, signed by a content network, have 2,000


def split_address(url: str) -> SplitResult:
    """The parts of an http or https address.

    Raises:
        NetworkError: it is none, has no host or an impossible port, or is far too long.
    """
    shown = one_line(url, 120)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise NetworkError(f"{shown!r} is no address: {one_line(str(error))}") from error
    if parts.scheme not in ("http", "https"):
        raise NetworkError(f"{shown!r} is not an http or https address")
    if not host:
        raise NetworkError(f"{shown!r} names no host")
    if len(url) > _LONGEST or not url.isprintable():
        raise NetworkError(f"{shown!r} is no address: too long, or with control characters")
    return parts


def join_address(base: str, location: str) -> str:
    """The address that `location` means on a page or in a redirect of `base`.

    Raises:
        NetworkError: as `split_address`.
    """
    try:
        url = urljoin(base, location)
    except ValueError as error:
        shown = one_line(location, 120)
        raise NetworkError(f"{shown!r} is no address: {one_line(str(error))}") from error
    split_address(url)
    return url


def host(url: str) -> str:
    """The host of an address, for messages."""
    try:
        return urlsplit(url).hostname or one_line(url, 120)
    except ValueError:
        return one_line(url, 120)
