"""The command line as a whole: what it imports, how it fails, what it says."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_rows import FakeContext, invoke, row
from click.testing import CliRunner
from postgres import short_directory

from multibot_plugin.cli import main, output
from multibot_plugin.cli.output import (
    Column,
    Context,
    clean,
    confirm,
    count,
    duration,
    one_line,
    say,
    show,
    show_json,
    show_rows,
    size,
    spoken,
    table,
)
from multibot_plugin.errors import DatabaseAway, NoSuchBot, Refused

AGAIN = "(run it again as 'multibot --debug ...' to see all of it)"
HEAVY = ("asyncpg", "aiohttp", "rich", "telegram", "jinja2", "psutil", "supervisor", "asyncio", "xmlrpc")


def modules_after(tmp_path: Path, *words: str) -> set[str]:
    """Return the modules that a child process has imported after it ran ``multibot words``."""
    code = (
        "import sys, json\nfrom multibot_plugin.cli import main\n"
        f"try: main({['--home', str(tmp_path), *words]!r})\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_no_command_and_nothing_heavy(tmp_path: Path) -> None:
    imported = modules_after(tmp_path, "--help")
    assert imported.isdisjoint(HEAVY)
    assert not [
        name
        for name in imported
        if name.startswith("multibot_plugin.cli.") and not name.endswith((".lazy", ".output", ".tables"))
    ]


def test_list_as_json_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    needed = {"xmlrpc", "jinja2"}  # the conversation with supervisord; reading the rendered file when it is away
    assert modules_after(tmp_path, "list", "--json").isdisjoint(set(HEAVY) - needed)


@pytest.mark.parametrize("name", sorted(main.targets))
def test_every_command_of_the_table_exists_and_has_help(name: str) -> None:
    module, _, attribute = main.targets[name].partition(":")
    command = getattr(importlib.import_module(f"multibot_plugin.cli.{module}"), attribute)
    assert isinstance(command, click.Command)
    assert command.name == name
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    assert command.help


def test_a_misspelt_command_is_guessed() -> None:
    result = CliRunner().invoke(main, ["statsu"])
    assert result.exit_code == 2
    assert "'status'" in result.stderr
    assert result.stderr.startswith("multibot: no such command 'statsu'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "guess"),
    [(("restart", "mybot"), "multibot bot restart"), (("show", "mybot"), "multibot bot show"),
     (("bot", "list"), "multibot list"), (("statsu",), "status"), (("bot", "crate"), "create"),
     (("list", "--jsno"), "--json")],
)  # fmt: skip
def test_what_was_meant_is_guessed_in_one_way_also_in_another_group(words: tuple[str, ...], guess: str) -> None:
    result = CliRunner().invoke(main, list(words))
    wrong = next(word for word in reversed(words) if word != "mybot")
    what = "option" if wrong.startswith("--") else "command"
    place = " ".join(["multibot", *words[:1]]) if words[0] in ("bot", "list") else "multibot"
    expected = f"multibot: no such {what} {wrong!r} (did you mean {guess!r}?): see '{place} --help'\n"
    assert (result.exit_code, result.stderr) == (2, expected)


ALL = ("list", "status", "doctor", "apply", "render-config", "logs", "start", "stop", "bot show x", "bot start x",
       "bot set x --env A=1", "bot delete x", "config set stop_wait_s 1s")  # fmt: skip


@pytest.mark.parametrize("words", ALL)
def test_without_an_installation_every_command_says_the_same(tmp_path: Path, words: str) -> None:
    home = tmp_path / "nothing"
    result = invoke(home, *words.split())
    expected = f"multibot: no installation in {home}: run 'multibot --home {home} init'\n"
    assert (result.exit_code, result.stderr, result.stdout) == (5, expected, "")
    assert not home.exists()


def test_a_file_is_no_home(tmp_path: Path) -> None:
    file = tmp_path / "mybot.py"
    file.touch()
    for home in (file, file / "home"):
        result = invoke(home, "list")
        assert (result.exit_code, result.stderr) == (2, f"multibot: {file} is not a directory\n")


@pytest.mark.root
@pytest.mark.parametrize("words", [("list",), ("status",), ("doctor",), ("apply",), ("config", "show"), ("start",)])
def test_a_stranger_is_told_whose_installation_it_is(words: tuple[str, ...]) -> None:
    with short_directory() as directory:
        home = directory / "home"
        (home / "state").mkdir(parents=True)
        (home / "supervisord.conf").touch(mode=0o600)
        (home / "multibot.toml").touch(mode=0o600)
        for mode in (0o700, 0o711):
            home.chmod(mode)
            done = subprocess.run(
                [sys.executable, "-P", "-m", "multibot_plugin.cli", "--home", str(home), *words],
                user=1234, group=1234, extra_groups=[], env={}, cwd="/", capture_output=True, text=True, check=False,
            )  # fmt: skip
            whose = f"the installation in {home} belongs to root: run this as root, or use another --home"
            assert (done.returncode, done.stderr) == (6, f"multibot: {whose}\n")


def test_a_wrong_option_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", "--jsno")
    assert result.exit_code == 2
    assert result.stderr.startswith("multibot: no such option '--jsno'")
    assert "multibot list --help" in result.stderr
    assert result.stderr.count("\n") == 1


class Failing(Context):
    """A context in which everything fails with one error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def supervisor(self, timeout_s: float = 10.0) -> object:  # type: ignore[override]
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NoSuchBot("ecko", ["echo"]), 4, "multibot: no bot 'ecko' (did you mean 'echo'?)\n"),
        (DatabaseAway("two\nlines\x1b[31m"), 5, "multibot: two lines\\x1b[31m\n"),
        (Refused("no"), 6, "multibot: no\n"),
        (ZeroDivisionError("oops"), 1, f"multibot: ZeroDivisionError: oops {AGAIN}\n"),
        (ValueError("123456789:" + "A" * 35), 1, f"multibot: ValueError: 123456789:<redacted> {AGAIN}\n"),
        (ZeroDivisionError(), 1, f"multibot: something went wrong (ZeroDivisionError) {AGAIN}\n"),
        (OSError(28, "No space left on device"), 1, "multibot: No space left on device\n"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 1, "multibot: /x/y: No such file or directory\n"),
        (NotADirectoryError(20, "Not a directory", "/etc/passwd/x"), 1, "multibot: /etc/passwd is not a directory\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path, error: BaseException, code: int, text: str) -> None:
    result = invoke(tmp_path, "list", context=Failing(error))
    assert (result.exit_code, result.stderr) == (code, text)
    assert result.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--debug", "--home", str(tmp_path), "list"], obj=Failing(ZeroDivisionError("oops"))
    )
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("to see all of it)\n")


