"""What a build function may know of its bot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from multibot_runner.protocol import BotPaths, RunnerSettings

if TYPE_CHECKING:
    import logging


@dataclass(frozen=True)
class BotContext:
    """The second argument of a build function.

    ``id``: the bot's name; ``settings``: its effective ones (``bot_api_url``, ``receives``, ``port`` ...); ``logger``:
    see ``setup_logger``; ``paths``: its directories, of which ``paths.work`` is its own and lasts.
    """

    id: str
    settings: RunnerSettings
    logger: logging.Logger
    paths: BotPaths
