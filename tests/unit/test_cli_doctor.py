"""``multibot doctor``: parts that can be judged without an installation."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from cli_rows import FakeContext, row

from multibot_plugin.cli import checks, checks_host, fleet
from multibot_plugin.cli.checks import BAD, GOOD, WARNING, Check, Patient
from multibot_plugin.cli.doctor import CHECKS, examine
from multibot_plugin.cli.output import Context
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.supervisor.conf import render_main

TOKEN = "123456789:" + "A" * 35


def patient(tmp_path: Path, picture: dict[str, object] | None = None) -> Patient:
    context = FakeContext([row("a")])
    context.home_option = str(tmp_path)
    for directory in (context.home.state, context.home.log):
        directory.mkdir(parents=True, exist_ok=True)
    return Patient(context, fleet.look(context), picture or {})


def only(found: object) -> Check:
    (check,) = [found] if isinstance(found, Check) else found  # type: ignore[attr-defined]
    return check  # type: ignore[no-any-return]


def test_a_broken_multibot_toml_is_a_finding_and_the_other_checks_go_on(tmp_path: Path) -> None:
    (tmp_path / "multibot.toml").write_text("memory_limit = 'plenty'\n")
    found = examine(patient(tmp_path))
    assert "memory_limit 'plenty' is not a size" in next(c.text for c in found if c.name == "settings")
    assert any(c.name == "disk" and c.mark in (GOOD, WARNING) for c in found)
    assert {c.name for c in found} <= {name for name, _ in CHECKS}


def test_a_silent_monitor_is_wrong_and_a_failing_plugin_a_warning(tmp_path: Path) -> None:
    picture = {"plugins": [{"name": "x", "failures": 2, "disabled": False, "text": "boom"},
                           {"name": "y", "failures": 0, "disabled": False, "text": ""}]}  # fmt: skip
    good, plugin = checks.monitor(patient(tmp_path, picture))  # type: ignore[misc]
    assert (good.mark, plugin.mark) == (GOOD, WARNING)
    assert "plugin x is failing (2 times in a row): boom" in plugin.text
    context = FakeContext([], monitor_ok=False)
    context.home_option = str(tmp_path)
    silent = only(checks.monitor(Patient(context, fleet.look(context), {})))
    assert silent.mark == BAD
    assert any("restart multibot" in remedy for remedy in silent.remedies)


@pytest.mark.parametrize(
    ("state", "text", "remedies"),
    [
        ("STOPPED", "the monitor is stopped: ", ["start"]),
        ("FATAL", "the monitor does not run (FATAL): ", ["log", "start"]),
    ],
)
def test_a_monitor_that_is_stopped_is_started_not_restarted(
    tmp_path: Path, state: str, text: str, remedies: list[str]
) -> None:
    sick = patient(tmp_path)
    monitor = {"ok": False, "state": state, "tick_age_s": 2.0}
    found = only(checks.monitor(replace(sick, fleet=replace(sick.fleet, monitor=monitor))))
    assert (found.mark, found.text.startswith(text)) == (BAD, True)
    assert [remedy.rpartition(".")[2].rpartition(" ")[2] for remedy in found.remedies] == remedies


def test_alerts_without_a_channel_name_what_to_type(tmp_path: Path) -> None:
    found = only(checks_host.alerts(patient(tmp_path)))
    assert (found.mark, found.text) == (WARNING, "alerts: no channel configured, alerts go to the log only")
    assert found.remedies[1] == f"multibot --home {tmp_path} config set alerts.telegram.chat_id 123456789"


def test_a_channel_that_the_monitor_has_not_taken_up_yet_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alerts.token").write_text(f"123456789:{'A' * 35}\n")
    (tmp_path / "alerts.token").chmod(0o600)
    toml = f'[alerts.telegram]\nchat_id = "1"\ntoken_file = "{tmp_path}/alerts.token"\n'
    (tmp_path / "multibot.toml").write_text(toml)
    monkeypatch.setattr(checks_host, "ask_telegram", lambda settings: None)
    sick = replace(patient(tmp_path), picture={"channels": ["log"]})
    found = only(checks_host.alerts(sick))
    assert (found.mark, found.text) == (GOOD, "alerts go to Telegram from the monitor's next tick on")


def test_half_a_telegram_channel_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "multibot.toml").write_text('[alerts.telegram]\nchat_id = "1"\n')
    assert only(checks_host.alerts(patient(tmp_path))).mark == BAD


def test_alerts_that_do_not_arrive_are_wrong(tmp_path: Path) -> None:
    failing = {"channel": "x", "to": "Pager", "waiting": 0, "failure": "no"}
    found = only(checks_host.alerts(patient(tmp_path, {"channels": ["Pager"], "deliveries": [failing]})))
    assert (found.mark, found.text) == (BAD, "alerts cannot be sent to Pager: no")


@pytest.mark.parametrize(
    ("asked", "mark", "text"),
    [(None, GOOD, "alerts go to Telegram"), (Refused("chat not found"), BAD, "chat not found"),
     (MultibotError("no answer"), WARNING, "no answer")],
)  # fmt: skip
def test_telegram_is_asked_about_the_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Exception | None, mark: str, text: str
) -> None:
    def check_chat(token: str, server: str, chat: str, timeout_s: float) -> None:
        assert (token, chat) == (TOKEN, "7")
        if asked:
            raise asked

    monkeypatch.setattr("multibot_plugin.bots.telegram.check_chat", check_chat)
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN)
    (tmp_path / "multibot.toml").write_text(f'[alerts.telegram]\ntoken_file = "{file}"\nchat_id = 7\n')
    found = only(checks_host.alerts(patient(tmp_path)))
    assert (found.mark, found.text.rpartition(": ")[2]) == (mark, text)


def test_before_the_first_start_that_is_said_once(tmp_path: Path) -> None:
    context = FakeContext(None)
    context.home_option = str(tmp_path)
    new = Patient(context, fleet.look(context), {})
    assert only(checks.supervisord(new)).text == "not started yet"
    assert (checks.database(new), checks.rendered(new), checks.monitor(new)) == ((), (), ())
    context.home.log.mkdir()
    context.home.supervisord_log.touch()
    assert only(checks.supervisord(new)).text == "supervisord is not running"
    assert only(checks.database(new)).mark == BAD
    assert "none of which runs" in only(checks.rendered(new)).text


def test_what_the_database_says_is_not_claimed_while_it_is_away(tmp_path: Path) -> None:
    context = FakeContext([])
    context.home_option = str(tmp_path)
    found = only(checks.rendered(Patient(context, fleet.look(context), {})))
    assert found.mark == WARNING
    assert "what the database says is not known" in found.text


def test_switches_of_our_plugin_are_the_operators_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    (tmp_path / "multibot.toml").write_text('database_url = "postgresql://db.example/x"\n')
    conf, written = sick.context.home.supervisord_conf, render_main(sick.context.home, None)
    section = "[rpcinterface:multibot]\n"
    for more, mark, words in (
        ("", None, ""), ("parallel_stop=false\nlistener_patience_s = 0\n", None, ""),
        ("parallel_stop=perhaps\n", BAD, "parallel_stop=perhaps: not true or false"),
        ("parallelstop=true\n", BAD, "has no option 'parallelstop'"), ("[x]\n", WARNING, "differs from what"),
    ):  # fmt: skip
        conf.write_text(written.replace(section, section + more))
        found = list([f] if isinstance(f := checks.main_file(sick), Check) else f)
        assert [check.mark for check in found] == ([mark] if mark else []), more
        assert all(words in check.text for check in found)


def test_a_channel_of_a_plugin_counts(tmp_path: Path) -> None:
    assert only(checks_host.alerts(patient(tmp_path, {"channels": ["log", "pager"]}))).text == "alerts go to Pager"


def test_a_full_journal_is_a_warning(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    assert only(checks_host.journal(sick)).mark == GOOD
    sick.context.home.journal.mkdir()
    (sick.context.home.journal / "0000000001-abc.jsonl").write_bytes(b"x" * 2_000_000)
    (sick.context.home.journal / "rejected.jsonl").write_bytes(b"x")
    assert [c.mark for c in checks_host.journal(sick)] == [WARNING, WARNING]


def test_what_others_may_read_or_write_is_named_with_the_remedy(tmp_path: Path) -> None:
    sick = patient(tmp_path)
    home = sick.context.home
    home.log.chmod(0o700)
    home.state.chmod(0o711)
    assert checks_host.files(sick) == []
    home.digest_key.write_bytes(b"x")
    home.digest_key.chmod(0o644)
    home.state.chmod(0o777)
    assert [c.remedies for c in checks_host.files(sick)] == [  # type: ignore[union-attr]
        (f"chmod go-rwx {home.digest_key}",),
        (f"chmod go-w {home.state}",),
    ]


@pytest.mark.parametrize(
    ("uid_map", "mapped"),
    [("         0          0 4294967295\n", True), ("0 1000 1\n1 100000 65535\n", False), ("0 0 99999\n", False)],
)
def test_user_ids_that_a_container_does_not_have_are_noticed(uid_map: str, mapped: bool) -> None:
    assert all(checks_host._is_mapped(uid, uid_map) for uid in (70000, 99999)) is mapped


def test_a_user_is_told_that_bots_are_not_isolated_and_root_that_they_are(tmp_path: Path) -> None:
    found = only(checks_host.isolation(patient(tmp_path)))
    if os.geteuid() == 0:
        assert "user id" in found.text
    else:
        assert (found.mark, "no isolation" in found.text) == (WARNING, True)


def test_a_user_id_without_an_account_is_named_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_host.os, "geteuid", lambda: 54_321)
    assert "runs as user id 54321" in only(checks_host.isolation(patient(tmp_path))).text


def test_a_context_finds_out_only_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "multibot.toml").write_text("nonsense")
    context = Context(str(tmp_path))
    assert context.home.config == tmp_path
