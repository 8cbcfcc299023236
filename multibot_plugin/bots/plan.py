"""What has to change between what is rendered and what the database wants, and how a person is told. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from multibot_plugin.bots.config import Deployment
from multibot_plugin.bots.render import RenderedFile, Section, read_rendered, section_of, split_sections, with_sections
from multibot_plugin.kinds import without_login
from multibot_plugin.settings import BY_NAME
from multibot_runner.protocol import PROGRAM_PREFIX
from multibot_runner.redact import redact

# What a change does to the bot: it restarts, starts, stops, goes on with new live settings, or is stopped and will
# start with the new settings when somebody starts it.
Effect = Literal["restart", "start", "stop", "live", "at its next start"]


@dataclass(frozen=True)
class Rendered:
    """A bot as it is rendered: its section and, where its files are whole, the deployment they came from."""

    section: Section
    deployment: Deployment | None


@dataclass(frozen=True)
class Difference:
    """One field, before and after, as it may be shown: secrets are masked already. ``live``: needs no restart."""

    name: str
    text: str
    live: bool = False


@dataclass(frozen=True)
class Change:
    bot: str
    effect: Effect
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Plan:
    """Everything ``apply`` is going to do, decided before anything is done.

    ``deployments``: what is to be written, by bot. ``kept``: sections of bots whose row cannot be used (``problems``
    says why, by bot); they stay as they are. ``file`` replaces ``base``, the text that is rendered now. ``repairs``:
    bots whose section is right, but whose files are missing or damaged.
    ``owners``: (uid, gid) of each deployment's files. ``key``: what the digests were made with.
    ``only``: the bots that this plan is about (None: all); ``others``: those besides that differ and stay as they are.
    """

    added: tuple[str, ...]
    changed: tuple[Change, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    problems: Mapping[str, str]
    deployments: Mapping[str, Deployment]
    kept: Mapping[str, Section]
    file: RenderedFile
    base: str
    repairs: tuple[str, ...] = ()
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    key: bytes = field(default=b"", repr=False)
    only: frozenset[str] | None = None
    others: tuple[str, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether writing this plan would change anything."""
        return bool(self.added or self.changed or self.removed or self.repairs) or self.file.text != self.base

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values, masked."""
        return {
            "schema": 1,
            "pending": self.pending,
            "added": [{"bot": b, "launch": _launch(self.deployments[b])} for b in self.added],
            "changed": [
                {"bot": c.bot, "effect": c.effect, "differences": {d.name: d.text for d in c.differences}}
                for c in self.changed
            ],
            "removed": list(self.removed),
            "repairs": list(self.repairs),
            "unchanged": list(self.unchanged),
            "problems": dict(self.problems),
        }


def make_plan(
    deployments: Mapping[str, Deployment],
    problems: Mapping[str, str],
    rendered: Mapping[str, Rendered],
    file: RenderedFile,
    base: str,
) -> Plan:
    """Return the plan from ``rendered`` (read from ``base``) to ``deployments`` (rendered as ``file``).

    A bot in ``problems`` keeps the section it has.
    """
    kept = {bot: rendered[bot].section for bot in problems if bot in rendered}
    texts = {name.partition(":")[2].removeprefix(PROGRAM_PREFIX): text for name, text in split_sections(file.text)}
    changed, unchanged = [], []
    for bot, deployment in sorted(deployments.items()):
        if bot in rendered:
            change = _change(rendered[bot], deployment, texts[bot])
            changed.append(change) if change else unchanged.append(bot)
    return Plan(
        added=tuple(sorted(set(deployments) - set(rendered))),
        changed=tuple(changed),
        removed=tuple(sorted(set(rendered) - set(deployments) - set(problems))),
        unchanged=tuple(unchanged),
        problems={bot: _plain(text) for bot, text in problems.items()},
        deployments=dict(deployments),
        kept=kept,
        file=file,
        base=base,
        repairs=tuple(bot for bot in unchanged if rendered[bot].deployment is None),
    )


def narrowed(plan: Plan, bots: Collection[str]) -> Plan:
    """Return the part of ``plan`` that is about ``bots``: all others keep the sections they have, word for word."""
    new = {name.partition(":")[2].removeprefix(PROGRAM_PREFIX): text for name, text in split_sections(plan.file.text)}
    barred = plan.problems.keys() - plan.kept.keys()  # of a name that somebody else has: in no file any more
    left = {bot: section for bot, section in read_rendered(plan.base).items() if bot not in {*bots, *barred}}
    texts = {bot: section.text for bot, section in left.items()} | {bot: new[bot] for bot in bots if bot in new}
    differing = {*plan.added, *plan.removed, *plan.repairs, *plan.problems, *(change.bot for change in plan.changed)}
    return replace(
        plan,
        added=tuple(bot for bot in plan.added if bot in bots),
        changed=tuple(change for change in plan.changed if change.bot in bots),
        removed=tuple(bot for bot in plan.removed if bot in bots),
        unchanged=tuple(bot for bot in plan.unchanged if bot in bots),
        repairs=tuple(bot for bot in plan.repairs if bot in bots),
        problems={bot: text for bot, text in plan.problems.items() if bot in bots},
        deployments={bot: deployment for bot, deployment in plan.deployments.items() if bot in bots},
        kept=left | {bot: section for bot, section in plan.kept.items() if bot in bots},
        file=RenderedFile(plan.file.name, with_sections(plan.file.text, texts)),
        only=frozenset(bots),
        others=tuple(sorted(differing.difference(bots))),
    )


def _change(rendered: Rendered, new: Deployment, text: str) -> Change | None:
    section = rendered.section
    differences = list(_differences(rendered.deployment, new))
    if not differences and section.digest != new.digest:
        differences = [Difference("settings", "(written anew: the files of the rendered ones are gone)")]
    if not differences and section != section_of(new):
        differences = [Difference("section", "(changed by hand)")] if section.autostart == new.autostart else []
    elif not differences and _words(section.text) != _words(text):
        differences = [Difference("section", "(rendered by another version, or changed by hand)")]
    if section.autostart != new.autostart:
        differences.insert(0, Difference("enabled", f"{_yes(section.autostart)} → {_yes(new.autostart)}", live=True))
    return Change(new.id, _effect(section, new, differences), tuple(differences)) if differences else None


def _effect(section: Section, new: Deployment, differences: Iterable[Difference]) -> Effect:
    if section.autostart != new.autostart:
        return "start" if new.autostart else "stop"
    if all(difference.live for difference in differences):
        return "live"
    return "restart" if new.autostart else "at its next start"


def _words(section: str) -> list[str]:
    lines = (line.strip() for line in section.splitlines())
    return [line for line in lines if line and not line.startswith((";", "#"))]


def _yes(enabled: bool) -> str:
    return "yes" if enabled else "no"


def _differences(old: Deployment | None, new: Deployment) -> Iterator[Difference]:
    """Yield what differs between two deployments, field by field, masked. Nothing is known of a missing old one."""
    if old is None:
        return
    if (old.settings.launch, old.settings.target) != (new.settings.launch, new.settings.target):
        yield Difference("runs", f"{_launch(old)} → {_launch(new)}")
    if old.token != new.token:
        yield Difference("token", "(secret changed)")
    before, after = dict(old.settings.env), dict(new.settings.env)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or before[name] != after[name]:
            what = "added" if name not in before else "removed" if name not in after else "secret changed"
            yield Difference(f"env.{_plain(name)}", f"({what})")
    if old.settings.uid != new.settings.uid:
        yield Difference("uid", f"{old.settings.uid} → {new.settings.uid}")
    for name, setting in BY_NAME.items():
        if setting.applies == "restart" and hasattr(new.settings, name):
            one, two = getattr(old.settings, name), getattr(new.settings, name)
        elif name in new.live:
            one, two = old.live.get(name), new.live[name]
        else:
            continue
        if one != two:
            yield Difference(name, f"{_value(name, one)} → {_value(name, two)}", live=setting.applies == "live")


def _value(name: str, value: Any) -> str:
    if value is None or value == "":
        return "none"
    try:
        return _plain(BY_NAME[name].kind.show(value))
    except (TypeError, ValueError):  # from a file that somebody changed
        return _plain(str(value))


def _launch(deployment: Deployment) -> str:
    return _plain(f"{deployment.settings.launch} {deployment.settings.target}")


def _plain(text: str) -> str:
    """Return one line without control characters, tokens, or the user part of a URL."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return without_login(redact(text))


