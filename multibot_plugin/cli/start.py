"""``multibot start``: supervisord with what was rendered last, then the database, then what the database says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from multibot_plugin.cli.applying import Result, apply_now, as_json, say_result
from multibot_plugin.cli.init import make_places
from multibot_plugin.cli.output import Context, count, json_option, one_line, pass_context, say, show_json, step
from multibot_plugin.errors import DatabaseAway, MultibotError, Refused, SupervisordAway
from multibot_plugin.home import Home, check_owner, no_installation
from multibot_plugin.settings import FLEET_SETTINGS
from multibot_plugin.supervisor.client import MONITOR, POSTGRES, STOPPED_STATES, Supervisor
from multibot_plugin.supervisor.faults import BAD_NAME, SupervisorFault, program

SOCKET_WAIT_S = 20.0
DATABASE_WAIT_S = 60.0
MONITOR_WAIT_S = 5.0
_RETRY_S = 5.0
_POLL_S = 0.05
# What supervisord, and so every bot, may inherit. Not more: a login's environment is full of other people's secrets.
_INHERITED = ("PATH", "LANG", "LANGUAGE", "TZ", "HOME", "USER", "LOGNAME", "SSL_CERT_FILE", "SSL_CERT_DIR",
              "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")  # fmt: skip


@click.command()
@click.option("--foreground", is_flag=True, help="Become supervisord and stay in the foreground (for systemd).")
@json_option()
@pass_context
def start(context: Context, foreground: bool, json_wanted: bool) -> int:
    """Start everything: supervisord with the bots as they were rendered last, at once; then wait for the database,
    bring its tables up to date and apply what it says.

    When it runs already, what should run and was stopped is started. Progress goes to stderr. In a supervisord of
    yours (init --into) that one has to run; it is not started.
    """
    if foreground and json_wanted:
        raise click.UsageError("--foreground does not end, so it has no --json")
    home = context.home
    check_initialised(home)
    _check_secrets()
    make_places(home)
    if foreground and home.foreign:
        raise Refused(f"--foreground: the supervisord of {home.foreign} is yours to start: '{home.to_start}'")
    if foreground:
        run_foreground(context)
    with context.supervisor() as supervisor:
        if home.foreign:
            from multibot_plugin.cli import beside

            beside.check_ready(home, supervisor)
            beside.take_postgres(supervisor)
        ran = supervisor.alive()
        if not ran and (pid := is_running(home)):  # another one would wait for its socket, and take over unasked
            raise MultibotError(f"supervisord (pid {pid}) lives but does not answer: kill {pid}")
        if ran:
            say(f"supervisord runs already (pid {supervisor.pid()})")
            revive(supervisor)
        else:
            with step("supervisord"):
                launch(home, supervisor.alive)
        result = bring_up(context)
        if json_wanted:
            show_json({"supervisord": {"pid": supervisor.pid(), "ran_already": ran}, **as_json(result)})
    return 0 if result.ok else 1


def check_initialised(home: Home) -> None:
    """Raise NoInstallation unless ``init`` was run for this home, Refused when that was not by us."""
    check_owner(home)
    if not (home.digest_key.is_file() and (home.foreign or home.supervisord_conf.is_file())):
        raise no_installation(home)


def command(home: Home, *options: str) -> list[str]:
    """Return the command line of supervisord for this home, from our own environment."""
    return [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(home.supervisord_conf), *options]


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what supervisord inherits of ``environ``: place and language, proxies, our own settings; nothing else."""
    ours = {setting.variable for setting in FLEET_SETTINGS}
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in _INHERITED or name in ours or name.startswith("LC_")
    }


def _check_secrets() -> None:
    if urllib.parse.urlsplit(os.environ.get("MULTIBOT_DATABASE_URL", "")).password:
        raise Refused("MULTIBOT_DATABASE_URL holds a password, which every bot could read in its environment: "
                      "put database_url into multibot.toml, or the password into a passfile")  # fmt: skip


