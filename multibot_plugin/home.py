"""Where an installation's files are: one ``Home`` for every part of the program.

Root uses the system's places, a user the XDG ones, ``--home DIR`` puts everything below one directory.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from multibot_plugin.errors import BadValue, NoInstallation, Refused
from multibot_runner.protocol import RUN_VARIABLE, STATE_VARIABLE, BadFile, BotPaths, read_file, replace_file

if TYPE_CHECKING:
    from multibot_plugin.supervisor.mainfile import MainFile

# How supervisord's programs (runner, monitor, what an operator adds) learn of the four directories.
HOME_VARIABLES = ("MULTIBOT_CONFIG", STATE_VARIABLE, RUN_VARIABLE, "MULTIBOT_LOG")

# supervisord binds "<socket>.<its pid>" first (at most 8 more characters) and a unix socket path ends at 107.
_LONGEST_SOCKET = 98
# Records in the state directory, each one path: it is known before any setting is.
_RUNTIME, _FOREIGN = "runtime", "supervisord"
# What survives supervisord's configuration syntax unharmed, in quotes (both its 4.3 and its 4.4 parser).
_SAFE_PATH = re.compile(r"/[A-Za-z0-9_./:+=,@~-]*")


@dataclass(frozen=True)
class Home:
    """The four directories of an installation and the files in them.

    ``config`` is for the operator, ``state`` survives a reboot, ``run`` need not, ``log`` holds the logs.
    ``option`` is what to type after ``multibot`` to reach this home again ("--home DIR", or "" where it is the
    default or the one in MULTIBOT_HOME).
    ``foreign`` is the supervisord.conf of an operator's own supervisord, where the installation lives in one
    (``init --into``); None: it has a supervisord to itself.
    """

    config: Path
    state: Path
    run: Path
    log: Path
    option: str = ""
    foreign: Path | None = None

    @property
    def toml(self) -> Path:
        return self.config / "multibot.toml"

    @property
    def supervisord_conf(self) -> Path:
        return self.foreign or self.config / "supervisord.conf"

    @cached_property
    def main_file(self) -> MainFile | None:
        """The operator's supervisord.conf as it is read; None for an installation with its own supervisord."""
        if self.foreign is None:
            return None
        from multibot_plugin.supervisor.mainfile import MainFile

        return MainFile(self.foreign)

    @property
    def rendered(self) -> Path:
        """The one file with a section for each bot; supervisord.conf includes it."""
        return self.state / "rendered" / "bots.conf"

    @property
    def rendered_postgres(self) -> Path:
        """The embedded database's section, beside the bots', for an operator's supervisord to include."""
        return self.rendered.with_name("postgres.conf")

    @property
    def socket(self) -> Path:
        """supervisord's socket; raises BadValue where an operator's supervisord has none that we could use."""
        return self.main_file.socket() if self.main_file else self.run / "supervisor.sock"

    @property
    def pidfile(self) -> Path:
        return (self.main_file and self.main_file.pidfile()) or self.run / "supervisord.pid"

    @property
    def supervisord_log(self) -> Path:
        return self.log / "supervisord.log"

    @property
    def status(self) -> Path:
        """The monitor's picture of the last tick (JSON, replaced at every tick)."""
        return self.run / "status.json"

    @property
    def digest_key(self) -> Path:
        return self.state / "digest.key"

    @property
    def journal(self) -> Path:
        return self.state / "journal"

    @property
    def postgres_data(self) -> Path:
        return self.state / "postgres" / "data"

    @property
    def postgres_run(self) -> Path:
        """The directory of the embedded server's socket."""
        return self.run / "postgres"

    def bot(self, bot: str) -> BotPaths:
        return BotPaths(self.state, self.run, bot)

    def bot_log(self, bot: str) -> Path:
        return self.log / f"bot-{bot}.log"

    @property
    def variables(self) -> dict[str, Path]:
        """What supervisord's programs are told of this home in their environment."""
        return dict(zip(HOME_VARIABLES, (self.config, self.state, self.run, self.log), strict=True))

    @property
    def to_start(self) -> str:
        """What a person types to start supervisord."""
        return f"supervisord -c {shlex.quote(str(self.foreign))}" if self.foreign else self.command("start")

    @property
    def to_restart(self) -> str:
        """What a person types to let supervisord begin anew, with all its programs."""
        if self.foreign:
            return self.supervisorctl("reload")
        return f"{self.command('stop')} && {self.command('start')}"

    def supervisorctl(self, rest: str) -> str:
        """Return what a person types to tell an operator's supervisord ``rest``."""
        return f"supervisorctl -c {shlex.quote(str(self.supervisord_conf))} {rest}"

    def command(self, rest: str) -> str:
        """Return what a person types to run ``rest`` against this home."""
        return " ".join(filter(None, (typed("multibot"), self.option, rest)))


def typed(program: str) -> str:
    """Return what a person types for a program of our environment: its name where the shell finds ours, else its
    path as this process was called (``.venv/bin/multibot``)."""
    folder, name = os.path.split(sys.argv[0])
    found = shutil.which(name)
    if name != "multibot" or not folder or (found and os.path.samefile(found, sys.argv[0])):
        return program
    return os.path.join(folder, program)


