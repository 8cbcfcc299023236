"""The plan: what differs, what it does to the bot, and that no secret is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multibot_plugin.bots.config import BotConfig, Deployment, deploy
from multibot_plugin.bots.plan import Plan, Rendered, make_plan, narrowed, show
from multibot_plugin.bots.render import Place, read_rendered, render
from multibot_plugin.settings import load
from multibot_plugin.supervisor.conf import template

TOKEN = "123456:AAabcdefghijklmnopqrstuvwxyz0123456"
OTHER_TOKEN = "654321:ZZabcdefghijklmnopqrstuvwxyz0123456"
FLEET = load(Path("/nonexistent/multibot.toml"), environ={})
KEY = b"the-key-of-digests"


def bot(name: str = "echo", **changes: Any) -> Deployment:
    values = {"id": name, "enabled": True, "launch": "command", "target": "/bin/true", "token": TOKEN} | changes
    return deploy(BotConfig(**values), FLEET, KEY)


def text_of(*deployments: Deployment, python: str = "/usr/bin/python3") -> str:
    return render(template("program.conf.j2"), deployments, (), Place(python, Path("/var/log/multibot"))).text


def plan(
    old: list[Deployment], new: list[Deployment], problems: dict[str, str] | None = None, base: str | None = None,
    files_lost: bool = False,
) -> Plan:  # fmt: skip
    base = text_of(*old) if base is None else base
    deployments = {d.id: d for d in old}
    rendered = {
        name: Rendered(section, None if files_lost else deployments.get(name))
        for name, section in read_rendered(base).items()
    }
    kept = [rendered[name].section for name in problems or {} if name in rendered]
    file = render(template("program.conf.j2"), new, kept, Place("/usr/bin/python3", Path("/var/log/multibot")))
    return make_plan({d.id: d for d in new}, problems or {}, rendered, file, base)


def test_new_removed_and_unchanged_bots_are_told_apart() -> None:
    result = plan([bot("a"), bot("b")], [bot("b"), bot("c")])
    assert (result.added, result.changed, result.removed, result.unchanged) == (("c",), (), ("a",), ("b",))
    assert result.pending


def test_nothing_to_do_is_not_pending() -> None:
    result = plan([bot("a")], [bot("a")])
    assert not result.pending
    assert show(result) == "Nothing differs."


@pytest.mark.parametrize(
    ("before", "after", "effect", "told"),
    [
        ({}, {"settings": {"poll_timeout_s": 7.0}}, "restart", [("poll_timeout_s", "50s → 7s")]),
        ({}, {"settings": {"memory_limit": 2**27}}, "live", [("memory_limit", "none → 128MB")]),
        ({"settings": {"memory_limit": 2**27}}, {"settings": {"memory_limit": 2**28}}, "live",
         [("memory_limit", "128MB → 256MB")]),
        ({}, {"settings": {"stop_wait_s": 3.0, "deaths_limit": 9}}, "restart",
         [("stop_wait_s", "10s → 3s"), ("deaths_limit", "3 → 9")]),
        ({}, {"token": OTHER_TOKEN}, "restart", [("token", "(secret changed)")]),
        ({"env": {"A": "1", "B": "2"}}, {"env": {"B": "3", "C": "4"}}, "restart",
         [("env.A", "(removed)"), ("env.B", "(secret changed)"), ("env.C", "(added)")]),
        ({}, {"launch": "script", "target": "/srv/bot.py"}, "restart",
         [("runs", "command /bin/true → script /srv/bot.py")]),
        ({"uid": 70001}, {"uid": 70002}, "restart", [("uid", "70001 → 70002")]),
        ({}, {"settings": {"user": "ada"}}, "restart", [("user", "none → ada")]),
        ({}, {"enabled": False}, "stop", [("enabled", "yes → no")]),
        ({"enabled": False}, {}, "start", [("enabled", "no → yes")]),
        ({"enabled": False}, {"settings": {"user": "ada"}}, "start", [("enabled", "no → yes"), ("user", "none → ada")]),
        ({"enabled": False}, {"enabled": False, "env": {"A": "1"}}, "at its next start", [("env.A", "(added)")]),
    ],
)  # fmt: skip
def test_each_field_is_told_with_what_its_change_does(
    before: dict[str, Any], after: dict[str, Any], effect: str, told: list[tuple[str, str]]
) -> None:
    (change,) = plan([bot(**before)], [bot(**after)]).changed
    assert change.effect == effect
    assert [(d.name, d.text) for d in change.differences] == told


def test_secrets_stay_out_of_every_form_of_the_plan() -> None:
    old = bot(env={"PASSWORD": "hunter2"}, target=f"/bin/old {TOKEN}", settings={"bot_api_url": "https://u:geheim@a/x"})
    new = bot(env={"PASSWORD": "hunter3"}, target=f"/bin/new {OTHER_TOKEN}", token=OTHER_TOKEN,
              settings={"bot_api_url": "https://u:secreto@b/x"})  # fmt: skip
    result = plan([old], [new, bot("fresh", target=f"/bin/x {TOKEN}")], problems={"bad": f"row holds {TOKEN}"})
    shown = show(result, sections=True) + str(result.as_json())
    for secret in ("hunter2", "hunter3", "geheim", "secreto", "abcdefghijklm"):
        assert secret not in shown
    for secret in ("hunter2", "hunter3", f"token='{TOKEN}'", KEY.decode()):
        assert secret not in repr(replace(result, key=KEY)).replace("digest_key", "")
    assert "https://***@a/x → https://***@b/x" in shown


def test_the_plan_looks_like_this() -> None:
    old = [bot("echo", env={"GREETING": "a"}), bot("greeter"), bot("old-bot"), bot("survey")]
    new = [
        bot("echo", env={"GREETING": "b"}, settings={"memory_limit": 2**28}),
        bot("greeter", settings={"restart_budget": 5}),
        bot("poll", launch="script", target="/srv/bots/poll/bot.py", enabled=False),
    ]
    shown = show(plan(old, new, {"survey": "bot 'survey': no setting 'colour'"}), "multibot --home x apply")
    assert shown.splitlines() == [
        "~ echo      restart   env.GREETING   (secret changed)",
        "                      memory_limit   none → 256MB",
        "~ greeter   live      restart_budget   3 → 5",
        "+ poll      new       script /srv/bots/poll/bot.py  (not enabled)",
        "- old-bot   removed   (will be stopped; data kept)",
        "! survey    problem   bot 'survey': no setting 'colour'",
        "                      (stays as it is)",
        "",
        "1 restart, 1 live, 1 new, 1 removed. Apply with: multibot --home x apply",
    ]


def test_the_sections_lines_stand_beside_the_settings() -> None:
    old, new = bot(), bot(settings={"stop_wait_s": 3.0})
    lines = show(plan([old], [new]), sections=True).splitlines()
    assert lines[0] == "~ echo      restart   stop_wait_s   10s → 3s"
    assert [line for line in lines if line.startswith("    -")] == [
        f'    -command="/usr/bin/python3" -P -m multibot_runner echo {old.digest}',
        "    -stopwaitsecs=12",
    ]


def test_a_row_that_cannot_be_used_keeps_the_section_it_has() -> None:
    result = plan([bot("a"), bot("b")], [bot("b")], problems={"a": "bad", "new": "bad"})
    assert set(result.kept) == {"a"}
    assert result.removed == ()
    assert read_rendered(result.file.text)["a"].digest == bot("a").digest
    assert not result.pending


def test_bots_that_run_with_another_interpreter_restart() -> None:
    result = plan([bot()], [bot()], base=text_of(bot(), python="/opt/old/python"))
    assert [(c.effect, c.differences[0].name) for c in result.changed] == [("restart", "section")]


def test_a_section_changed_by_hand_is_put_right() -> None:
    result = plan([bot()], [bot()], base=text_of(bot()).replace("stopwaitsecs=12", "stopwaitsecs=99"))
    assert [(c.effect, c.differences[0].text) for c in result.changed] == [("restart", "(changed by hand)")]


def test_comments_and_strange_sections_are_put_right_without_a_restart() -> None:
    result = plan([bot()], [bot()], base=text_of(bot()) + "; mine\n\n[program:stranger]\ncommand=/bin/true\n")
    assert (result.changed, result.unchanged) == ((), ("echo",))
    assert result.pending
    assert show(result).splitlines()[-1] == "No bot changes. Apply with: multibot apply"


def test_lost_files_are_repaired_without_a_restart_and_unknown_old_ones_told_as_such() -> None:
    result = plan([bot()], [bot()], files_lost=True)
    assert (result.repairs, result.unchanged) == (("echo",), ("echo",))
    assert result.pending
    (change,) = plan([bot()], [bot(env={"A": "1"})], files_lost=True).changed
    assert [(change.effect, d.name) for d in change.differences] == [("restart", "settings")]


def test_a_new_key_of_the_digests_restarts_and_says_why() -> None:
    renamed = replace(bot(), digest="0" * 16)
    (change,) = plan([renamed], [bot()]).changed
    assert change.effect == "restart"
    assert change.differences[0].name == "settings"


def test_a_plan_for_one_bot_leaves_the_sections_of_all_others_word_for_word() -> None:
    base = text_of(bot("a"), bot("b"), bot("gone"), python="/old/python3")
    whole = plan([], [bot("a", env={"K": "1"}), bot("b", env={"K": "1"}), bot("c")], {"d": "it is bad"}, base)
    part = narrowed(whole, {"b"})
    assert ([c.bot for c in part.changed], part.added, part.removed, dict(part.problems)) == (["b"], (), (), {})
    assert (set(part.deployments), set(part.kept)) == ({"b"}, {"a", "gone"})
    assert (part.only, part.others) == ({"b"}, ("a", "c", "d", "gone"))
    before, after = read_rendered(base), read_rendered(part.file.text)
    assert [(s.id, s.text == before[s.id].text) for s in after.values()] == [("a", True), ("b", False), ("gone", True)]
    assert after["b"].digest == bot("b", env={"K": "1"}).digest
    assert "/old/python3" not in after["b"].text


def test_a_plan_for_one_bot_adds_and_removes_it() -> None:
    new = narrowed(plan([bot("a")], [bot("a"), bot("b")]), {"b"})
    assert (new.added, new.others, new.file.text) == (("b",), (), text_of(bot("a"), bot("b")))
    gone = narrowed(plan([bot("a"), bot("b")], [bot("a")]), {"b"})
    assert (gone.removed, gone.others, gone.file.text) == (("b",), (), text_of(bot("a")))
    last = narrowed(plan([bot("b")], []), {"b"})
    assert (last.removed, last.file.text) == (("b",), text_of())


def test_a_plan_for_one_bot_keeps_its_section_when_its_row_cannot_be_used() -> None:
    part = narrowed(plan([bot("a"), bot("b")], [bot("a")], {"b": "it is bad"}), {"b"})
    assert (dict(part.problems), set(part.kept), part.pending) == ({"b": "it is bad"}, {"a", "b"}, False)
