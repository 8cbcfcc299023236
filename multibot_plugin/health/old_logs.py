"""The end of old logs: what was rotated away, and all of a bot that was deleted, once ``log_keep_s`` is over."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress

from multibot_plugin.bots.files import deployed
from multibot_plugin.home import Home
from multibot_runner.protocol import BOT_ID, PROGRAM_PREFIX, is_number
from multibot_runner.readers import read_live

_NAME = re.compile(rf"{PROGRAM_PREFIX}({BOT_ID.pattern})\.log(\.\d+)?")


def remove_old(home: Home, keep_s: float, now_at: float, known: Collection[str]) -> list[str]:
    """Remove what is too old and return its names; raises OSError.

    ``keep_s``: the fleet's setting, for bots that are deleted or say nothing of it; ``known``: those that supervisord
    has. The log that a bot writes into stays, however old.
    """
    try:
        directory = os.open(home.log, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        living = deployed(home) | set(known)
        return [
            name for name in sorted(os.listdir(directory)) if _removed(home, directory, name, keep_s, now_at, living)
        ]
    finally:
        os.close(directory)


def _removed(home: Home, directory: int, name: str, keep_s: float, now_at: float, living: Collection[str]) -> bool:
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    bot, rotated = match.groups()
    if bot in living:
        if not rotated:
            return False
        own = read_live(home.bot(bot))[1].get("log_keep_s", keep_s)
        keep_s = own if is_number(own) else keep_s
    if keep_s <= 0:
        return False
    with suppress(FileNotFoundError):  # rotated or purged this moment
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        since = info.st_mtime if bot in living else max(info.st_mtime, _deleted_at(home, bot))
        if stat.S_ISREG(info.st_mode) and now_at - since > keep_s:
            os.unlink(name, dir_fd=directory)
            return True
    return False


def _deleted_at(home: Home, bot: str) -> float:
    """Return when the settings of a bot were taken out of its directory; 0 when that is gone, too."""
    try:
        return os.stat(home.bot(bot).state_dir, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
