"""A bot's files in the state directory: written, read back, swept. Only bots/apply.py calls this.

The directories belong to the installation and nobody else can write into them; the files that a bot's process reads
belong to its uid and to nobody else. So no path here can be changed under us by a bot.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from multibot_plugin.bots.config import Deployment
from multibot_plugin.bots.render import Section
from multibot_plugin.errors import BadValue, MultibotError, Refused, Unwritable
from multibot_plugin.home import Home
from multibot_plugin.locks import locked
from multibot_plugin.settings import BY_NAME
from multibot_runner.protocol import BadFile, RunnerSettings, decode, decode_object, encode, read_file, replace_file

_LOWEST_UID = 1000  # as in settings: a row changed by hand must not make a bot root
LOCK_WAIT_S = 60.0
_KEY_SIZE = 32
_OF_A_DIGEST = re.compile(r"([0-9a-f]{16})\.(?:json|token)")
_LEFTOVER = re.compile(r"\..*\.tmp")  # of replace_file, killed between its two steps


def changing(path: Path, wait_s: float = LOCK_WAIT_S) -> AbstractContextManager[int]:
    """Hold the lock file ``path`` and give its descriptor.

    Raises Refused when another of us holds it for longer than ``wait_s`` seconds.
    """
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    return locked(path, wait_s, Refused(f"another multibot has been changing this installation for {wait_s:g} s"))


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what the operating system refuses into one line."""
    try:
        yield
    except OSError as error:
        name = error.filename or "the bots' files"  # a full disk names none
        raise Unwritable(f"cannot write {name}: {error.strerror}; after that is put right: 'multibot apply'") from error


def read_key(home: Home) -> bytes:
    """Return this installation's key for digests; a new one, not yet written, where there is none."""
    try:
        key = read_file(home.digest_key)
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return secrets.token_bytes(_KEY_SIZE)
        raise MultibotError(f"{error}: it holds the key that digests are made with") from error
    if len(key) != _KEY_SIZE:
        raise MultibotError(
            f"{home.digest_key} is damaged ({len(key)} of {_KEY_SIZE} bytes): restore it from a backup, or remove it:"
            " then every bot restarts once"
        )
    return key


def write_key(home: Home, key: bytes) -> None:
    """Write the key where there is none; raises Refused where there is another one."""
    if not home.digest_key.exists():
        replace_file(home.digest_key, key)
    elif read_file(home.digest_key) != key:
        raise Refused("the installation's key changed meanwhile: run this again")


def read_text(path: Path) -> str:
    """Return a rendered file's text; empty when it is missing. What is not UTF-8 in it is replaced."""
    try:
        return read_file(path, cap=64 * 1024 * 1024).decode("utf-8", "replace")
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return ""
        raise MultibotError(f"{error}") from error


def read_deployment(home: Home, section: Section) -> Deployment | None:
    """Return what a section was rendered from; None when its files are missing or damaged."""
    paths = home.bot(section.id)
    try:
        settings = decode(RunnerSettings, read_file(paths.settings(section.digest)))
        token = read_file(paths.token(section.digest)).decode("ascii")
        live = decode_object(read_file(paths.live))
        for name in live.keys() & BY_NAME.keys():
            BY_NAME[name].kind.read(live[name])
    except (BadFile, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return Deployment(section.id, section.digest, section.autostart, settings, live, token)


def owner_of(deployment: Deployment) -> tuple[int, int]:
    """Return the (uid, gid) that the bot's process will have; raises BadValue where it cannot have it."""
    settings, me = deployment.settings, os.geteuid()
    if settings.user:
        try:
            account = pwd.getpwnam(settings.user)
        except (KeyError, ValueError):
            raise BadValue(f"bot {deployment.id!r}: no account {settings.user!r} on this machine") from None
        if me not in (0, account.pw_uid):
            raise BadValue(f"bot {deployment.id!r}: only a root install can run it as {settings.user!r}")
        return account.pw_uid, account.pw_gid
    if me != 0:
        return me, os.getegid()
    if settings.uid is None or settings.uid < _LOWEST_UID:
        raise BadValue(
            f"bot {deployment.id!r}: it has no user id of its own: multibot bot set {deployment.id} --user NAME"
        )
    return settings.uid, settings.uid


def write_bot(home: Home, deployment: Deployment, owner: tuple[int, int]) -> None:
    """Write a bot's settings, token and live settings, and an empty log for supervisord; what is right is left alone.

    ``owner`` is the (uid, gid) that the bot's process will have. Raises MultibotError, OSError.
    """
    paths = home.bot(deployment.id)
    _own_directory(paths.state_dir)
    _ensure(paths.settings(deployment.digest), encode(deployment.settings), 0o400, owner)
    _ensure(paths.token(deployment.digest), deployment.token.encode(), 0o400, owner)
    live = json.dumps(dict(deployment.live), sort_keys=True).encode()
    _ensure(paths.live, live, 0o600, (os.geteuid(), os.getegid()))
    # supervisord would create it with its own umask; a bot may print what is nobody else's business.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(home.bot_log(deployment.id), flags, 0o600))


def _own_directory(path: Path) -> None:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o711)
        path.chmod(0o711)  # whatever the umask
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise Refused(f"{path} can be changed by others than this installation's owner: remove it")


def _ensure(path: Path, data: bytes, mode: int, owner: tuple[int, int]) -> None:
    try:
        info = path.lstat()
        right = (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (*owner, mode) and read_file(path) == data
    except (OSError, BadFile):
        right = False
    if not right:
        replace_file(path, data, mode, owner)


def deployed(home: Home) -> set[str]:
    """Return the bots whose settings for a start are on disk, whatever names them."""
    return {path.parent.name for path in (home.state / "bots").glob("*/*.token")}


def sweep(
    home: Home, sections: Iterable[Section], only: Collection[str] | None = None, spare: Collection[str] = ()
) -> None:
    """Remove settings and tokens that none of ``sections`` names any more; a bot's working directory stays.

    A bot may have two sections: the one that supervisord runs and the one that was rendered since. ``only``: leave
    the files of all other bots alone, and those of ``spare`` in any case.
    """
    named: dict[str, set[str]] = {}
    for section in sections:
        named.setdefault(section.id, set()).add(section.digest)
    top = home.state / "bots"
    for directory in sorted(top.iterdir()) if top.is_dir() else ():
        if directory.is_symlink() or not directory.is_dir() or directory.name in spare:
            continue
        if only is not None and directory.name not in only:
            continue
        for path in directory.iterdir():
            match = _OF_A_DIGEST.fullmatch(path.name)
            stale = match is not None and match[1] not in named.get(directory.name, ())
            gone = path.name == "live.json" and directory.name not in named
            if stale or gone or _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)