def show(plan: Plan, apply_with: str = "multibot apply", *, sections: bool = False) -> str:
    """Return the plan for people; ``apply_with`` is what to type next. ``sections``: with the lines that change."""
    old, new = dict(split_sections(plan.base)), dict(split_sections(plan.file.text))
    lines: list[str] = []
    for bot, mark, effect, details in _entries(plan):
        first, *rest = details or [""]
        lines.append(f"{mark} {bot:<{_width(plan)}}  {effect:<9} {first}".rstrip())
        lines += [f"{'':<{_width(plan) + 14}}{detail}" for detail in rest]
        name = f"program:{PROGRAM_PREFIX}{bot}"
        if sections and mark != "!":
            lines += [f"    {line}" for line in _section_diff(old.get(name, ""), new.get(name, ""))]
    if not lines:
        lines.append("Only files have to be written anew." if plan.pending else "Nothing differs.")
    summary = _summary(plan)
    if summary or plan.pending:
        lines += ["", f"{summary or 'No bot changes'}. Apply with: {apply_with}"]
    return "\n".join(lines)


def _width(plan: Plan) -> int:
    names = [*plan.added, *plan.removed, *plan.problems, *(change.bot for change in plan.changed)]
    return max([len(name) for name in names] + [8])


def _entries(plan: Plan) -> Iterator[tuple[str, str, str, list[str]]]:
    for change in plan.changed:
        width = max(len(d.name) for d in change.differences)
        yield change.bot, "~", change.effect, [f"{d.name:<{width}}   {d.text}" for d in change.differences]
    for bot in plan.added:
        disabled = "" if plan.deployments[bot].autostart else "  (not enabled)"
        yield bot, "+", "new", [_launch(plan.deployments[bot]) + disabled]
    for bot in plan.removed:
        yield bot, "-", "removed", ["(will be stopped; data kept)"]
    for bot, text in sorted(plan.problems.items()):
        yield bot, "!", "problem", [text, *(["(stays as it is)"] if bot in plan.kept else [])]


def _section_diff(old: str, new: str) -> list[str]:
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]


def _summary(plan: Plan) -> str:
    effects = [change.effect for change in plan.changed]
    counts = [(effects.count(effect), effect) for effect in ("restart", "start", "stop", "live", "at its next start")]
    counts += [(len(plan.added), "new"), (len(plan.removed), "removed")]
    return ", ".join(f"{count} {name}" for count, name in counts if count)
