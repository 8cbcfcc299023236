"""An operator's supervisord.conf: how it is read, and what it lacks for multibot."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from supervisor.xmlrpc import RPCError, traverse

from multibot_plugin.bots.render import environment
from multibot_plugin.errors import BadValue
from multibot_plugin.home import Home, find_home, into, make_runtime
from multibot_plugin.supervisor import rpc
from multibot_plugin.supervisor.beside import cannot_import, parts, to_paste, to_restart
from multibot_plugin.supervisor.conf import install_included, parse
from multibot_plugin.supervisor.inside.refusing import too_old
from multibot_plugin.supervisor.inside.requests import TOO_OLD
from multibot_plugin.supervisor.mainfile import MainFile

THEIRS = "[unix_http_server]\nfile=%(here)s/s.sock\n\n[supervisord]\npidfile=%(here)s/s.pid\n\n[supervisorctl]\n"


def written(path: Path, text: str) -> MainFile:
    path.write_text(text)
    return MainFile(path)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home in the supervisord of a file that is an operator's, without anything of ours."""
    (tmp_path / "their.conf").write_text(THEIRS)
    made = into(find_home(str(tmp_path / "h")), tmp_path / "their.conf")
    install_included(made)
    return made


def problems(home: Home) -> dict[str, str]:
    """Return what is wrong, by section; a home reads its file once, so this asks a new one."""
    return {part.section: part.problem for part in parts(replace(home)) if part.problem}


@pytest.mark.parametrize(
    ("section", "path"),
    [("[unix_http_server]\nfile = %(here)s/a.sock ; theirs", "{here}/a.sock"),
     ("[unix_http_server:x]\nfile=/run/%(ENV_THEIR_NAME)s.sock", "/run/web.sock")],
)  # fmt: skip
def test_the_socket_is_the_one_that_their_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, path: str
) -> None:
    monkeypatch.setenv("THEIR_NAME", "web")
    file = written(tmp_path / "f.conf", f"[supervisord]\n{section}\n")
    assert file.socket() == Path(path.format(here=tmp_path))


def test_the_socket_may_stand_in_an_included_file_and_the_last_include_holds(tmp_path: Path) -> None:
    (tmp_path / "b.ini").write_text("[unix_http_server]\nfile=/run/b.sock\n")
    (tmp_path / "a.ini").write_text("[unix_http_server]\nfile=/run/a.sock\n")
    text = "[supervisord]\n[include]\nfiles=a.ini\n[include]\nfiles = missing.ini\n  b*.ini\n"
    assert written(tmp_path / "f.conf", text).socket() == Path("/run/b.sock")


@pytest.mark.parametrize(
    ("text", "words"),
    [("[supervisord]\n", "has no unix socket: add"),
     ("[supervisord]\n[inet_http_server]\nport=9001\n", r"no unix socket \(only \[inet_http_server\]\): add"),
     ("[supervisord]\n[unix_http_server]\nfile=run/x\n", "not an absolute path"),
     ("[supervisord]\n[unix_http_server]\nfile=%(ENV_NOT_SET_HERE)s\n", "file in .* has a % expression"),
     ("[program:x]\ncommand=/bin/true\n", r"no section \[supervisord\]"),
     ("[supervisord]\npassword s3cr3t\n", r"could not understand this \(line 2\)"),
     ("s3cr3t\n", r"could not understand this \(line 1\)")],
)  # fmt: skip
def test_a_file_that_cannot_serve_is_one_line_without_its_values(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadValue, match=words) as raised:
        written(tmp_path / "f.conf", text).socket()
    assert "s3cr3t" not in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path}/f.conf: ")


@pytest.mark.parametrize(
    ("options", "login"),
    [("", ""), ("username=u\npassword=p:w\n", "u:p:w"), ("username=u\npassword={SHA}82ab\n", "")],
)  # fmt: skip
def test_the_login_is_what_supervisorctl_would_use(tmp_path: Path, options: str, login: str) -> None:
    assert written(tmp_path / "f.conf", f"[supervisord]\n[supervisorctl]\n{options}").login() == login


def test_a_home_in_their_supervisord_is_found_again_with_its_socket_and_a_lasting_runtime_directory(
    home: Home, tmp_path: Path
) -> None:
    assert find_home(str(tmp_path / "h")) == home
    assert (home.supervisord_conf, home.socket) == (tmp_path / "their.conf", tmp_path / "s.sock")
    assert home.pidfile == tmp_path / "s.pid"
    assert home.to_start == f"supervisord -c {tmp_path}/their.conf"
    system = Home(*(tmp_path / name for name in ("etc", "lib", "run", "log")))
    system.run.mkdir()
    moved = into(system, tmp_path / "their.conf")
    assert moved.run == system.state / "run"
    make_runtime(moved)
    assert (system.state / "supervisord").read_text() == f"{tmp_path}/their.conf\n"


