"""``multibot sandbox``: a local Telegram Bot API server, and playing its users."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from multibot_plugin.cli.init import ACCOUNT
from multibot_plugin.cli.output import (
    Column,
    Context,
    clean,
    complete_bot,
    count,
    duration,
    json_option,
    output_option,
    pass_context,
    say,
    show,
    show_json,
    show_rows,
)
from multibot_plugin.errors import MultibotError, NoSuchBot
from multibot_plugin.home import Home
from multibot_plugin.kinds import SECONDS
from multibot_plugin.sandbox import client
from multibot_plugin.sandbox.client import NoAnswer, Sandbox
from multibot_plugin.sandbox.model import Entry
from multibot_runner.protocol import BadFile, read_file

RECORD = "sandbox.json"
_LEAST_SPEAKERS = 18  # columns for "you → greeter"


class Seconds(click.ParamType[float]):
    """A duration as in the settings: 30s, 5m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(SECONDS.read(value))
        except ValueError:
            self.fail(f"{value!r} is not {SECONDS.expected}", param, ctx)


_url = click.option("--url", help="The sandbox (default: the one started with this home).")
_chat = click.option("--chat", type=int, help="The chat's id; below 0 a group (default: Ada's private chat).")
_ANSWER = "What was said and answered, as JSON."
_wait = click.option("--wait", type=Seconds(), default="10s", show_default=True,
                     help="How long to wait for the answer; 0: not at all.")  # fmt: skip


@click.group(no_args_is_help=True)
def sandbox() -> None:
    """Run a local Telegram Bot API server and play its users.

    Bots that have its URL as bot_api_url live in it: nothing leaves this machine. BOT is a bot's id in this home,
    or its number or username in the sandbox.
    """


@sandbox.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: the last one if free, else any.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--record", type=click.Path(dir_okay=False), help="File for its URL (default: in the home).")
@click.option("--strict", is_flag=True, help="Accept registered tokens only, not every well-formed one.")
@click.option("--real-pace", is_flag=True, help="Hold repeated polls back for 3 s, as Telegram does.")
@click.option("--user", help=f"As root: the account to run as (default: {ACCOUNT}, made where it is missing).")
@pass_context
def serve(context: Context, /, record: str | None, user: str | None, **options: Any) -> None:
    """Serve until interrupted, and say at which URL.

    Any token works there. 'multibot config set bot_api_url URL' points the bots at it, 'multibot sandbox say BOT TEXT'
    speaks to one. A webhook may be any http or https URL of this machine (Telegram itself wants https and one of the
    ports 443, 80, 88, 8443); what it answers is told by getWebhookInfo, and what it refuses comes again.

    A sandbox begins without chats but Ada's (1001): until somebody spoke in a chat, bots get "chat not found" for it,
    alerts too. 'multibot sandbox say BOT --chat ID --wait 0 /start', with any bot of this home, makes it known.
    """
    from multibot_plugin.sandbox.process import Options, run

    make = user is None and os.geteuid() == 0
    record = record or str(context.home.run / RECORD)
    run(Options(record=record, user=ACCOUNT if make else user, make_user=make, **options))


@sandbox.command("say")
@click.argument("bot", shell_complete=complete_bot)
@click.argument("text", nargs=-1, required=True)
@_chat
@click.option("--as", "user", help="Name of the user who speaks.")
@_wait
@json_option(_ANSWER)
@_url
@pass_context
def say_to(
    context: Context, bot: str, text: tuple[str, ...], chat: int | None, user: str | None, wait: float,
    json_wanted: bool, url: str | None,
) -> None:  # fmt: skip
    """Say TEXT to a bot and show its answer."""
    there = _sandbox(context, url)
    said = there.say(_address(context, there, bot), " ".join(text), chat, user)
    _show_answer(context, there, said, wait, json_wanted)


@sandbox.command()
@click.argument("bot", shell_complete=complete_bot)
@click.argument("button")
@_chat
@click.option("--message", type=int, help="Number of the message (default: the newest with this button).")
@_wait
@json_option(_ANSWER)
@_url
@pass_context
def tap(
    context: Context, bot: str, button: str, chat: int | None, message: int | None, wait: float,
    json_wanted: bool, url: str | None,
) -> None:  # fmt: skip
    """Tap an inline button, named by its text or data, and show the answer."""
    there = _sandbox(context, url)
    tapped = there.tap(_address(context, there, bot), button, chat, message)
    _show_answer(context, there, tapped, wait, json_wanted)


