from collections.abc import Iterator

import pytest
from system import System


@pytest.fixture
def system() -> Iterator[System]:
    """A started installation without bots."""
    with System.create() as made:
        yield made
