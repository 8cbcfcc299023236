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

from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.sandbox.client import Sandbox
from multibot_runner.protocol import replace_file


@dataclass(frozen=True)
class Wish:
    """How to run. ``port`` 0: the port of the record if it is free, so that bots find a restarted sandbox again.

    ``record``: file for {"url", "pid"}; ``user``: account that root drops to; ``lifeline``: end with stdin.
    """

    host: str = "127.0.0.1"
    port: int = 0
    record: str | None = None
    strict: bool = False
    real_pace: bool = False
    user: str | None = None
    lifeline: bool = False


def run(wish: Wish) -> None:
    """Serve until SIGTERM or SIGINT. Prints one line with the URL once it listens.

    Raises Refused for a port that is taken, a record that cannot be written, an account that does not exist;
    MultibotError when aiohttp is not installed.
    """
    try:
        from multibot_plugin.sandbox import server
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise MultibotError("the sandbox needs aiohttp: pip install 'supervisor-multibot[sandbox]'") from None
    account = _account(wish.user)
    listening = _listen(wish)
    url = server.url_of(listening)
    if wish.record:
        _write_record(Path(wish.record), url)  # before the drop: the directory may be root's
    if account:
        _drop(account)
    print(f"sandbox: {url}", flush=True)
    asyncio.run(_serve(listening, wish))


async def _serve(listening: socket.socket, wish: Wish) -> None:
    from multibot_plugin.sandbox import server
    from multibot_plugin.sandbox.state import World

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if wish.lifeline:
        loop.add_reader(sys.stdin.fileno(), lambda: ended.set() if not os.read(sys.stdin.fileno(), 4096) else None)
    running = await server.serve(listening, World(wish.strict, wish.real_pace))
    await ended.wait()
    await running.close()


def _listen(wish: Wish) -> socket.socket:
    from multibot_plugin.sandbox import server

    if wish.port == 0 and wish.record:
        with suppress(OSError, ValueError, KeyError, TypeError, Refused):
            last = urllib.parse.urlsplit(json.loads(Path(wish.record).read_text())["url"])
            return server.listen(wish.host, last.port or 0)
    return server.listen(wish.host, wish.port)


def _write_record(record: Path, url: str) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps({"url": url, "pid": os.getpid()}).encode(), mode=0o644, fsync=False)
    except OSError as error:
        raise Refused(f"{record}: cannot be written: {error.strerror}") from error


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
