"""Which installation of this host uses which user id: two root installations must not give their bots the same ones.

Each database counts for itself, so a user id is claimed here, for all of the host, before a bot gets it: one file per
id in a directory of root's, which holds the state directory of the installation. A deleted bot's id stays claimed;
the claims of an installation whose state directory is gone are free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import asyncpg

from multibot_plugin.bots.store import allot_uid
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.home import Home
from multibot_plugin.locks import locked
from multibot_runner.protocol import BadFile, read_file, replace_file

REGISTRY = Path("/var/lib/multibot-uids")
_LOCK_WAIT_S = 30.0


async def allot(connection: asyncpg.Connection, uid_range: str, home: Home, registry: Path = REGISTRY) -> int:
    """Return a user id that no bot of this host ever had, claimed for this installation; call it as root.

    Raises Refused when the range is used up, MultibotError when the registry cannot be written.
    """
    while True:
        uid = await allot_uid(connection, uid_range)
        if claim(uid, home.state, registry):
            return uid


def claim(uid: int, state: Path, registry: Path = REGISTRY) -> bool:
    """Take ``uid`` for the installation with this state directory; return False when it is another's."""
    try:
        registry.mkdir(mode=0o755, parents=True, exist_ok=True)
        busy = Refused(f"another multibot has been changing {registry} for {_LOCK_WAIT_S:g} s")
        with locked(registry / ".lock", _LOCK_WAIT_S, busy):
            if not _is(owner_of_uid(uid, registry), state):
                return False
            replace_file(registry / str(uid), f"{state.resolve()}\n".encode(), 0o644)
            return True
    except OSError as error:
        raise MultibotError(f"cannot claim user id {uid} in {registry}: {error.strerror}") from error


def owner_of_uid(uid: int, registry: Path = REGISTRY) -> Path | None:
    """Return the state directory of the installation that uses ``uid``; None when it is free."""
    try:
        state = Path(read_file(registry / str(uid)).decode("utf-8", "surrogateescape").rstrip("\n"))
    except BadFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise MultibotError(f"{error}: it says which installation uses the user id") from error
    return state if os.path.lexists(state) else None


def foreign(uids: Iterable[int], state: Path, registry: Path = REGISTRY) -> dict[int, Path]:
    """Return those of ``uids`` that another installation than this has claimed, with its state directory."""
    owners = {uid: owner_of_uid(uid, registry) for uid in uids}
    return {uid: owner for uid, owner in owners.items() if owner is not None and not _is(owner, state)}


def _is(owner: Path | None, state: Path) -> bool:
    """Whether nobody or this installation owns it, however its path is spelt."""
    return owner is None or owner.resolve() == state.resolve()
