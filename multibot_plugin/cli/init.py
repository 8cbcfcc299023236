"""``multibot init``: prepare an installation."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import click

from multibot_plugin.cli.config import toml_value
from multibot_plugin.cli.output import Context, confirm, json_option, pass_context, say, show_json, step
from multibot_plugin.errors import MultibotError, Refused
from multibot_plugin.home import Home, check_owner
from multibot_plugin.settings import FLEET_SETTINGS, Settings
from multibot_runner.protocol import replace_file

ACCOUNT = "multibot"  # root installs: what listens on the network runs as this account
_DATABASE_ACCOUNT = "multibot-postgres"


@click.command()
@click.option("--into", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Live in the supervisord of this configuration file, which is read and never written.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option()
@pass_context
def init(context: Context, into: Path | None, yes: bool, json_wanted: bool) -> None:
    """Prepare an installation: directories, keys, the embedded database, multibot.toml and supervisord.conf.

    As root it goes to /etc/multibot, /var/lib/multibot, /run/multibot and /var/log/multibot, as a user to the XDG
    places, with --home DIR into that directory. What is there already is kept, so it can be run again at any time.

    With --into FILE there is no supervisord of our own: what FILE, the supervisord.conf of one that you have, needs is
    printed for you to paste.
    """
    from multibot_plugin.cli import beside
    from multibot_plugin.supervisor.beside import to_paste

    home, settings = context.home, context.settings
    check_owner(home)
    if into:
        home = beside.move(home, into.absolute())
    if os.geteuid() == 0:
        check_reach(home, settings)
    if sys.stdin.isatty() and sys.stderr.isatty() and not yes:
        announce(home, settings)
        confirm("Go on?", yes)
    made = prepare(home, settings)
    lacking = beside.lacking(home)
    if json_wanted:
        places = {name: str(getattr(home, name)) for name in ("config", "state", "run", "log")}
        show_json({**places, "database": "database_url" if settings["database_url"] else "embedded", "files": made,
                   "paste": to_paste(lacking)})  # fmt: skip
    if lacking:
        beside.show_lacking(home, lacking, json_wanted)
    else:
        first, *more = beside.next_steps(home, []) if home.foreign else [home.command("start")]
        say("\nThen: ".join([f"Ready. Next: {first}", *more]))


def check_reach(home: Home, settings: Settings) -> None:
    """Raise Refused when the bots' own user ids could not run our interpreter or reach their files."""
    from multibot_plugin.cli.reach import why_unreachable

    # The last of them: an earlier one may be a bot's, which could lay hands on a process of its own user id.
    if reason := why_unreachable(int(settings["bot_uid_range"].partition("-")[2]), home.state):
        raise Refused(reason)


def announce(home: Home, settings: Settings) -> None:
    """Say what will be made."""
    say(f"multibot init prepares {'a root' if os.geteuid() == 0 else 'your own'} installation:")
    for name, path in (
        ("configuration", home.config),
        ("state", home.state),
        ("runtime", home.run),
        ("logs", home.log),
    ):
        say(f"  {name:<14} {path}{'' if path.is_dir() else '  (new)'}")
    if home.foreign:
        say(f"  {'supervisord':<14} yours, of {home.foreign}, which stays as it is")
    url = settings["database_url"]
    say(f"  {'database':<14} {'the one of database_url' if url else 'PostgreSQL, embedded, below the state directory'}")
    if os.geteuid() == 0:
        accounts = f"{ACCOUNT}{'' if url else f', {_DATABASE_ACCOUNT}'}"
        say(f"  {'accounts':<14} {accounts}  (system accounts without login, made where missing)")


