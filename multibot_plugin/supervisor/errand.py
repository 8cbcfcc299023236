"""One request, carried out: the command line in a process of its own, in the name of whoever asked.

Started by executor.py as ``errand PARENT BY DOOR WORD...``: the pid of the monitor, with which it ends; who asked ("":
nobody said, so the account that supervisord runs as) and through what, for the audit log; the command.
"""

from __future__ import annotations

import os
import signal
import sys

from multibot_plugin.bots.store import Actor, current_actor
from multibot_plugin.cli import main as command_line
from multibot_plugin.cli.output import Context
from multibot_runner.family import die_with_parent


def main() -> None:
    parent, by, door, *words = sys.argv[1:]
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before that call
        sys.exit(1)
    os.environ.pop("SUDO_USER", None)  # who started supervisord once did not ask for this
    command_line(words, obj=Context(actor=Actor(by, door) if by else current_actor(door)))


if __name__ == "__main__":
    main()