def test_a_reader_that_went_away_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-P", "-m", "multibot_plugin.cli", "--home", str(tmp_path / "h"), "config", "show"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def test_the_version_is_one_line() -> None:
    from multibot_plugin import __version__

    assert CliRunner().invoke(main, ["--version"]).stdout == f"multibot {__version__}\n"


def test_a_home_that_supervisord_cannot_name_is_refused() -> None:
    result = CliRunner().invoke(main, ["--home", "/tmp/with;semicolon", "list"])
    assert result.exit_code == 2
    assert "cannot hold this path" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "text", "sentence"),
    [(None, "–", ""), (0.4, "0s", "0 s"), (2, "2s", "2 s"), (62, "1m 02s", "1 min"), (11_100, "3h 05m", "3 h"),
     (90_000, "1d 1h", "25 h"), (792_000, "9d 4h", "9 days"), (-3, "0s", "0 s")],
)  # fmt: skip
def test_durations_are_short(seconds: float | None, text: str, sentence: str) -> None:
    assert duration(seconds) == text
    if seconds is not None:
        assert spoken(seconds) == sentence


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (12, "12 B"), (2048, "2 KB"), (12_582_912, "12 MB"), (1_610_612_736, "1.5 GB")]
)
def test_sizes_are_short(value: int | None, text: str) -> None:
    assert size(value) == text