@sandbox.command()
@click.argument("bot", required=False, shell_complete=complete_bot)
@click.option("--follow", "-f", is_flag=True, help="Go on until interrupted.")
@click.option("--after", type=int, default=0, help="Only entries after this number.")
@output_option(forms=("table", "json", "jsonl"))
@_url
@pass_context
def transcript(
    context: Context, bot: str | None, follow: bool, after: int, form: str, url: str | None
) -> None:  # fmt: skip
    """Show what users said and bots sent, in order."""
    there = _sandbox(context, url)
    address = _address(context, there, bot) if bot else None
    names = _names(context.home)
    entries: Iterable[Entry] = there.follow(address, after) if follow else there.transcript(address, after)
    if not follow:
        entries = _called(entries, names)
    if form == "json" and not follow:
        show_json({"entries": [asdict(entry) for entry in entries]})
        return
    page = _Page(() if follow else entries)
    for entry in entries:
        (entry,) = _called((entry,), names)
        if form == "table":
            page.show(entry)
        else:
            show_rows("jsonl", "entries", [asdict(entry)], [])


@sandbox.command()
@click.argument("bot", required=False, shell_complete=complete_bot)
@click.option("--all", "all_bots", is_flag=True, help="All bots instead of one.")
@click.option("--hang", "kind", flag_value="hang", help="Calls get no answer (before it is over).")
@click.option("--drop", "kind", flag_value="drop", help="The connection is closed without an answer.")
@click.option("--lose", "kind", flag_value="lose", help="The call is carried out, its answer lost.")
@click.option("--status", type=click.IntRange(400, 599), help="Calls fail with this HTTP status (429, 502, ...).")
@click.option("--clear", "kind", flag_value="clear", help="End it.")
@click.option("--for", "for_s", type=Seconds(), help="End after this time (like 60s).")
@click.option("--times", type=click.IntRange(min=1), help="End after so many calls.")
@click.option("--method", default="getUpdates", show_default=True, help="The method that fails; 'all': every one.")
@click.option("--retry-after", type=int, help="Seconds that a 429 asks to wait.")
@json_option()
@_url
@pass_context
def fault(
    context: Context, /, bot: str | None, all_bots: bool, kind: Any, status: int | None, json_wanted: bool,
    url: str | None, **options: Any,
) -> None:  # fmt: skip
    """Let calls of a bot go wrong, or right again (--clear).

    For a time (--for), a number of calls (--times), or until --clear. It also hits the poll that is open.
    """
    if (bot is None) != all_bots:
        raise click.UsageError("give a bot, or --all")
    if (kind is None) == (status is None):
        raise click.UsageError("give one of --hang, --drop, --lose, --status, --clear")
    there = _sandbox(context, url)
    address = _address(context, there, bot) if bot else None
    who = bot or "all bots"
    if kind == "clear":
        ended = there.clear(address)
        if json_wanted:
            show_json({"fault": {"bot": bot, "cleared": ended}})
        say(f"{who}: {count(ended, 'fault')} ended")
        return
    method = None if options["method"] == "all" else options["method"]
    there.fault(
        address, status=status, hang=kind == "hang", drop=kind == "drop", lose=kind == "lose", method=method,
        for_s=options["for_s"], times=options["times"], retry_after=options["retry_after"],
    )  # fmt: skip
    if json_wanted:
        show_json({"fault": {"bot": bot, "kind": kind or "status", "status": status, **options}})
    end = context.home.command(f"sandbox fault {bot or '--all'} --clear")
    say(f"{who}: {_fault_text(status or kind, options)} (to end it: {end})")


def _fault_text(kind: str | int, options: Mapping[str, Any]) -> str:
    what = {"hang": "hangs", "drop": "is dropped", "lose": "loses its answer"}.get(str(kind), f"fails with {kind}")
    calls = "every call" if options["method"] == "all" else options["method"]
    until = f" for {duration(options['for_s'])}" if options["for_s"] is not None else ""
    times = f", {options['times']} times" if options["times"] else ""
    return f"{calls} {what}{until}{times}"


@sandbox.command()
@click.argument("bot", shell_complete=complete_bot)
@json_option()
@_url
@pass_context
def revoke(context: Context, bot: str, json_wanted: bool, url: str | None) -> None:
    """Revoke a bot's token: every call with it gets 401.

    Any new token with the same number is its next one, as @BotFather would give it.
    """
    there = _sandbox(context, url)
    address = _address(context, there, bot)
    there.revoke(address)
    number = there.counters(address).number
    if json_wanted:
        show_json({"bot": {"name": bot, "number": number, "revoked": True}})
    say(f"{bot}: its token is rejected from now on; the next one is any that begins with {number}:")


