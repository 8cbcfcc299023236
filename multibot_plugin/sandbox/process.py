"""The sandbox as a process: record of its URL, dropping root, signals; and starting it as a child for a test."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.database.account import make_account
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.sandbox.client import Sandbox
from multibot_runner.protocol import replace_file

_LOOK_WAIT_S = 2.0


@dataclass(frozen=True)
class Options:
    """How to run. ``port`` 0: the port of the record if it is free, so that bots find a restarted sandbox again.

    ``record``: file for {"url", "pid"}, the pid null once it has ended; ``user``: account that root drops to,
    ``make_user``: made where it is missing; ``lifeline``: end with stdin.
    """

    host: str = "127.0.0.1"
    port: int = 0
    record: str | None = None
    strict: bool = False
    real_pace: bool = False
    user: str | None = None
    make_user: bool = False
    lifeline: bool = False


def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT. Prints one line with the URL once it listens.

    Raises Refused for a port that is taken, a record that cannot be written or is another sandbox's that runs, an
    account that does not exist;
    MultibotError when aiohttp is not installed.
    """
    try:
        from multibot_plugin.sandbox import server
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise MultibotError("the sandbox needs aiohttp: pip install 'supervisor-multibot[sandbox]'") from None
    record = Path(options.record) if options.record else None
    if record:
        _check_alone(record)
    listening = _listen(options)
    if options.user and options.make_user:
        make_account(lambda line: print(line, file=sys.stderr), options.user)
    account = _account(options.user)
    url = server.url_of(listening)
    # Before the drop: the directory may be root's.
    descriptor = _write_record(record, url) if record else None
    if account:
        _drop(account)
    print(f"sandbox: {url}", flush=True)
    asyncio.run(_serve(listening, options))
    if descriptor is not None:
        _close_record(descriptor, url)


async def _serve(listening: socket.socket, options: Options) -> None:
    from multibot_plugin.sandbox import server
    from multibot_plugin.sandbox.state import World

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if options.lifeline:
        loop.add_reader(sys.stdin.fileno(), lambda: ended.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    running = await server.serve(listening, World(options.strict, options.real_pace))
    await ended.wait()
    await running.close()


def _listen(options: Options) -> socket.socket:
    from multibot_plugin.sandbox import server

    if options.port == 0 and options.record:
        with suppress(OSError, ValueError, KeyError, TypeError, Refused):
            last = urllib.parse.urlsplit(json.loads(Path(options.record).read_text())["url"])
            return server.listen(options.host, last.port or 0)
    return server.listen(options.host, options.port)


def _check_alone(record: Path) -> None:
    """Raise Refused when the sandbox of this record answers: two would take the record from each other."""
    try:
        found = json.loads(record.read_text())
        url, pid = str(found["url"]), int(found["pid"])
        Sandbox(url, _LOOK_WAIT_S).last()
    except (OSError, ValueError, KeyError, TypeError, MultibotError):
        return
    raise Refused(f"a sandbox runs here already: {url} (pid {pid}); for a second one: --record FILE")


def _write_record(record: Path, url: str) -> int:
    """Write the record and return its descriptor, with which it can be changed also after the drop."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps({"url": url, "pid": os.getpid()}).encode(), mode=0o644, fsync=False)
        return os.open(record, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{record}: cannot be written: {error.strerror}") from error


def _close_record(descriptor: int, url: str) -> None:
    """Say in our record, and in no other that took its place, that this sandbox has ended; its port is remembered."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"url": url, "pid": None}).encode(), 0)
        os.close(descriptor)


def _account(user: str | None) -> pwd.struct_passwd | None:
    """Return the account to become, None for none; raises Refused where it does not exist or we may not."""
    if user is None:
        return None
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Refused(f"no account {user!r} to run as: useradd --system {user}, or leave --user out") from None
    if account.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise Refused(f"only root can run the sandbox as {user!r}: leave --user out")
    return account


def _drop(account: pwd.struct_passwd) -> None:
    groups = [g.gr_gid for g in grp.getgrall() if account.pw_name in g.gr_mem]
    os.setgroups(groups)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
    os.chdir("/")


@contextmanager
def child(*, strict: bool = False, real_pace: bool = False) -> Iterator[Sandbox]:
    """Run a sandbox as a child process for the time of a ``with``; it ends with us whatever happens."""
    command = [sys.executable, "-P", "-m", "multibot_plugin.sandbox", "--lifeline"]
    command += ["--strict"] * strict + ["--real-pace"] * real_pace
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("sandbox: "):
                raise MultibotError("the sandbox has not started")
            yield Sandbox(line.removeprefix("sandbox: ").strip())
        finally:
            process.terminate()
