"""Everything that makes a process a bot's process, applied by one function from one value."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from multibot_runner import family
from multibot_runner.outcome import Misconfigured
from multibot_runner.protocol import BadFile, BotPaths, RunnerSettings, read_file

_OURS = ("MULTIBOT_", "SUPERVISOR_", "NOTIFY_SOCKET", "WATCHDOG_")  # the latter: of the service that we run in
UMASK = 0o022
_OOM = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True)
class Account:
    """Whom the process becomes. ``named``: an account of the system, with its groups; else a bare uid."""

    uid: int
    gid: int
    name: str
    home: str
    named: bool


@dataclass(frozen=True)
class Context:
    """What a new process of a bot must set.

    ``account`` None: it stays who it is. ``parent``: the pid without which it has no business. ``environment`` is
    whole but for ``env_file``, which only the bot's user may read; ``env`` comes after that file.
    ``limits``: (RLIMIT_*, value) pairs.
    """

    account: Optional[Account]
    parent: int
    directory: Path
    environment: Mapping[str, str]
    env_file: str
    env: Mapping[str, str]
    umask: int = UMASK
    limits: Tuple[Tuple[int, int], ...] = ((resource.RLIMIT_CORE, 0),)  # a core file would hold the token


def account_for(settings: RunnerSettings, paths: BotPaths) -> Optional[Account]:
    """Return whom to become; raises Misconfigured where root would stay root unasked, or we cannot change."""
    root = os.geteuid() == 0
    if settings.user:
        try:
            entry = pwd.getpwnam(settings.user)
        except KeyError:
            raise Misconfigured(f"no account {settings.user!r} on this system") from None
        if not root and entry.pw_uid != os.geteuid():
            raise Misconfigured(f"only root can run a bot as {settings.user!r}")
        return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir, True) if root else None
    uid = settings.uid
    if uid is None:
        if root:
            raise Misconfigured("a bot runs as root only with --user root: it has no user id of its own")
        return None
    if not isinstance(uid, int) or uid <= 0:
        raise Misconfigured(f"{uid!r} is not a user id for a bot")
    if not root:
        if uid != os.geteuid():
            raise Misconfigured(f"only root can run a bot as user id {uid}")
        return None
    return Account(uid, uid, f"bot-{settings.bot}", str(paths.work), False)


def context_for(settings: RunnerSettings, paths: BotPaths, account: Optional[Account], parent: int) -> Context:
    """Return the context of this bot's process, started by ``parent``, from this process's environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    if account is not None:
        environment.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    env = {**settings.env, "BOT_API_URL": settings.bot_api_url, family.MARK: str(paths.run_dir)}
    if settings.port:
        env["PORT"] = str(settings.port)
    directory = Path(settings.workdir) if settings.workdir else paths.work
    return Context(account, parent, directory, environment, settings.env_file, env)


def make_directory(path: Path, account: Optional[Account]) -> None:
    """Make a directory for the bot alone (0700), below a parent that is ours; raises OSError.

    Nothing is written into it before the drop: as soon as it is the bot's, the bot may put links there.
    """
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o711)
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)
        if os.fstat(descriptor).st_uid in (os.geteuid(), account.uid if account else -1):
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def give_output(account: Optional[Account]) -> None:
    """Give the pipes to supervisord to the bot's user, else it could not open /dev/stdout."""
    if account is None:
        return
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            info = os.fstat(descriptor)
            if stat.S_ISFIFO(info.st_mode) and info.st_uid == os.geteuid():
                os.fchown(descriptor, account.uid, account.gid)


def become(context: Context) -> None:
    """Apply ``context`` to this process, in the only order that works.

    Raises Misconfigured for what the operator has to mend, ParentGone when supervisord has died meanwhile.
    """
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    for kind, value in context.limits:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))
    _give_up_protection()  # before the drop, which takes the right to it
    if context.account is not None:
        _drop(context.account)
    family.die_with_parent(signal.SIGTERM)  # after the drop, which clears it
    if os.getppid() != context.parent:
        raise ParentGone
    os.umask(context.umask)
    environment = {**context.environment, **read_env_file(context.env_file), **context.env}
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    try:
        os.chdir(context.directory)
    except OSError as error:
        raise Misconfigured(f"working directory {context.directory}: {error.strerror}") from None


class ParentGone(Exception):
    """supervisord died while this process was starting: nobody would ever stop it."""


def _give_up_protection() -> None:
    """Be as good a victim of the kernel's OOM killer as others: a protection of supervisord's service is inherited."""
    with contextlib.suppress(OSError, ValueError):
        if int(_OOM.read_text()) < 0:
            _OOM.write_text("0")


def _drop(account: Account) -> None:
    try:
        if account.named:
            os.initgroups(account.name, account.gid)
        else:
            os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        # EINVAL: a container whose uid_map ends before this id.
        raise Misconfigured(f"cannot become user id {account.uid}: {error.strerror}") from None
    if account.uid != 0:
        family.hide_memory()


def read_env_file(path: str) -> Dict[str, str]:
    """Return the variables of a file of KEY=VALUE lines; raises Misconfigured naming file and line.

    ``#`` begins a comment line, ``export`` before a name and one pair of quotes around a value are taken off.
    """
    found: Dict[str, str] = {}
    if not path:
        return found
    try:
        lines = read_file(Path(path), links=True).decode().splitlines()
    except BadFile as error:
        raise Misconfigured(f"env file {error}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"env file {path}: not UTF-8") from None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if key.startswith("export "):
            key = key[len("export ") :].strip()
        if not equals or not key.isidentifier() or "\0" in value:
            raise Misconfigured(f"env file {path}, line {number}: not KEY=VALUE")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found[key] = value
    return found