def find_home(directory: str | None = None) -> Home:
    """Return the home for ``--home DIR`` (or ``MULTIBOT_HOME``), else what supervisord's programs are told
    (``HOME_VARIABLES``, all four), else root's or the user's.

    Raises BadValue where a path could not be written into supervisord's configuration, or is a file.
    """
    exported = os.environ.get("MULTIBOT_HOME")
    directory = directory or exported
    if directory:
        top = Path(directory).absolute()
        if file := file_in_the_way(top):
            raise BadValue(f"{file} is not a directory")
        known = exported and Path(exported).absolute() == top
        home = Home(top, top / "state", top / "run", top / "log", "" if known else f"--home {shlex.quote(directory)}")
    elif told := told_home():
        return told
    elif os.geteuid() == 0:
        config, state, run, log = (Path(place, "multibot") for place in ("/etc", "/var/lib", "/run", "/var/log"))
        home = Home(config, state, run, log)
    else:
        home = _xdg_home()
    for path in (home.config, home.state, home.log):
        if not _SAFE_PATH.fullmatch(str(path)):
            raise BadValue(
                f"{path}: supervisord's configuration cannot hold this path: use letters, digits and _./:+=,@~-"
            )
    return replace(home, run=_runtime(home), foreign=_recorded(home.state / _FOREIGN))


def told_home() -> Home | None:
    """Return the home in the four variables of supervisord's ``environment=``; None unless all are set.

    supervisord's own programs ask for it first: an operator's supervisord may have inherited any MULTIBOT_HOME.
    """
    paths = [Path(value) for name in HOME_VARIABLES if (value := os.environ.get(name))]
    if len(paths) < len(HOME_VARIABLES):
        return None
    return home_at(*paths)


def home_at(config: Path, state: Path, run: Path, log: Path) -> Home:
    """Return the home with these directories, as somebody reaches it who has set nothing."""
    one_directory = state == config / "state" and log == config / "log"
    return Home(config, state, run, log, f"--home {config}" if one_directory else "", _recorded(state / _FOREIGN))


def _xdg_home() -> Home:
    user = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or user / ".config", "multibot")
    state = Path(os.environ.get("XDG_STATE_HOME") or user / ".local" / "state", "multibot")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Home(config, state, Path(runtime, "multibot") if runtime else state / "run", state / "log")


def _runtime(home: Home) -> Path:
    """Return the runtime directory: what ``init`` recorded, else the wished one, else a short one.

    It is recorded because XDG_RUNTIME_DIR differs between a login, cron and su.
    """
    return _recorded(home.state / _RUNTIME) or _fitting(home)


def into(home: Home, foreign: Path) -> Home:
    """Return this home as it is inside the supervisord of the file ``foreign``.

    That starts our programs at boot before any command of ours, so their runtime directory is not in /run, which is
    empty then.
    """
    run = home.run if home.run.is_relative_to(home.config) else home.state / "run"
    return replace(home, run=_fitting(replace(home, run=run)), foreign=foreign)


def _fitting(home: Home) -> Path:
    """Return the runtime directory, or a short one where the path of a socket in it would be too long."""
    if len(str(home.run / "supervisor.sock")) <= _LONGEST_SOCKET and _SAFE_PATH.fullmatch(str(home.run)):
        return home.run
    short = hashlib.sha256(str(home.state).encode()).hexdigest()[:12]
    base = Path("/run") if os.geteuid() == 0 else Path("/tmp")  # noqa: S108 - checked by make_runtime
    return base / f"multibot-{os.geteuid()}-{short}"


def _recorded(record: Path) -> Path | None:
    """Return the path in a record of ``init``; None without one, and where the record holds no path."""
    try:
        path = Path(read_file(record).decode().strip())
    except (BadFile, UnicodeDecodeError):
        return None
    return path if path.is_absolute() else None


def check_installed(home: Home) -> None:
    """Raise NoInstallation when ``init`` was never run for this home, Refused when it belongs to somebody else.

    Root may look at everybody's.
    """
    if os.geteuid() != 0:
        check_owner(home)
    if not (home.supervisord_conf.is_file() or home.digest_key.is_file()):
        raise no_installation(home)


def no_installation(home: Home) -> NoInstallation:
    return NoInstallation(f"no installation in {home.config}: run '{home.command('init')}'")


def check_owner(home: Home) -> None:
    """Raise Refused when this installation, as far as it exists, belongs to somebody else."""
    for directory in (home.state, home.config):
        owner = owner_of(directory)
        if owner not in (None, os.geteuid()):
            name = user_name(owner)
            who = name or "its owner"
            raise Refused(
                f"the installation in {home.config} belongs to {name or f'user id {owner}'}: run this as {who}, "
                "or use another --home"
            )


def owner_of(path: Path) -> int | None:
    """Return the user id that owns ``path``, or the directory above it that keeps us out; None: it is not there."""
    for place in (path, *path.parents):
        try:
            return place.stat().st_uid
        except PermissionError:
            continue
        except OSError:
            return None
    return None


def user_name(uid: int | None) -> str:
    """Return the name of an account, nothing for a user id without one."""
    try:
        return pwd.getpwuid(-1 if uid is None else uid).pw_name
    except (KeyError, OverflowError):
        return ""


def file_in_the_way(path: Path) -> Path | None:
    """Return what is no directory, but should be one for ``path`` to be a directory; None without such a thing."""
    for place in (path, *path.parents):
        try:
            if place.exists():
                return None if place.is_dir() else place
        except OSError:
            return None
    return None


def make_runtime(home: Home) -> None:
    """Create the runtime directory, ours alone to write; record where it is, and whose supervisord we live in.

    Raises Refused when somebody else owns a directory of that name (it may be in /tmp).
    """
    home.run.mkdir(mode=0o711, parents=True, exist_ok=True)
    info = home.run.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise Refused(f"{home.run} belongs to somebody else: remove it, or use another --home")
    home.run.chmod(0o711)
    home.state.mkdir(mode=0o711, parents=True, exist_ok=True)
    replace_file(home.state / _RUNTIME, f"{home.run}\n".encode(), 0o644)
    if home.foreign:
        replace_file(home.state / _FOREIGN, f"{home.foreign}\n".encode(), 0o644)