def prepare(home: Home, settings: Settings) -> dict[str, str]:
    """Make everything that is not there yet, saying so on stderr; what is there is kept.

    Returns what was found or made, by path: ``new``, ``kept`` and so on.
    Raises MultibotError where something cannot be made; running it again goes on from there.
    """
    from multibot_plugin.database.account import make_account
    from multibot_plugin.database.embedded import is_embedded, program
    from multibot_plugin.database.embedded import prepare as prepare_database
    from multibot_plugin.supervisor.conf import install_included, install_main, render_main

    make_places(home)
    found: dict[str, str] = {}
    try:
        found |= _keep(home.digest_key, lambda: secrets.token_bytes(32), 0o600)
        found |= _keep(home.toml, lambda: toml_text().encode(), 0o600)
    except OSError as error:  # a full disk names no file
        where = error.filename or f"{home.digest_key} or {home.toml}"
        raise MultibotError(f"cannot write {where}: {error.strerror}") from error
    notes: list[str] = []
    if os.geteuid() == 0:
        make_account(notes.append, ACCOUNT)
    embedded = None
    if is_embedded(settings):
        with step("database (embedded PostgreSQL)"):
            prepare_database(home, settings, notes.append)
        embedded = program(home, settings)
    for note in notes:
        say(f"    {note}")
    if home.foreign:
        install_included(home, embedded)
        return found | {str(path): "written" for path in (home.rendered, home.rendered_postgres) if path.exists()}
    return found | _main_file(home, render_main(home, embedded), lambda: install_main(home, embedded))


def make_places(home: Home) -> None:
    """Make the directories of an installation where they are missing (what is in /run is gone after a reboot).

    Raises MultibotError where one cannot be made.
    """
    from multibot_plugin.supervisor.conf import make_directories

    # A closed umask would keep the bots' user ids out of what they have to cross; modes are given one by one.
    before = os.umask(0o022)
    try:
        home.config.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        make_directories(home)
        home.journal.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        where = error.filename or f"a directory of {home.config}, {home.state}, {home.run} or {home.log}"
        raise MultibotError(f"{where} cannot be made: {error.strerror}") from error
    finally:
        os.umask(before)


def _keep(path: Path, content: Callable[[], bytes], mode: int) -> dict[str, str]:
    """Write a file that is not there; say which of the two it was."""
    new = not path.exists()
    if new:
        replace_file(path, content(), mode)
    return _tell(path, "new" if new else "kept")


def _tell(path: Path, word: str, why: str = "") -> dict[str, str]:
    say(f"  {path}  ({word}{f': {why}' if why else ''})")
    return {str(path): word}


def _main_file(home: Home, text: str, write: Callable[[], None]) -> dict[str, str]:
    """Write supervisord.conf; one that the operator changed is kept. What we wrote last is remembered by its hash."""
    path, record = home.supervisord_conf, home.state / "supervisord.conf.sha256"
    current = path.read_text() if path.is_file() else None
    ours = record.read_text().strip() if record.is_file() else ""
    if current == text:
        return _tell(path, "kept")
    if current is not None and _sha256(current) != ours:
        return _tell(path, "kept", "it was changed by hand; move it away and run this again for a new one")
    write()
    replace_file(record, f"{_sha256(text)}\n".encode())
    if current is None:
        return _tell(path, "new")
    return _tell(path, "written anew", "its interpreter, paths or database changed")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def toml_text() -> str:
    """Return a multibot.toml in which every setting of the fleet stands as a comment with its default."""
    import tomlkit

    lines = [
        "# multibot.toml: the settings of this installation. A line that begins with # shows a default.",
        "# Change it here or with 'multibot config set NAME VALUE'; 'multibot config show --origin' shows what holds.",
        "# A bot may have its own value of many of them: 'multibot bot set'.",
    ]
    table = ""
    for setting in sorted(FLEET_SETTINGS, key=lambda s: s.name.rpartition(".")[0]):
        prefix, _, key = setting.name.rpartition(".")
        if prefix != table:
            lines += ["", f"[{prefix}]"]
            table = prefix
        example = tomlkit.item(toml_value(setting, setting.default)).as_string()
        bounds = f" ({setting.bounds})" if setting.bounds else ""
        lines += ["", f"# {setting.help}{bounds}", f"# {key} = {example}"]
    return "\n".join(lines) + "\n"
