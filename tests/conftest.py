"""Fixtures for every test. What they need is imported when it is used: unit tests stay fast."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgres import Database, Server


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of the test's own, removed at its end; short enough for a socket whoever runs the tests.

    pytest's own holds the names of user and test: an installation in it has its sockets elsewhere, where they stay.
    """
    with tempfile.TemporaryDirectory(prefix="mbt-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL of this session (tests/postgres.py)."""
    from postgres import running_server

    with running_server() as server:
        server.make_template()
        yield server


@pytest.fixture
async def database(postgres: Server) -> AsyncIterator[Database]:
    """An empty migrated database and a home that uses it (tests/postgres.py)."""
    from postgres import Database, short_directory

    with short_directory() as directory:
        database = Database(postgres, directory)
        try:
            yield database
        finally:
            await database.close()
