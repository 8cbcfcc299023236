"""What the sandbox's views print: two columns that stay apart, and bots by their ids of this home."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_rows import invoke

from multibot_plugin.cli.sandbox import _called, _names, _Page
from multibot_plugin.home import find_home
from multibot_plugin.sandbox.model import Entry


def entry(user: str, name: str, text: str, by: str = "bot") -> Entry:
    return Entry(1, 0.0, 7, name, by, "message", 1, user, text)  # type: ignore[arg-type]


def test_the_texts_of_a_transcript_begin_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry("Ada", "echo", "a\nb"), entry("User 123456789", "sandbox_100000006_bot", "✖ opt is deaf")]
    page = _Page(entries)
    for one in entries:
        page.show(one)
    assert capsys.readouterr().out.splitlines() == [
        f"{'echo → you':<40}a",
        f"{'':<40}b",
        "sandbox_100000006_bot → User 123456789  ✖ opt is deaf",
    ]


def test_what_comes_one_by_one_is_kept_apart_too(capsys: pytest.CaptureFixture[str]) -> None:
    page = _Page()
    page.show(entry("Ada", "echo", "short"))
    page.show(entry("User 123456789", "sandbox_100000006_bot", "long"))
    page.show(entry("Ada", "echo", "after"))
    short, long, after = capsys.readouterr().out.splitlines()
    assert short == f"{'echo → you':<20}short"
    assert long.endswith("123456789  long")
    assert after.index("after") == long.index("long")


def test_a_bot_of_this_home_is_called_by_its_id(tmp_path: Path) -> None:
    home = find_home(str(tmp_path))
    home.rendered.parent.mkdir(parents=True)
    digests = {"echo": "0" * 16, "closed": "1" * 16}
    home.rendered.write_text("".join(
        f'[program:bot-{bot}]\ncommand="/py" -P -m multibot_runner {bot} {digest}\nautostart=true\nstopwaitsecs=12\n'
        for bot, digest in digests.items()
    ))  # fmt: skip
    token = home.bot("echo").token(digests["echo"])
    token.parent.mkdir(parents=True)
    token.write_text("7:" + "A" * 35)
    assert _names(home) == {7: "echo"}
    (mine,) = _called([entry("Ada", "sandbox_7_bot", "x")], _names(home))
    assert mine.speakers == "echo → you"


def test_what_to_type_names_the_home_and_help_the_default(tmp_path: Path) -> None:
    away = invoke(tmp_path, "sandbox", "bots", "--url", "http://127.0.0.1:1")
    assert away.exit_code == 5
    assert f"run 'multibot --home {tmp_path} sandbox serve'" in away.stderr
    assert "[default: 10s]" in " ".join(invoke(tmp_path, "sandbox", "say", "--help").output.split())
