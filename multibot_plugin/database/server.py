"""What is known of the embedded server without starting anything: names, files, and what ``prepare`` decided."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from multibot_plugin.errors import MultibotError
from multibot_plugin.home import Home
from multibot_plugin.shapes import build
from multibot_runner.protocol import BadFile, decode_object, read_file, replace_file

NAME = "multibot"  # role and database
OLDEST = 15  # the oldest PostgreSQL that our SQL is written for


@dataclass(frozen=True)
class Server:
    """Content of ``server.json``: which programs ("18.6"; pg_bin, wheel or system), under which account.

    ``account`` is None in a user install.
    """

    bin: str
    version: str
    origin: str
    account: str | None

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def folder(home: Home) -> Path:
    """Where everything of the embedded server lies."""
    return home.state / "postgres"


def passfile(home: Home) -> Path:
    """The file with the server's password, in PostgreSQL's own format (``PGPASSFILE`` for psql)."""
    return folder(home) / "passfile"


def read_server(state: Path) -> Server:
    """Return what ``prepare`` decided; raises MultibotError when there is nothing yet."""
    file = state / "postgres" / "server.json"
    try:
        server = build(Server, decode_object(read_file(file)))
        if not server.version.partition(".")[0].isdecimal():
            raise ValueError(server.version)
        return server
    except (BadFile, ValueError) as error:
        raise MultibotError(f"{file} cannot be read: run 'multibot init' again") from error


def write_server(home: Home, server: Server) -> None:
    """Record what ``prepare`` decided."""
    replace_file(folder(home) / "server.json", json.dumps(asdict(server), indent=1).encode())
