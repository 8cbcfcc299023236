"""Fixtures for every test. What they need is imported when it is used: unit tests stay fast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgres import Database, Server


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
