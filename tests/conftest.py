"""Fixtures for every test. What they need is imported when it is used: unit tests stay fast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgres import Database, Server


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a fixture of their module on one worker (``--dist loadgroup``)."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(definition.scope == "module" for definitions in fixtures for definition in definitions):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


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
