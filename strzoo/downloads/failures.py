"""What `requests` and `urllib3` raise, as errors of ours: one that may pass, or one that stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from strzoo.errors import NetworkError, StrzooError, one_line


class TransientError(NetworkError):
    """A failure that may pass: trying again can help. `wait` is what the server asked for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@contextlib.contextmanager
def our_errors() -> Iterator[None]:
    """Turn what `requests` and `urllib3` raise into `TransientError` or `NetworkError`."""
    import requests
    import urllib3

    try:
        yield
    except (StrzooError, MemoryError):
        raise
    except requests.exceptions.SSLError as error:
        raise NetworkError(f"no trusted connection: {explain(error)}") from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise TransientError(explain(error)) from error
    except requests.exceptions.RequestException as error:
        raise NetworkError(explain(error)) from error
    except OSError as error:
        raise TransientError(explain(error)) from error
    except Exception as error:  # their parsers let through what a strange address or header does
        raise NetworkError(f"cannot be asked: {explain(error)}") from error


def explain(error: BaseException) -> str:
    """The innermost reason of a `requests` or `urllib3` error, on one line."""
    inner: object = error
    for _ in range(5):
        args = inner.args if isinstance(inner, BaseException) else ()
        deeper = [e for e in (getattr(inner, "reason", None), *args) if isinstance(e, Exception)]
        if not deeper:
            break
        inner = deeper[0]
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    if isinstance(inner, TimeoutError) or "timed out" in str(inner).lower():
        return "the server stayed silent for too long"
    text = one_line(str(inner)) or type(inner).__name__
    if "[Errno" in text:
        text = text.rsplit("] ", 1)[-1].rstrip("')\"")
    return text
