"""``multibot config``: the settings of the fleet in multibot.toml."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from multibot_plugin.cli.output import (
    Column,
    Context,
    count,
    json_option,
    output_option,
    pass_context,
    say,
    show,
    show_json,
    show_rows,
)
from multibot_plugin.errors import BadValue, MultibotError, did_you_mean
from multibot_plugin.home import no_installation
from multibot_plugin.kinds import COUNT, DATABASE_URL, SIZE, URL
from multibot_plugin.settings import (
    EFFECTS,
    FLEET_SETTINGS,
    SETTINGS,
    Setting,
    Settings,
    find,
    flatten,
    load,
    read_value,
)
from multibot_runner.protocol import TOKEN, BadFile, read_file, replace_file


@click.group(no_args_is_help=True)
def config() -> None:
    """Show and change the settings of the fleet (multibot.toml).

    A setting comes from the command line, else from MULTIBOT_<SETTING> (dots become __), else from multibot.toml,
    else from the default. A bot's own settings: 'multibot bot set'.
    """


def shown_value(setting: Setting, value: Any) -> str:
    """Return a value as a person reads it; a password in a URL is masked."""
    text = setting.kind.show(value)
    if setting.kind in (DATABASE_URL, URL):
        text = re.sub(r"(//[^:/@]*):[^@]*@", r"\1:***@", text)
        text = re.sub(r"(password=)[^&]*", r"\1***", text)
    return text


def fleet_setting(name: str) -> Setting:
    """Return the fleet's setting of this name; raises BadValue, with the nearest name, also for a bot's own."""
    names = [s.name for s in FLEET_SETTINGS]
    if name not in {s.name for s in SETTINGS}:
        raise BadValue(f"no setting {name!r}{did_you_mean(name, names)}: multibot config show")
    setting = find(name)
    if setting.scope == "bot":
        raise BadValue(
            f"{name} is a setting of a bot, not of the fleet: multibot bot set ID --{name.replace('_', '-')}"
        )
    return setting


@config.command("show")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--origin", is_flag=True, help="Say where each value comes from and when a change takes effect.")
@output_option()
@pass_context
def show_settings(context: Context, names: tuple[str, ...], origin: bool, form: str) -> None:
    """Show the settings that hold now. NAME is a setting or the beginning of one (alerts)."""
    chosen = [s for s in FLEET_SETTINGS if not names or any(f"{s.name}.".startswith(f"{n}.") for n in names)]
    if not chosen:
        fleet_setting(names[0])
    rows = [_row(setting, context.settings) for setting in chosen]
    columns = [Column("SETTING", lambda row: row["name"]), Column("VALUE", lambda row: row["shown"] or "(none)")]
    if origin or form == "wide":
        columns.append(Column("ORIGIN", lambda row: _origin(row, context.home.toml)))
        columns.append(Column("CHANGE TAKES EFFECT", lambda row: EFFECTS[row["applies"]]))
    columns.append(Column("WHAT FOR", lambda row: row["help"], shown="wide" if origin else "full"))
    show_rows(form, "settings", rows, columns, identity="name")


def _row(setting: Setting, settings: Settings) -> dict[str, Any]:
    value = settings[setting.name]
    text = shown_value(setting, value)
    return {
        "name": setting.name, "value": _plain(setting, value), "shown": text,
        "default": setting.default, "origin": settings.origins[setting.name], "applies": setting.applies,
        "variable": setting.variable, "help": setting.help, "bounds": setting.bounds,
    }  # fmt: skip


def _plain(setting: Setting, value: Any) -> Any:
    return shown_value(setting, value) if setting.kind in (DATABASE_URL, URL) else value


def _origin(row: Mapping[str, Any], toml: Path) -> str:
    places: dict[str, str] = {"environment": row["variable"], "file": str(toml), "flag": "command line"}
    return places.get(row["origin"], "default")


@config.command("get")
@click.argument("name")
@output_option(forms=("table", "json"))
@pass_context
def get(context: Context, name: str, form: str) -> None:
    """Print the value of one setting (a password in a URL is masked)."""
    setting = fleet_setting(name)
    if form == "json":
        show_rows("json", "settings", [_row(setting, context.settings)], [])
    else:
        show(shown_value(setting, context.settings[name]))


# A value may begin with "-": the id of a group, or a mistake that is worth a better word than "no such option".
@config.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value")
@json_option()
@pass_context
def set_value(context: Context, name: str, value: str, json_wanted: bool) -> None:
    """Write one setting into multibot.toml, after checking it; comments stay."""
    setting = fleet_setting(name)
    checked = read_value(setting, value)
    toml = context.home.toml
    load(toml, environ={})  # a broken file is reported, not made worse
    old = toml.read_text() if toml.is_file() else ""
    new = with_setting(old, setting, checked)
    changed = flatten(tomllib.loads(new)) != flatten(tomllib.loads(old))
    if changed and not toml.parent.is_dir():
        raise no_installation(context.home)
    if changed:
        try:
            replace_file(toml, new.encode(), mode=toml.stat().st_mode & 0o777 if toml.is_file() else 0o600)
        except OSError as error:
            raise MultibotError(f"cannot write {toml}: {error.strerror}") from error
    if json_wanted:
        applies = {"applies": setting.applies, "overridden": setting.variable in os.environ}
        show_json({"setting": {"name": name, "value": _plain(setting, checked), "changed": changed, **applies}})
    if not changed:
        say(f"{name} was {shown_value(setting, checked) or '(none)'} already")
        return
    say(f"{name} = {shown_value(setting, checked) or '(none)'} in {toml}")
    say(f"  {effect(context, setting)}")
    if setting.variable in os.environ:
        say(f"  now overridden by {setting.variable} in this environment")
    if name.startswith("alerts.telegram."):
        _warn_of_alerts(load(toml))


def _warn_of_alerts(settings: Settings) -> None:
    """Say what keeps alerts from arriving, if something does; the setting stands all the same."""
    from multibot_plugin.cli.alerting import ask_telegram

    file = settings["alerts.telegram.token_file"]
    found = _token_file_problems(Path(file)) if file else []
    try:
        if not found:
            ask_telegram(settings)
    except MultibotError as error:
        found.append(str(error))
    for problem in found:
        say(f"  warning: {problem}")


_STEPS = {"restart": ("apply",), "live": ("apply",), "installation": ("stop", "init", "start")}


def effect(context: Context, setting: Setting) -> str:
    """Return when a change takes effect, with what to type."""
    steps = " && ".join(context.home.command(step) for step in _STEPS.get(setting.applies, ()))
    alerts = "for alerts at the monitor's next tick, for bots " if setting.name == "bot_api_url" else ""
    return f"takes effect {alerts}{EFFECTS[setting.applies]}{f': {steps}' if steps else ''}"


def with_setting(text: str, setting: Setting, value: Any) -> str:
    """Return the TOML ``text`` with this setting changed and all else as it was.

    A setting that stands there as a comment (``# name = default``) takes that line's place.
    """
    import tomlkit

    plain = toml_value(setting, value)
    *tables, key = setting.name.split(".")
    if setting.name not in flatten(tomllib.loads(text)):
        assignment = f"{key} = {tomlkit.item(plain).as_string()}"
        replaced = _replace_comment(text, ".".join(tables), key, assignment)
        if replaced is not None:
            return replaced
    document = tomlkit.parse(text)
    table: Any = document
    for name in tables:
        if name not in table:
            table[name] = tomlkit.table(is_super_table=name != tables[-1])
        table = table[name]
    table[key] = plain
    return str(tomlkit.dumps(document))


def toml_value(setting: Setting, value: Any) -> Any:
    """Return a checked value as it stands in multibot.toml: ``256MB``, ``30s``, a number, a text."""
    if setting.kind is COUNT or (setting.kind is SIZE and not value):
        return value
    return setting.kind.show(value)


def _replace_comment(text: str, table: str, key: str, assignment: str) -> str | None:
    current = ""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if header := re.fullmatch(r"\[([^\[\]]+)\]\s*(#.*)?\n?", line):
            current = header[1].strip()
        elif current == table and re.match(rf"#\s*{re.escape(key)}\s*=", line):
            lines[number] = f"{assignment}\n"
            return "".join(lines)
    return None


@config.command("validate")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option("The result as JSON.")
@pass_context
def validate(context: Context, file: Path | None, json_wanted: bool) -> None:
    """Check multibot.toml (or FILE) and what it refers to; exit 2 when something is wrong."""
    toml = file.absolute() if file else context.home.toml
    if not toml.is_file():
        raise BadValue(f"{toml}: no such file")
    settings = load(toml)
    found = problems(settings)
    own = sum(origin == "file" for origin in settings.origins.values())
    if json_wanted:
        show_json({"file": str(toml), "ok": not found, "problems": found, "settings": own})
    for problem in found[1:]:
        say(f"multibot: {problem}")
    if found:
        raise BadValue(found[0])
    say(f"{toml}: ok, {count(own, 'setting')} set here")


def problems(settings: Settings) -> list[str]:
    """Return what is wrong with settings that are fine each by itself, one line each."""
    found = []
    file, chat = settings["alerts.telegram.token_file"], settings["alerts.telegram.chat_id"]
    if bool(file) != bool(chat):
        missing = "chat_id" if file else "token_file"
        found.append(f"alerts.telegram.{missing} is missing: alerts go to the log only")
    if file:
        found += _token_file_problems(Path(file))
    if settings["memory_clear_percent"] >= settings["memory_warning_percent"]:
        found.append("memory_clear_percent must be below memory_warning_percent")
    return found


def _token_file_problems(file: Path) -> list[str]:
    try:
        text = read_file(file, cap=4096).decode().strip()
    except (BadFile, UnicodeDecodeError) as error:
        return [f"alerts.telegram.token_file: {error}"]
    if not TOKEN.fullmatch(text):
        return [f"alerts.telegram.token_file: {file} holds no token like one from @BotFather"]
    if file.stat().st_mode & 0o077:
        return [f"alerts.telegram.token_file: others may read {file}: chmod 600 {file}"]
    return []
