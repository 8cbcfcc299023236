"""What can be seen of a bot's code in our process: hooks on the libraries, set when the bot imports them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from multibot_runner.launch import Launch
from multibot_runner.record import Recorder
from multibot_runner.sight import after_import, seen_aiohttp, seen_handlers, seen_httpx, seen_requests
from multibot_runner.sight.after_import import Hook
from multibot_runner.sight.beat import LoopBeat
from multibot_runner.sight.handling import Handling
from multibot_runner.sight.polls import PollWatch


@dataclass(frozen=True)
class Sight:
    """What the launch forms need of it."""

    watch: PollWatch
    beat: LoopBeat


def install(launch: Launch, recorder: Recorder) -> Sight:
    """Set the hooks, and spare the bot the memory of what libraries import without needing it.

    python-telegram-bot does without cryptography (its Passport then does not work): 13 MiB per bot. That is done in our
    own interpreter only, where it is installed because of us.
    """
    beat = LoopBeat(recorder)
    handling = Handling(recorder, beat.here)
    os.register_at_fork(after_in_child=handling.renew)
    watch = PollWatch(recorder, handling, launch.settings.bot_api_url, launch.token)
    spared = ("cryptography",) if launch.own_interpreter else ()
    after_import.install({
        "httpx": Hook(partial(seen_httpx.patch, watch), hidden=("httpx._main",)),
        "aiohttp": Hook(partial(seen_aiohttp.patch, watch)),
        "requests": Hook(partial(seen_requests.patch, watch)),
        "telegram": Hook(partial(seen_handlers.patch_telegram, handling), hidden=spared),
        "telegram.ext": Hook(partial(seen_handlers.patch_telegram_ext, handling)),
        "aiogram": Hook(partial(seen_handlers.patch_aiogram, handling)),
        "telebot": Hook(partial(seen_handlers.patch_telebot, handling)),
        "telebot.async_telebot": Hook(partial(seen_handlers.patch_async_telebot, handling)),
    })  # fmt: skip
    return Sight(watch, beat)
