"""A bot's process. Standard library only until the bot's own code is loaded; Python 3.10 or later.

For authors of bots: ``from multibot_runner import BotContext, setup_logger``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import logging

    from multibot_runner.context import BotContext

__all__ = ["BotContext", "setup_logger"]


def __getattr__(name: str) -> Any:
    """Import BotContext when somebody asks for it: the manager reads this package's files, too, and needs it not."""
    if name != "BotContext":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from multibot_runner.context import BotContext

    return BotContext


def setup_logger(name: str, level: Union[int, str] = "INFO") -> logging.Logger:
    """Return the logger ``name``, set to ``level``, which writes lines of the manager's form to ``sys.stderr``.

    ``2026-11-30 14:03:11.123 INFO shop: 3 orders``. Loggers below it (``shop.orders``) write through it. httpx and
    httpcore, which log every URL and with it the token, are set to WARNING unless their level is set already.
    """
    from multibot_runner import logger  # nothing is imported for those who do not call this

    return logger.setup_logger(name, level)
