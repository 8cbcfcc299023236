"""Every example in etc/ is loaded by the program that it is for, and says what the code would write."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from multibot_plugin.home import Home
from multibot_plugin.supervisor.conf import render_main

ETC = Path(__file__).resolve().parents[2] / "etc"
ROOT_HOME = Home(*(Path(p, "multibot") for p in ("/etc", "/var/lib", "/run", "/var/log")))


class Program:
    command = ("/opt/multibot/bin/python", "-P", "-m", "multibot_plugin.database.postmaster", "/var/lib/multibot",
               "/run/multibot")  # fmt: skip
    user = None
    stop_signal = "INT"
    stop_wait_s = 60
    priority = 1


def read(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=True, inline_comment_prefixes=(";", "#"))
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_the_annotated_supervisord_conf_is_what_init_writes_for_root() -> None:
    written = read(render_main(ROOT_HOME, Program(), "/opt/multibot/bin/python"))
    shown = read((ETC / "supervisord.conf").read_text())
    for options in (*written.values(), *shown.values()):
        options["command"] = options.get("command", "").replace('"', "")
    written["supervisord"].setdefault("user", "root")  # as a user, init writes none
    assert shown == written


def test_supervisord_itself_reads_the_annotated_conf(tmp_path: Path) -> None:
    text = (ETC / "supervisord.conf").read_text()
    for place in ("/run/multibot", "/var/log/multibot", "/var/lib/multibot", "/etc/multibot"):
        text = text.replace(place, str(tmp_path))
    (tmp_path / "rendered").mkdir()
    conf = tmp_path / "supervisord.conf"
    conf.write_text(text)
    code = (
        "import sys; from supervisor.options import ServerOptions; o = ServerOptions();"
        "o.realize(['-c', sys.argv[1], '-n']);"
        "print(sorted(g.name for g in o.process_group_configs))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(conf)], capture_output=True, text=True)
    assert done.stdout.strip() == "['multibot', 'multibot-postgres']", done.stderr


@pytest.mark.parametrize("name", ["multibot.service"])
def test_systemd_accepts_the_unit(name: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    unit = (ETC / name).read_text()
    parser = configparser.RawConfigParser(strict=True, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit)
    assert parser["Service"]["Restart"] == "on-failure"  # 'multibot stop' ends supervisord with 0, see test_cli_start
    assert parser["Service"]["ExecStart"] == "/opt/multibot/bin/multibot start --foreground"
    if analyze:
        (tmp_path / name).write_text(unit.replace("/opt/multibot/bin/multibot", "/bin/true"))
        done = subprocess.run([analyze, "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
