"""Keep the talk of third-party exporters out of the user's terminal: it goes to our log."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


class _Forward(logging.Handler):
    """Repeats every record as a debug line of `log`."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("strzoo"):
            self._log.debug("%s: %s", record.name, record.getMessage())


@contextlib.contextmanager
def chatter_to(log: logging.Logger) -> Iterator[None]:
    """While the block runs, other libraries' prints, warnings and log records go to `log` (debug).

    Handlers are put back as they were, also those that a library adds to the root logger. Not
    for several threads at once: standard output is redirected for the whole process.
    """
    forward = _Forward(log)
    loggers = _foreign_loggers()
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    printed = io.StringIO()
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [forward], False
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        for line in printed.getvalue().splitlines():
            log.debug("%s", line)
    for warning in warned:
        log.debug("%s: %s", warning.category.__name__, warning.message)


def _foreign_loggers() -> list[logging.Logger]:
    """The root logger and every other library's logger that writes somewhere itself."""
    known = list(logging.root.manager.loggerDict.items())
    own = [log for _, log in known if isinstance(log, logging.Logger) and log.handlers]
    return [logging.root, *(log for log in own if not log.name.startswith("strzoo"))]
