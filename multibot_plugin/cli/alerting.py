"""Do alerts arrive? What the monitor says of its channels, and one question to Telegram."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.settings import Settings
from multibot_runner.protocol import BadFile, read_file

_ASK_WAIT_S = 5.0


def where_alerts_go(settings: Settings, alerts: Mapping[str, Any]) -> str:
    """Return ``alerts go to Telegram``, that they go to the log only, or that they do not arrive.

    ``alerts``: the monitor's picture (status.json).
    """
    failing = {delivery["to"] for delivery in _failing(alerts)}
    channels = [name for name in alerts.get("channels", ()) if name != "log"]
    names = [f"{name[:1].upper()}{name[1:]}" for name in channels if name not in failing]
    if "channels" not in alerts and settings["alerts.telegram.token_file"] and settings["alerts.telegram.chat_id"]:
        names = ["Telegram"]
    if failing and not names:
        return "alerts do not arrive"
    return f"alerts go to {', '.join(names)}" if names else "alerts go to the log only"


def unsent(alerts: Mapping[str, Any]) -> list[str]:
    """Return a line for each channel whose last alert could not be sent: to where, why, how many wait."""
    return [
        f"alerts cannot be sent to {d['to']}: {d['failure']}"
        + (f"; {d['waiting']:,} wait{'s' if d['waiting'] == 1 else ''}" if d["waiting"] else "")
        for d in _failing(alerts)
    ]


def _failing(alerts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [delivery for delivery in alerts.get("deliveries", ()) if delivery.get("failure")]


def ask_telegram(settings: Settings) -> None:
    """Ask Telegram once whether the bot of the alerts may write into their chat.

    Returns when it may, or when there is nothing to ask with. Raises Refused when it may not, MultibotError when
    Telegram cannot be asked.
    """
    from multibot_plugin.bots.telegram import check_chat

    file, chat = settings["alerts.telegram.token_file"], settings["alerts.telegram.chat_id"]
    if not file or not chat:
        return
    try:
        token = read_file(Path(file), cap=4096).decode().strip()
    except (BadFile, UnicodeDecodeError):
        return  # which has a line of its own (config.problems)
    try:
        check_chat(token, settings["bot_api_url"], chat, _ASK_WAIT_S)
    except Refused as error:
        raise Refused(f"alerts cannot be sent to Telegram (chat {chat}): {error}") from error
    except MultibotError as error:
        raise MultibotError(f"whether alerts reach Telegram (chat {chat}) is not known: {error}") from error
