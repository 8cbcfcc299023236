"""What modules share: an installation of a worker (no test leans on another), a runner's place, a sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from runners import Place, a_place
from system import System

from multibot_plugin.sandbox.client import Sandbox
from multibot_plugin.sandbox.process import child


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


@pytest.fixture
def place() -> Iterator[Place]:
    """Where a test runs runners without an installation; nothing of it is left."""
    with a_place() as made:
        yield made


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A Bot API server in a process of its own, for one module."""
    with child() as running:
        yield running
