"""One whole installation for all modules of a worker: none of their tests leans on another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from system import System


@pytest.fixture(scope="session")
def installation() -> Iterator[System]:
    """A whole started installation (tests/system.py); ``system`` gives it without bots."""
    with System.create() as made:
        yield made


@pytest.fixture
def system(installation: System) -> Iterator[System]:
    """The started installation of this session, without bots before and after."""
    yield installation
    for row in installation.sql("SELECT id FROM bot_configs"):
        installation.run("bot", "delete", row["id"], "--yes", "--purge")