@sandbox.command()
@output_option()
@_url
@pass_context
def bots(context: Context, form: str, url: str | None) -> None:
    """Show the bots that the sandbox has seen, with their counters."""
    there = _sandbox(context, url)
    called = _names(context.home)
    rows = [asdict(view) | {"name": called.get(view.number, view.name)} for view in there.bots()]
    names = {"number": "NUMBER", "polls_open": "POLLS OPEN", "polls": "POLLS", "conflicts": "CONFLICTS",
             "pending": "PENDING", "faults": "FAULTS"}  # fmt: skip
    columns = [Column("BOT", lambda row: str(row["name"]))]
    for key, title in names.items():
        shown = "full" if key in ("polls", "number") else "always"
        columns.append(Column(title, lambda row, key=key: str(row[key]), right=True, shown=shown))  # type: ignore[misc, arg-type]
    show_rows(form, "bots", rows, columns, identity="name")


def _sandbox(context: Context, url: str | None) -> Sandbox:
    start = context.home.command("sandbox serve")
    return Sandbox(url, start=start) if url else client.find(context.home.run / RECORD, start)


def _address(context: Context, there: Sandbox, bot: str) -> str:
    """Return the number of a bot of this home, made known to the sandbox by its id; else ``bot`` as it is.

    Raises NoSuchBot when neither knows it.
    """
    home = context.home
    digests = _digests(home)
    if bot in digests:
        return str(there.introduce(_token_number(home.bot(bot).token(digests[bot]), bot), bot).number)
    views = there.bots()
    for view in views:
        if bot.removeprefix("@") in (str(view.number), view.name, view.username):
            return str(view.number)
    raise NoSuchBot(bot, [*digests, *(view.name for view in views)])


def _names(home: Home) -> dict[int, str]:
    """Return the ids of this home's bots by their numbers: in a view they are called as everywhere in multibot."""
    names = {}
    for bot, digest in _digests(home).items():
        with suppress(MultibotError):
            names[_token_number(home.bot(bot).token(digest), bot)] = bot
    return names


def _token_number(token: Path, bot: str) -> int:
    """Return the number before the colon; the token itself, perhaps a real one, is nothing for the sandbox."""
    try:
        return int(read_file(token).decode().partition(":")[0])
    except (BadFile, ValueError):
        raise MultibotError(f"the token of {bot!r} cannot be read: give its number instead of its id") from None


def _digests(home: Home) -> dict[str, str]:
    """Return the bots of this home with what is rendered of them; none where nothing is (or can be read)."""
    from multibot_plugin.bots.render import read_rendered

    try:
        return {bot: section.digest for bot, section in read_rendered(Path(home.rendered).read_text()).items()}
    except (OSError, UnicodeDecodeError):
        return {}


def _show_answer(context: Context, there: Sandbox, said: Entry, wait_s: float, json_wanted: bool) -> None:
    """Show what was said, then what the bot sends into that chat: all that comes at once.

    Raises MultibotError, which names the bot's log, when nothing comes.
    """
    names = _names(context.home)
    entries = _called((said,), names)
    page = _Page()
    if not json_wanted:
        page.show(entries[0])
    try:
        for entry in _answers(there, said, wait_s):
            entries += _called((entry,), names)
            if not json_wanted:
                page.show(entries[-1])
    except NoAnswer:
        bot = entries[0].name
        see = f": see '{context.home.command(f'logs {bot}')}'" if said.bot in names else ""
        raise MultibotError(f"{bot} has not answered within {wait_s:g} s{see}") from None
    if json_wanted:
        show_json({"entries": [asdict(entry) for entry in entries]})


def _answers(there: Sandbox, said: Entry, wait_s: float) -> Iterator[Entry]:
    if not wait_s:
        return
    answer = there.wait_for(lambda e: e.by == "bot" and e.chat == said.chat, wait_s, bot=str(said.bot), after=said.n)
    yield answer
    yield from there.follow(str(said.bot), answer.n, 0.2)


def _called(entries: Iterable[Entry], names: Mapping[int, str]) -> list[Entry]:
    """Return entries with the bots' names of this home."""
    return [replace(entry, name=names.get(entry.bot, entry.name)) for entry in entries]


class _Page:
    """Prints entries in two columns; the first is as wide as the longest pair of speakers so far."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._width = max([_LEAST_SPEAKERS, *(len(clean(entry.speakers)) for entry in entries)])

    def show(self, entry: Entry) -> None:
        speakers = clean(entry.speakers)
        self._width = max(self._width, len(speakers))
        for number, line in enumerate(entry.shown.splitlines() or [""]):
            show(f"{speakers if number == 0 else '':<{self._width}}  {clean(line)}".rstrip())