def launch(home: Home, answers: Callable[[], bool]) -> None:
    """Start supervisord as a daemon and return when it answers.

    Raises MultibotError with its own last words when it does not stay.
    """
    mark = _size(home.supervisord_log)
    with subprocess.Popen(command(home), env=environment(), cwd="/", umask=0o077, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # fmt: skip
        # It binds its socket before it forks and its parent exits, so an exit with 0 means that it answers.
        said, _ = process.communicate()
    if process.returncode and answers():
        return  # somebody else was faster
    deadline = time.monotonic() + SOCKET_WAIT_S
    while not process.returncode and time.monotonic() < deadline:
        if answers():
            return
        if not is_running(home):
            break
        time.sleep(_POLL_S)
    raise MultibotError(f"supervisord did not start: {_last_words(home.supervisord_log, mark) or _first_error(said)}")


def is_running(home: Home) -> int | None:
    """Return the pid in supervisord's pidfile if such a process of this home lives."""
    try:
        pid = int(home.pidfile.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    if home.foreign:  # it may have found its file by itself
        return pid if any(b"supervisord" in word for word in words) else None
    return pid if str(home.supervisord_conf).encode() in words else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _last_words(log: Path, mark: int) -> str:
    """Return the last complaints in supervisord's log since ``mark``, on one line."""
    try:
        with log.open("rb") as file:
            file.seek(mark if mark <= _size(log) else 0)
            lines = file.read(256 * 1024).decode(errors="replace").splitlines()
    except OSError:
        return ""
    complaints = [line.partition(",")[2][4:] for line in lines if " CRIT " in line or " ERRO " in line]
    return one_line("; ".join(complaints[-3:]))


def _first_error(said: str) -> str:
    lines = [line.removeprefix("Error: ") for line in said.splitlines() if line and not line.startswith("For help")]
    return one_line("; ".join(lines[-3:])) or "it gave no reason"


def revive(supervisor: Supervisor) -> None:
    """Start what somebody stopped by supervisorctl or what supervisord gave up, and nobody wants to stay so.

    The monitor comes last: it would take what stands still for somebody's wish.
    """
    _start_again(supervisor, POSTGRES)
    for row in supervisor.bots()["bots"]:
        if row["enabled"] and row["statename"] in ("STOPPED", "FATAL"):
            _start_again(supervisor, program(row["id"]))
    _start_again(supervisor, MONITOR)


def _start_again(supervisor: Supervisor, name: str) -> None:
    try:
        if supervisor.info(name)["statename"] in STOPPED_STATES:
            supervisor.start(name, wait_s=None)
            say(f"{name} was stopped: started again")
    except SupervisorFault as fault:
        if fault.code != BAD_NAME:  # there is no such program in this installation
            say(f"multibot: {fault}")


def bring_up(context: Context) -> Result:
    """Wait for the database, migrate, apply; say what happened and return what was applied."""
    try:
        context.run(_migrate(context))
    except DatabaseAway as error:
        raise DatabaseAway(f"{error}; the bots run as they were rendered last{_postgres_words(context)}") from error
    with step("bots"):
        result = apply_now(context)
    say_result(context, result)
    _wait_for_monitor(context)
    bots = len(result.plan.deployments) + len(result.plan.problems)
    enabled = sum(deployment.autostart for deployment in result.plan.deployments.values())
    say(f"{count(bots, 'bot')}, {enabled} enabled. See: {context.home.command('status')}")
    return result


async def _migrate(context: Context) -> None:
    """Wait until the database answers and bring its tables up to date."""
    from multibot_plugin.database.migrate import migrate
    from multibot_plugin.database.pool import wait_ready

    with step("database"):
        connection = await wait_ready(context.home, context.settings, DATABASE_WAIT_S)
    try:
        for title in await migrate(connection):
            say(f"    tables: {title}")
    finally:
        await connection.close()


def _postgres_words(context: Context) -> str:
    """Return the last thing the embedded server complained about, if it did."""
    try:
        lines = (context.home.log / "postgres.log").read_text(errors="replace").splitlines()[-50:]
    except OSError:
        return ""
    words = [line for line in lines if "FATAL" in line or "PANIC" in line or line.startswith("multibot")]
    return f" ({one_line(words[-1])})" if words and not context.settings["database_url"] else ""


def _wait_for_monitor(context: Context) -> None:
    """Give the monitor time for its first look, so that ``list`` has something to show; its absence is no failure."""
    deadline = time.monotonic() + MONITOR_WAIT_S
    with context.supervisor() as supervisor:
        while not supervisor.bots()["monitor"]["ok"]:
            if time.monotonic() > deadline:
                say(f"the monitor has not reported yet: {context.home.command('doctor')}")
                return
            time.sleep(_POLL_S)


def run_foreground(context: Context) -> NoReturn:
    """Become supervisord (this process keeps its pid); a child does the rest and ends.

    Raises Refused when supervisord runs already.
    """
    home = context.home
    with context.supervisor() as supervisor:
        if supervisor.alive():
            raise Refused(f"supervisord runs already (pid {supervisor.pid()}): {home.command('stop')}")
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if os.fork() == 0:
        os._exit(_beside(context, parent))
    os.umask(0o077)  # supervisord sets its own only when it daemonises
    os.chdir("/")
    os.execve(sys.executable, command(home, "-n"), environment())  # noqa: S606 - becoming it is the purpose


def _beside(context: Context, parent: int) -> int:
    """Do the second half of ``start`` beside supervisord, as long as that lives: a database may come up much later."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for supervisord, whose end is ours too
    told = ""
    while os.getppid() == parent:
        try:
            with suppress(SupervisordAway), context.supervisor() as supervisor:  # not there yet
                supervisor.state()
                return 0 if bring_up(context).ok else 1
        except MultibotError as error:
            if str(error) != told:
                told = str(error)
                say(f"multibot: {one_line(told)}")
            if not isinstance(error, DatabaseAway):
                return error.exit_code
            time.sleep(_RETRY_S)
        time.sleep(_POLL_S)
    return 0