def test_what_a_file_lacks_makes_it_whole_when_it_is_appended(home: Home) -> None:
    file = home.supervisord_conf
    (file.parent / "theirs.ini").write_text("[program:theirs]\ncommand=/bin/true\n")
    file.write_text(THEIRS + "[include]\nfiles=*.ini\n")
    assert list(problems(home)) == [
        "include", "rpcinterface:supervisor", "rpcinterface:multibot", "ctlplugin:multibot", "eventlistener:multibot",
    ]  # fmt: skip
    file.write_text(file.read_text() + to_paste(parts(home)))
    assert problems(home) == {}
    names = {program.name for program in parse(file.read_text(), home)}
    assert names == {"multibot"}  # supervisor's own parser, given a text, finds no relative file
    assert MainFile(file).sections.keys() >= {"program:theirs", "eventlistener:multibot"}
    assert "%" not in to_paste(parts(home))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("buffer_size=4096", "", "buffer_size=4096 (or more)"), ("buffer_size=4096", "buffer_size=9000", ""),
     ("events=PROCESS_STATE,", "events=TICK_5, ", "has to say events="),
     ("events=PROCESS_STATE,", "events=TICK_5, process_state, ", ""),
     ("priority=10", "priority=20\n[eventlistener:theirs]\npriority=20", "mixes up their events"),
     ("priority=10", "[eventlistener:theirs]\nevents=TICK_5", "mixes up their events"),
     ("autostart=true", "autostart=false", "has to say autostart=true"),
     ("status=", "status=/x", "has to say status="), ("status.json\nstate=", "status.json\n#", "has to say state="),
     ("buffer_size=4096", "buffer_size=lots", "buffer_size=lots is not a number: supervisord does not start"),
     ("priority=10", "priority=1.5", "priority=1.5 is not a number"), ("priority=10", "priority=%(ENV_X)s", ""),
     ("[rpcinterface:multibot]\n", "[rpcinterface:multibot]\nquick_fork=x\n", "quick_fork=x: not true or false"),
     ("[rpcinterface:multibot]\n", "[rpcinterface:multibot]\nquik_fork=no\n", "has no option 'quik_fork', but"),
     ("[rpcinterface:multibot]\n", "[rpcinterface:multibot]\nquick_fork=no\nlistener_patience_s=%(ENV_X)s\n", ""),
     ("[ctlplugin:multibot]", "[ctlplugin:other]", "is missing"), ("[rpcinterface:multibot]", "[x]", "is missing"),
     ("MULTIBOT_RUN=", "MULTIBOT_FUN=", "has to say environment="), ("/rendered/*.conf", "/*.conf", "does not include"),
     ("stopwaitsecs=15", "stopwaitsecs=30", "")],
)  # fmt: skip
def test_every_option_that_matters_is_looked_at_and_no_other(home: Home, old: str, new: str, words: str) -> None:
    text = THEIRS + to_paste(parts(home))
    assert old in text
    home.supervisord_conf.write_text(text.replace(old, new))
    found = problems(home)
    assert len(found) == bool(words), found
    assert all(words in problem for problem in found.values())


@pytest.mark.parametrize("wrong", ["[eventlistener:multibot]\nstartsecs=x", "[rpcinterface:multibot]\nquick_fork=x"])
def test_nobody_is_told_to_reload_with_a_mistake_in_the_file(home: Home, wrong: str) -> None:
    text = THEIRS + to_paste(parts(home))
    home.supervisord_conf.write_text(text)
    assert to_restart(replace(home)) == f"supervisorctl -c {home.foreign} reload"
    home.supervisord_conf.write_text(text + wrong)
    assert to_restart(replace(home)).startswith(f"mend {home.foreign} first")
    (part,) = [part for part in parts(replace(home)) if part.problem]
    assert (part.to_mend, part.blocks, to_paste([part])) == (True, False, "")


def test_what_supervisorctl_does_not_read_is_told(home: Home) -> None:
    text = to_paste(parts(home)).replace("/rendered/*.conf", "/rendered/*.conf more.ini")
    ctl = text[text.index("[ctlplugin:multibot]") : text.index("[eventlistener:multibot]")]
    (home.supervisord_conf.parent / "more.ini").write_text(ctl)
    home.supervisord_conf.write_text(THEIRS + text.replace(ctl, ""))
    assert "where supervisorctl does not look" in problems(home)["ctlplugin:multibot"]


def test_sections_that_could_not_start_in_their_supervisord_are_taken_away(home: Home) -> None:
    ours = f"[program:bot-a]\nenvironment={environment(home.variables)}\n"
    for before, after in ((ours, ours), ("[program:bot-a]\ncommand=/x\n", "; no bots yet\n")):
        home.rendered.write_text(before)
        install_included(home)
        assert home.rendered.read_text() == after


@pytest.mark.parametrize(
    ("version", "refused"),
    [("4.2.5", True), ("4.3.0", False), ("4.4.0.dev0", False), ("3.4.0", True), ("5.0", False), ("", True)],
)
def test_only_a_supervisor_that_is_too_old_is_refused(version: str, refused: bool) -> None:
    assert bool(too_old(version)) == refused


def test_a_supervisord_that_is_too_old_goes_on_and_every_method_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    supervisord = SimpleNamespace(options=SimpleNamespace(logger=SimpleNamespace(critical=said.append)))
    monkeypatch.setattr(rpc, "VERSION", "4.2.5")
    root = SimpleNamespace(multibot=rpc.make_interface(supervisord, "/x", "/y"))
    assert said == ["multibot is not loaded: supervisor 4.2.5 is too old, multibot needs 4.3.0"]
    for method in ("getBots", "getVersion", "whatever"):
        with pytest.raises(RPCError, match="is too old") as raised:
            traverse(root, f"multibot.{method}", ["a"])
        assert (raised.value.code, raised.value.text.partition(":")[0]) == (TOO_OLD, "TOO_OLD")


def test_an_interpreter_without_multibot_is_found_by_asking_it(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    assert cannot_import(sys.executable) == ""
    assert cannot_import(str(other)).startswith(f"{other}, which runs this supervisord, cannot import multibot")
    assert cannot_import(str(tmp_path / "none")) != ""
