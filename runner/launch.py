"""What a launch form is given, where it comes from, and how it is handed over to a bot's own interpreter."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Tuple

from multibot_runner import logs, process
from multibot_runner.lines import PLAIN
from multibot_runner.outcome import Misconfigured
from multibot_runner.process import Account
from multibot_runner.protocol import (
    BOT_ID,
    FORMS,
    RUN_VARIABLE,
    STATE_VARIABLE,
    TOKEN,
    BadFile,
    BotPaths,
    RunnerSettings,
    decode,
    encode,
    read_file,
)

_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Launch:
    """One start of a bot. ``start_mono``: when this process began (CLOCK_MONOTONIC)."""

    settings: RunnerSettings
    paths: BotPaths
    digest: str
    start_mono: float
    token: str = field(repr=False)
    dropped: bool = False  # root gave its rights up for this bot
    own_interpreter: bool = True  # multibot's own, not one that the bot brought
    foreground: bool = False  # a person runs it in a terminal: no part of what is supervised


def paths_of(bot: str, digest: str) -> BotPaths:
    """Return where the bot's files are, by the environment that supervisord gives; raises Misconfigured."""
    for variable in (STATE_VARIABLE, RUN_VARIABLE):
        if not os.path.isabs(os.environ.get(variable, "")):
            raise Misconfigured(f"{variable} is not set: a bot is started by supervisord")
    if not BOT_ID.fullmatch(bot) or not _DIGEST.fullmatch(digest):
        raise Misconfigured(f"{bot!r} {digest!r} are not a bot's id and digest")
    return BotPaths(Path(os.environ[STATE_VARIABLE]), Path(os.environ[RUN_VARIABLE]), bot)


def load(paths: BotPaths, digest: str) -> Tuple[RunnerSettings, str]:
    """Return the settings and the token of this digest; raises Misconfigured."""
    try:
        settings = decode(RunnerSettings, read_file(paths.settings(digest)))
        token = read_file(paths.token(digest)).decode("ascii").strip()
    except (BadFile, UnicodeDecodeError) as error:
        raise Misconfigured(f"its settings cannot be read, run 'multibot apply': {error}") from None
    if settings.bot != paths.bot or settings.launch not in FORMS:
        raise Misconfigured(f"{paths.settings(digest)} is not of this bot")
    if not TOKEN.fullmatch(token):
        raise Misconfigured("its token file does not hold a token")
    return settings, token


def install_logs(settings: RunnerSettings, token: str, foreground: bool) -> None:
    """Have what is written from now on go to the log as the settings say; a terminal shows all of it as it is."""
    form, rate = (PLAIN, 0) if foreground else (settings.log_format, settings.log_rate)
    logs.install([token], form, rate)


def enter(paths: BotPaths, digest: str, start_mono: float, parent: int, foreground: bool = False) -> Launch:
    """Make this process the bot's (user, environment, directory ...), as far as that goes without running its code.

    Raises Misconfigured, ParentGone.
    """
    try:
        settings, token = load(paths, digest)
        install_logs(settings, token, foreground)
        account = process.account_for(settings, paths)
        if account is not None:
            check_owner(paths, digest, account)
        context = process.context_for(settings, paths, account, parent)
        process.make_directory(paths.run_dir, account)
        process.make_directory(paths.work, account)
        process.give_output(account)
        process.become(context)
        _honour_pythonpath()
    except OSError as error:
        raise Misconfigured(f"{error.filename or paths.bot}: {error.strerror}") from None
    except (TypeError, ValueError, AttributeError):  # a value of the wrong type; it may be a secret
        raise Misconfigured(f"{paths.settings(digest)} is damaged: run 'multibot apply'") from None
    dropped = account is not None and account.uid != 0
    return Launch(settings, paths, digest, start_mono, token, dropped, foreground=foreground)


def _honour_pythonpath() -> None:
    """The interpreter read PYTHONPATH before the bot's own environment was there."""
    for entry in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if entry and entry not in sys.path:
            sys.path.insert(0, entry)


def check_owner(paths: BotPaths, digest: str, account: Account) -> None:
    """Raise Misconfigured unless the settings are ours or belong to the very account they name.

    The bot owns its settings and could rewrite them: what they say of the user counts only where nobody but that
    user, or root, can have written it.
    """
    info = os.stat(paths.settings(digest), follow_symlinks=False)
    writers = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if info.st_uid not in (os.geteuid(), account.uid) or writers:
        raise Misconfigured(f"{paths.settings(digest)} belongs to another user than it names")


def hand_over(launch: Launch, lock: int) -> int:
    """Return a descriptor that survives an exec and from which ``take_over`` makes the launch and the lock again.

    An anonymous file: the token is neither on the command line nor in the environment.
    """
    paths = launch.paths
    data: Dict[str, Any] = {
        "settings": encode(launch.settings).decode(),
        "token": launch.token,
        "paths": [str(paths.state), str(paths.run), paths.bot],
        "digest": launch.digest,
        "start_mono": launch.start_mono,
        "dropped": launch.dropped,
        "foreground": launch.foreground,
        "lock": lock,
    }
    descriptor = os.memfd_create("launch", 0)
    os.write(descriptor, json.dumps(data).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)
    os.set_inheritable(lock, True)
    return descriptor


def take_over(descriptor: int) -> Launch:
    """Return what ``hand_over`` was given, in the interpreter that the bot brought."""
    with os.fdopen(descriptor, "rb") as file:
        data = json.loads(file.read())
    os.set_inheritable(data["lock"], False)
    state, run, bot = data["paths"]
    settings = decode(RunnerSettings, data["settings"].encode())
    paths = BotPaths(Path(state), Path(run), bot)
    return Launch(
        settings, paths, data["digest"], data["start_mono"], data["token"], data["dropped"], False, data["foreground"]
    )
