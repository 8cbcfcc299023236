"""The system account of the embedded server in a root install, and running programs as it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.errors import MultibotError

NAME = "multibot-postgres"
# Nothing of ours goes to the server's programs: no PG* variable, no library path, no language.
CLEAN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


@dataclass(frozen=True)
class Account:
    """A system account by name, with its ids."""

    name: str
    uid: int
    gid: int


def find_account(name: str = NAME) -> Account:
    """Return the account; raises MultibotError when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise MultibotError(f"the system account {name} is missing: run 'multibot init' again") from None
    return Account(name, entry.pw_uid, entry.pw_gid)


def make_account(say: Callable[[str], None], name: str = NAME) -> Account:
    """Return the account, made first where it is missing (no shell, no home); needs root.

    ``say`` hears of it, with how to remove it. Raises MultibotError when it cannot be made.
    """
    try:
        return find_account(name)
    except MultibotError:
        pass
    useradd = shutil.which("useradd", path=_SBIN)
    if useradd is None:
        raise MultibotError(f"there is no useradd here: make the system account {name} yourself")
    command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
               "--shell", "/usr/sbin/nologin", name]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        account = find_account(name)  # also when another of us was faster
    except MultibotError:
        reason = done.stderr.strip().partition("\n")[0]
        raise MultibotError(f"the system account {name} cannot be made: {reason}") from None
    if done.returncode == 0:
        say(f"made the system account {name} (remove it with: userdel {name})")
    return account


def run_as(account: Account | None, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``command`` as ``account`` (None: as we are) with a clean environment and ``text`` as its input.

    The directory is /, because ours may be closed to the account. Raises OSError when it cannot be started.
    """
    return subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", errors="replace", cwd="/", env=CLEAN_ENVIRONMENT,
        umask=0o077, user=account.uid if account else None, group=account.gid if account else None,
        extra_groups=[] if account else None,
    )  # fmt: skip


def first_closed(account: Account, path: Path) -> Path | None:
    """Return the first directory on the way to ``path`` (itself included) that ``account`` cannot enter."""
    for folder in (*reversed(path.parents), path):
        if run_as(account, ["test", "-x", str(folder)]).returncode != 0:
            return folder
    return None


def own(path: Path, account: Account | None) -> None:
    """Give ``path`` to ``account`` where there is one."""
    if account is not None:
        os.chown(path, account.uid, account.gid)
