"""A bot's files as whoever looks at the bot reads them: what is missing or broken says nothing, and raises nothing.

The bot may have written anything into its own files; what comes out of here is harmless (see ``protocol.decode``).
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from multibot_runner.protocol import (
    FORMS,
    RECEIVES,
    BadFile,
    BotPaths,
    Heartbeat,
    Run,
    decode,
    decode_object,
    decode_runs,
    is_number,
    read_file,
)

UNKNOWN = "unknown"  # a launch form that the files do not tell
_LARGEST_SETTING = 1e18


def read_heartbeat(paths: BotPaths) -> Optional[Heartbeat]:
    """Return the last heartbeat, of whatever process wrote it."""
    try:
        return decode(Heartbeat, read_file(paths.heartbeat))
    except BadFile:
        return None


def read_runs(paths: BotPaths) -> Tuple[Run, ...]:
    """Return the last starts, newest first."""
    try:
        return decode_runs(read_file(paths.runs))
    except BadFile:
        return ()


def read_live(paths: BotPaths) -> Tuple[str, Dict[str, Any]]:
    """Return the launch form (UNKNOWN where the file does not tell), and numbers and words of the live settings."""
    try:
        live = decode_object(read_file(paths.live))
    except BadFile:
        return UNKNOWN, {}
    launch = live.pop("launch", None)
    plain = {k: v for k, v in live.items() if is_number(v, _LARGEST_SETTING) or (k == "receives" and v in RECEIVES)}
    return launch if launch in FORMS else UNKNOWN, plain
