"""The SQL files: every query has a name, a description and one caller."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import multibot_plugin
from multibot_plugin.database import queries

SOURCE = Path(multibot_plugin.__file__).parent


def test_every_query_has_exactly_one_caller():
    called = [name for file in SOURCE.rglob("*.py") for name in re.findall(r'\bsql\("(\w+)"\)', file.read_text())]
    assert sorted(called) == sorted(queries.load())


def test_sql_stands_in_sql_files_only():
    statement = re.compile(r'"\s*(SELECT(?! 1")|INSERT INTO|UPDATE|DELETE FROM)\b')
    assert [str(f) for f in SOURCE.rglob("*.py") if statement.search(f.read_text())] == []


def test_a_block_is_a_name_a_description_and_a_statement():
    text = "-- About.\n\n-- name: one\n-- What it is\n-- for.\nSELECT 1\n-- in\n;\n\n-- name: two\n-- b\nSELECT ';'"
    one, two = queries.parse(text, "x.sql")
    assert (one.name, one.about, one.text) == ("one", "What it is for.", "SELECT 1\n-- in\n")
    assert (two.name, two.text) == ("two", "SELECT ';'")


@pytest.mark.parametrize(
    "text",
    [
        "-- name: one\nSELECT 1;",
        "-- name: one\n-- about",
        "-- name: One\n-- about\nSELECT 1;",
        "SELECT 1;\n-- name: a\n-- b\nx",
    ],
)
def test_a_block_that_lacks_something_is_refused(text):
    with pytest.raises(ValueError, match=r"x\.sql"):
        queries.parse(text, "x.sql")
