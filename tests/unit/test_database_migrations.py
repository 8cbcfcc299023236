"""Names and order of the migration files."""

from __future__ import annotations

import hashlib

import pytest

from multibot_plugin.database import migrate
from multibot_plugin.errors import MultibotError


def test_ours_are_numbered_without_a_gap():
    assert [m.number for m in migrate.MIGRATIONS] == list(range(1, migrate.LATEST + 1))
    assert migrate.LATEST >= 1


def test_files_are_read_in_the_order_of_their_numbers():
    found = migrate.read_migrations([("0002_b.sql", "two"), ("0001_a.sql", "one")])
    assert [(m.number, m.title, m.text) for m in found] == [(1, "0001_a", "one"), (2, "0002_b", "two")]
    assert found[0].sha256 == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize(
    "names",
    [
        ["0002_a.sql"],
        ["0001_a.sql", "0003_c.sql"],
        ["0001_a.sql", "0001_b.sql"],
        ["1_a.sql"],
        ["0001-a.sql"],
        ["0001_A.sql"],
    ],
)
def test_a_gap_or_a_wrong_name_is_refused(names):
    with pytest.raises(MultibotError, match="reinstall multibot"):
        migrate.read_migrations([(name, "") for name in names])