def test_one_and_many() -> None:
    assert (count(1, "bot"), count(0, "bot"), count(1200, "bot")) == ("1 bot", "0 bots", "1,200 bots")


def test_terminal_escapes_and_reordering_marks_are_made_visible() -> None:
    assert clean("a\x1b]0;x\x07b\u202ec\td\x9b1mé●") == "a\\x1b]0;x\\x07b\\u202ec\td\\x9b1mé●"
    assert one_line("a\nb\r\n c") == "a b c"


def test_no_token_is_printed_whoever_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    token = "123456789:" + "A" * 35
    show(f"command bot --token {token}")
    say(f"failed: {token.replace(':', '%3A')}")
    show_json({"target": f"bot {token}", token: [token]})
    for form in ("json", "jsonl", "name", "table"):
        show_rows(form, "bots", [{"id": token}], [Column("ID", lambda row: row["id"])])
    out, err = capsys.readouterr()
    assert "A" * 30 not in out + err
    assert "command bot --token 123456789:<redacted>\n" in out
    assert err == "failed: 123456789%3A<redacted>\n"


def complete(tmp_path: Path, *words: str) -> list[str]:
    """Return what bash is offered behind these words."""
    line = ["multibot", "--home", str(tmp_path), *words]
    asked = {"_MULTIBOT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    result = CliRunner().invoke(main, [], env=asked, prog_name="multibot")
    return [line.partition(",")[2] for line in result.stdout.splitlines() if line]


@pytest.mark.parametrize(
    "words", [("bot", "show"), ("bot", "stop", "dice"), ("logs",), ("status",), ("sandbox", "say")]
)
def test_a_shell_completes_the_ids_of_rendered_bots(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert complete(tmp_path, *words, "e") == []  # nothing is rendered
    rendered = tmp_path / "state" / "rendered" / "bots.conf"
    rendered.parent.mkdir(parents=True)
    rendered.write_text("; ours\n[program:bot-echo]\ncommand=x\n[program:bot-dice]\n[program:other]\n")
    assert complete(tmp_path, *words, "e") == ["echo"]


def test_a_table_has_no_trailing_blanks_and_aligns_wide_characters() -> None:
    columns = [
        Column("NAME", lambda r: r["name"]),
        Column("N", lambda r: str(r["n"]), right=True),
        Column("T", lambda r: "x"),
    ]
    text = table([{"name": "日本", "n": 7}, {"name": "a[red]b", "n": 10}], columns)
    assert text.splitlines() == ["NAME      N  T", "日本      7  x", "a[red]b  10  x"]


def test_a_sentence_is_folded_between_words_whatever_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda: 24)
    text = "✖ shop  died  11 times within /a/path-that/is-longer-than/the-terminal min"
    lines = ["✖ shop  died  11 times", "    within", "    /a/path-that/is-longer-than/the-terminal", "    min"]
    assert output.fold(text, 4).splitlines() == lines
    painted = "\x1b[31m✖\x1b[0m"
    assert output.fold(painted + text[1:], 4) == painted + "\n".join(lines)[1:]
    assert output.fold("   ", 4).strip() == ""


def test_nobody_is_asked_without_a_terminal() -> None:
    confirm("Sure?", yes=True)
    with pytest.raises(Refused, match="--yes"):
        confirm("Sure?", yes=False)


def test_rows_go_to_stdout_and_words_to_stderr(tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", "-o", "name", context=FakeContext([row("echo"), row("dice")]))
    assert result.stdout == "dice\necho\n"
    assert result.stderr == ""
