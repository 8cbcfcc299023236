"""What the manager says of each kind of bot in each kind of trouble: the words that docs/health.md shows.

``integration/test_matrix.py`` provokes every cell by a real fault. Pure; docs/generate.py reads it.
"""

from __future__ import annotations

# Launch form and program, as a reader knows them, and where the bot lies.
FORMS = {
    "build, python-telegram-bot": ("build", "{bots}/build_echo.py:build"),
    "script, python-telegram-bot": ("script", "{bots}/script_echo.py"),
    "script, aiogram": ("script", "{bots}/aiogram_echo.py"),
    "script, pyTelegramBotAPI": ("script", "{bots}/telebot_echo.py"),
    "script, pyTelegramBotAPI async": ("script", "{bots}/telebot_async_echo.py"),
    "command, grammY (Node)": ("command", "node {bots}/node/echo.js"),
    "command, sh and curl": ("command", "/bin/sh {bots}/shell_echo.sh"),
}
UNSEEN = "not visible"  # it lives, and that is all that can be seen
OR = " or "  # whichever comes first
_SEEN, _COMMANDS = 5, 2  # how many of FORMS run in the runner, and how many beside it
_DEAF = ("deaf",) * (_SEEN + _COMMANDS)
# In the order of FORMS: a health, the check where that is degraded, or UNSEEN.
WORDS = {
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
    "its token is revoked before it starts": ("unauthorised",) * _SEEN + (f"deaths{OR}unauthorised", "unauthorised"),
    "it crashes in a loop": ("deaths",) * (_SEEN + _COMMANDS),
}


def table() -> str:
    """Return the table for docs/health.md."""
    head = ["trouble", *FORMS]
    rows = [[trouble, *(_shown(cell) for cell in cells)] for trouble, cells in WORDS.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _shown(cell: str) -> str:
    return f"*{cell}*" if cell == UNSEEN else OR.join(f"`{word}`" for word in cell.split(OR))
