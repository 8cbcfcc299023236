"""A logger for a bot's author, whose lines look like the manager's."""

from __future__ import annotations

import logging
import sys
from typing import Any, Union

from multibot_runner import logs
from multibot_runner.lines import JSON

_FORM = "%(levelname)s %(name)s: %(message)s"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at the moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        # An object of the form json has its time already; the form stamped leaves a line alone that begins with one.
        formatter = logging.Formatter(_FORM if logs.form() == JSON else f"%(asctime)s {_FORM}")
        formatter.default_msec_format = "%s.%03d"
        self.setFormatter(formatter)

    @property
    def stream(self) -> Any:
        return sys.stderr


def setup_logger(name: str, level: Union[int, str] = "INFO") -> logging.Logger:
    """Return the logger ``name`` with a handler of its own; a second call changes its level alone."""
    logger = logging.getLogger(name)
    logger.setLevel(level)
    if not any(isinstance(handler, _Handler) for handler in logger.handlers):
        logger.addHandler(_Handler())
        logger.propagate = False  # else the root logger's handlers would write each line once more
    for client in map(logging.getLogger, ("httpx", "httpcore")):  # they log every URL, and the token is part of it
        if client.level == logging.NOTSET:
            client.setLevel(logging.WARNING)
    return logger
