"""Who a bot's process will be, and what that user may do: asked by really becoming it in a child process."""

from __future__ import annotations

import os
import pwd
import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from multibot_plugin.errors import BadValue, Refused

_PATIENCE_S = 20


@dataclass(frozen=True)
class Identity:
    """The user, group and further groups of a bot's process; ``name`` is its account, empty without one."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        return f"user {self.name}" if self.name else f"uid {self.uid}"

    @property
    def ours(self) -> bool:
        """Whether this process already is that user."""
        return self.uid == os.geteuid()


def identify(user: str, uid: int | None, root: bool | None = None) -> Identity:
    """Return who a bot runs as: the account ``user``, else its own ``uid``, else (a user's install) ourselves.

    ``root``: whether this is a root install (default: whether we are root). Raises BadValue for an account that does
    not exist, Refused for another account than our own in a user's install.
    """
    root = os.geteuid() == 0 if root is None else root
    if not root:
        own = os.geteuid()
        if user and user != _account(own):
            raise Refused(f"only an installation of root can run a bot as {user!r}: this one belongs to uid {own}")
        return Identity(own, os.getegid(), tuple(os.getgroups()), _account(own))
    if user:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise BadValue(f"user {user!r}: no such account on this machine") from None
        return Identity(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid)), user)
    if uid is None:
        raise BadValue("this bot has neither a user id of its own nor --user")
    return Identity(uid, uid)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def ask_as(who: Identity, question: Callable[[], str]) -> str:
    """Return the answer that ``question`` gives when run as ``who`` in a child process.

    The child keeps no right of ours. An OSError in it becomes its text; a child that gives no answer in 20 s is ended.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(who, question, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text if text.endswith("\n") else "no answer\n"


def _answer(who: Identity, question: Callable[[], str], writer: int) -> None:
    """Be the child of ``ask_as``; never returns, never runs the parent's clean-up."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_PATIENCE_S)
        if not who.ours:
            os.setgroups(who.groups)
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
        try:
            text = question()
        except OSError as error:
            text = error.strerror or type(error).__name__
        os.write(writer, f"{text}\n".encode())
    finally:
        os._exit(0)


def obstacle(who: Identity, path: Path, mode: int) -> str:
    """Return what keeps ``who`` from using ``path``: "", or the path of the file or directory that is in the way.

    ``mode``: os.R_OK (a file is opened, a directory entered) or os.X_OK.
    """
    real = path.resolve()
    places = dict.fromkeys([*reversed(path.parents), *reversed(real.parents), real])

    def question() -> str:
        for place in places:
            if place.is_symlink():  # what it leads to comes later, by its real name
                continue
            if not os.access(place, os.X_OK if place.is_dir() else mode):
                return str(place)
        if mode == os.R_OK and not path.is_dir():
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        return ""

    return ask_as(who, question).strip()


def may_write(who: Identity, directory: Path) -> bool:
    """Return whether ``who`` can make files in a directory."""
    return not ask_as(who, lambda: "" if os.access(directory, os.W_OK | os.X_OK) else "no").strip()


def remedy(who: Identity, blocked: Path, mode: int, *, secret: bool = False) -> str:
    """Return what to do about ``blocked`` (see ``obstacle``): a chmod, or running the bot as the owner of it.

    ``secret``: a file that nobody else than the bot should read, so that it has to become the bot's own.
    """
    if secret and not blocked.is_dir():
        return f"chown {who.name or who.uid} {shlex.quote(str(blocked))} && chmod 400 {shlex.quote(str(blocked))}"
    info = blocked.stat()
    right = "x" if blocked.is_dir() or mode == os.X_OK else "r"
    owner = _account(info.st_uid)
    if info.st_uid == who.uid:
        return f"chmod u+{right} it"
    # Nobody is told to run a bot as root, and a user's install has one user only.
    if owner and info.st_uid != 0 and os.geteuid() == 0:
        return f"chmod o+{right} it, or run the bot as its owner: --user {owner}"
    return f"chmod o+{right} it"
