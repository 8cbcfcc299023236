"""What the manager says of each kind of bot in each kind of trouble: the words that docs/health.md shows.

``integration/test_matrix.py`` provokes every cell by a real fault. Pure; docs/generate.py reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNSEEN = "not visible"  # it lives, and that is all that can be seen
OR = " or "  # whichever comes first
Form = tuple[str, str]  # launch form and target


@dataclass(frozen=True)
class Table:
    """Bots, as a reader knows them, and by trouble a word for each: a health, the check where that is degraded."""

    forms: Mapping[str, Form]
    words: Mapping[str, tuple[str, ...]]

    def expected(self, trouble: str) -> dict[str, list[str]]:
        """Return which words may stand for each bot."""
        return {name: cell.split(OR) for name, cell in zip(self.forms, self.words[trouble], strict=True)}

    def markdown(self) -> str:
        head = ["trouble", *self.forms]
        rows = [[trouble, *map(_shown, cells)] for trouble, cells in self.words.items()]
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _shown(cell: str) -> str:
    return f"*{cell}*" if cell == UNSEEN else OR.join(f"`{word}`" for word in cell.split(OR))


_SEEN, _COMMANDS = 5, 2  # how many of these run in the runner, and how many beside it
_DEAF = ("deaf",) * (_SEEN + _COMMANDS)
POLLING = Table(
    {
        "build, python-telegram-bot": ("build", "{bots}/build_echo.py:build"),
        "script, python-telegram-bot": ("script", "{bots}/script_echo.py"),
        "script, aiogram": ("script", "{bots}/aiogram_echo.py"),
        "script, pyTelegramBotAPI": ("script", "{bots}/telebot_echo.py"),
        "script, pyTelegramBotAPI async": ("script", "{bots}/telebot_async_echo.py"),
        "command, grammY (Node)": ("command", "node {bots}/node/echo.js"),
        "command, sh and curl": ("command", "/bin/sh {bots}/shell_echo.sh"),
    },
    {
        "none": ("healthy",) * _SEEN + (UNSEEN,) * _COMMANDS,
        # pyTelegramBotAPI's handlers have threads of their own beside the one that polls.
        "its event loop is blocked": ("frozen", "frozen", "frozen", "slow", "frozen", "deaf", "deaf"),
        "a handler is slow": ("slow",) * _SEEN + ("deaf",) * _COMMANDS,
        "getUpdates hangs": _DEAF,
        "connections are dropped": _DEAF,
        "Telegram answers 502": _DEAF,
        "flood wait (429)": ("throttled",) * _SEEN + ("deaf",) * _COMMANDS,
        # grammY ends at a 409 and a 401, and may be asked about while it lives; the shell's bot does not look.
        "a second poller elsewhere (409)": ("conflicted",) * _SEEN + ("deaths", UNSEEN),
        "its token is revoked while it runs": ("unauthorised",) * _SEEN + (f"deaths{OR}unauthorised", "unauthorised"),
        "its token is revoked before it starts": ("unauthorised",) * _SEEN
        + (f"deaths{OR}unauthorised", "unauthorised"),
        "it crashes in a loop": ("deaths",) * (_SEEN + _COMMANDS),
    },
)
_HOOKED = 3
WEBHOOK = Table(
    {
        "build, python-telegram-bot": ("build", "{bots}/build_echo.py:build"),
        "script, aiogram": ("script", "{bots}/aiogram_webhook.py"),
        "script, pyTelegramBotAPI": ("script", "{bots}/telebot_webhook.py"),
    },
    {
        "none": ("healthy",) * _HOOKED,
        "its event loop is blocked": ("frozen", "frozen", "slow"),
        "a handler is slow": ("slow",) * _HOOKED,
        "it refuses what is delivered": ("webhook",) * _HOOKED,
        "its webhook is deleted elsewhere": ("deaf",) * _HOOKED,
        "its token is revoked while it runs": ("unauthorised",) * _HOOKED,
    },
)
