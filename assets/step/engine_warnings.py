"""What the engine warns of during a step (memory that ran out), told in Dagster's log and in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assets.tracking.progress import note

ENGINE = "compute"  # the root of the engine's loggers: compute/ knows no Dagster


class _Told(logging.Handler):
    def __init__(self, log: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.log(record.getMessage())
        note(record.getMessage())


@contextmanager
def engine_warnings(log: Callable[[str], None]) -> Iterator[None]:
    """While open, `log` gets each warning of the engine, and so does the terminal."""
    handler = _Told(log)
    logger = logging.getLogger(ENGINE)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
