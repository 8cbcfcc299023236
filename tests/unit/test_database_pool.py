"""What is said of a database's place, and the program section of the embedded one."""

from __future__ import annotations

import sys

import pytest

from multibot_plugin.database import embedded, pool
from multibot_plugin.errors import BadValue
from multibot_plugin.home import Home, find_home
from multibot_plugin.settings import load


def settings(home: Home, **flags: str):
    return load(home.toml, flags, environ={})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://bob:s3cret@db.example.org/x", "db.example.org:5432"),
        ("postgresql://bob:s3cret@db.example.org:6000/x", "db.example.org:6000"),
        ("postgres://bob:s3c@ret@db/x", "db:5432"),
        ("postgresql://bob:s3cret@[::1]/x", "[::1]:5432"),
        ("postgresql://a:1,b:2/x?password=s3cret", "a:1,b:2"),
        ("postgresql://bob@/x?host=/run/pg&password=s3cret", "/run/pg"),
        ("postgresql:///x?host=db&port=7", "db:7"),
        ("postgresql:///x", "its default place"),
    ],
)
def test_a_place_is_shown_without_user_and_password(tmp_path, url, shown):
    home = find_home(str(tmp_path))
    assert pool.place(home, settings(home, database_url=url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:s3cret@db:port/x",
        "postgresql://bob:s3cret@[::1/x",
        "postgresql://bob:s3cret@127.0.0.1:99999/x",
    ],
)
async def test_a_url_that_is_none_is_refused_without_being_shown(tmp_path, url):
    home = find_home(str(tmp_path))
    with pytest.raises(BadValue, match="database_url") as caught:
        await pool.connect(home, settings(home, database_url=url))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_program_names_no_postgres_so_an_upgrade_needs_no_new_configuration(tmp_path):
    home = find_home(str(tmp_path))
    program = embedded.program(home, settings(home))
    assert program.command == (
        sys.executable, "-P", "-m", "multibot_plugin.database.postmaster", str(home.state), str(home.run),
    )  # fmt: skip
    assert (program.user, program.stop_signal, program.stop_wait_s, program.priority) == (None, "INT", 60, 1)


def test_a_database_url_means_not_embedded_and_nothing_is_made(tmp_path):
    home = find_home(str(tmp_path / "home"))
    with_url = settings(home, database_url="postgresql://db/x")
    assert not embedded.is_embedded(with_url)
    assert embedded.is_embedded(settings(home))
    embedded.prepare(home, with_url, lambda line: None)
    assert not (tmp_path / "home").exists()


def test_the_longest_runtime_directory_still_has_room_for_the_sockets_of_postgres(tmp_path):
    longest = Home(tmp_path, tmp_path, tmp_path.__class__("/" + "r" * 81), tmp_path)
    assert len(str(longest.socket)) == 98  # what home.py allows
    assert len(str(longest.postgres_run / ".s.PGSQL.5432")) <= 107
