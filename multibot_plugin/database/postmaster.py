"""The program ``multibot-postgres``: ``python -P -m multibot_plugin.database.postmaster STATE RUN``.

Begins as supervisord's user, makes the socket's directory (/run is empty after a boot), drops to the account, asks
the kernel for SIGINT when supervisord dies, sees to a server that an earlier supervisord left behind, and becomes
postgres. Nothing heavy is imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from multibot_plugin.database.account import CLEAN_ENVIRONMENT, Account, find_account, own
from multibot_plugin.database.server import read_server
from multibot_plugin.errors import MultibotError, Refused

_PR_SET_PDEATHSIG = 1
_LEFT_BEHIND_S = 45.0  # how long a server that was left behind may take to stop; supervisord kills us at 60 s


def main(state: Path, run: Path) -> None:
    """Become postgres; returns only by raising MultibotError or OSError."""
    parent = os.getppid()
    server = read_server(state)
    account = find_account(server.account) if server.account else None
    sockets = run / "postgres"
    make_socket_directory(sockets, account)
    if account:
        _drop(account)
    _die_with_parent(parent)
    data = state / "postgres" / "data"
    clear_the_way(data)
    os.chdir("/")
    os.umask(0o077)
    postgres = f"{server.bin}/postgres"
    conf = state / "postgres" / "postgresql.conf"
    words = [postgres, "-D", str(data), "-k", str(sockets), "-c", f"config_file={conf}"]
    try:
        os.execve(postgres, words, CLEAN_ENVIRONMENT)  # noqa: S606
    except OSError as error:
        raise MultibotError(f"{postgres} cannot be run ({error.strerror}): run 'multibot init' again") from error


def make_socket_directory(sockets: Path, account: Account | None) -> None:
    """Make the directory, the account's alone; only its owner and root reach the server."""
    sockets.mkdir(mode=0o700, exist_ok=True)
    own(sockets, account)
    sockets.chmod(0o700)


def clear_the_way(data: Path) -> None:
    """See to a ``postmaster.pid`` that would keep postgres from starting.

    A number that another process has got since: the file goes (postgres would believe it). A living server whose
    supervisord is gone: stopped. Raises Refused for one that has a supervisord, or that does not stop.
    """
    pid = recorded_pid(data)
    directory = _working_directory(pid) if pid else None
    if pid is None or directory is None:
        return  # gone, or not ours to look at: postgres judges
    if directory != data.resolve():
        (data / "postmaster.pid").unlink(missing_ok=True)
        return
    if _has_supervisord(pid):
        raise Refused(f"the database in {data} is run by another supervisord (process {pid}): stop that one first")
    os.kill(pid, signal.SIGINT)
    deadline = time.monotonic() + _LEFT_BEHIND_S
    while _working_directory(pid) == data.resolve():
        if time.monotonic() > deadline:
            raise Refused(f"the database in {data} still runs as process {pid} and does not stop")
        time.sleep(0.05)


def recorded_pid(data: Path) -> int | None:
    """Return the process that ``postmaster.pid`` names when there is such a process, whatever it is."""
    try:
        pid = int((data / "postmaster.pid").read_text().partition("\n")[0])
    except (OSError, ValueError):
        return None
    return pid if Path(f"/proc/{pid}").exists() else None


def _working_directory(pid: int) -> Path | None:
    """A postmaster works in its data directory. None: gone, or not ours to look at."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return None


def _has_supervisord(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        parent = int(status.rpartition(")")[2].split()[1])
        return b"supervisord" in Path(f"/proc/{parent}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False


def _drop(account: Account) -> None:
    os.setgroups([account.gid])
    os.setgid(account.gid)
    os.setuid(account.uid)


def _die_with_parent(parent: int) -> None:
    """SIGINT at the parent's death. After the drop, which would clear it; the exec keeps it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise Refused("supervisord died during the start")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (MultibotError, OSError) as error:
        sys.exit(f"multibot-postgres: {error}")
