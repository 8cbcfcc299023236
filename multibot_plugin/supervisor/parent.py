"""Which supervisord started this process."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from multibot_plugin.health.ledger import boot_id


def sender() -> str:
    """Return what tells this run of supervisord from every other: serial numbers begin anew with it.

    A process's time of creation would do for the boot and the ticks, but it moves when the clock is set.
    """
    parent = os.getppid()
    with suppress(OSError, IndexError):
        ticks = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{socket.gethostname()}/{boot_id()}/{parent}/{ticks}"
    return f"{socket.gethostname()}/{uuid.uuid4()}"
