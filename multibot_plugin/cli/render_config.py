"""``multibot render-config``: what supervisord would be told, and what that changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from multibot_plugin.cli.applying import plan_now
from multibot_plugin.cli.output import Context, pass_context, say, show, show_json

if TYPE_CHECKING:
    from multibot_plugin.bots.plan import Plan

PENDING = 10


@click.command("render-config")
@click.option("--diff", is_flag=True, help="What differs from what is rendered; exit 10 when something does.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it, and the settings it names.")
@click.option("--yes", is_flag=True, help="With --output: also when that removes every bot.")
@click.option("--json", "json_wanted", is_flag=True, help="What differs, as JSON.")
@pass_context
def render_config(context: Context, diff: bool, output: Path | None, yes: bool, json_wanted: bool) -> int:
    """Show the sections that supervisord would get for the bots in the database.

    Nothing is written without --output, and nothing is started or stopped with it: that is for 'multibot apply', or
    for supervisorctl's reread and update. A bot whose row cannot be used keeps the section it has, and the exit code
    is 1.
    """
    if output is not None and (diff or json_wanted):
        raise click.UsageError("--output writes, --diff and --json only look: one of them")
    plan = plan_now(context)
    if output is not None:
        return _write(context, plan, output, yes)
    if diff or json_wanted:
        return _differences(context, plan, json_wanted)
    show(plan.file.text.rstrip("\n"))
    return _problems(plan)


def _write(context: Context, plan: Plan, output: Path, force: bool) -> int:
    from multibot_plugin.bots.apply import write

    target = output.absolute()
    write(context.home, plan, target, force=force)
    if target == context.home.rendered:
        say(f"written: {target}; for supervisord: 'supervisorctl -c {context.home.supervisord_conf} update'")
    else:
        say(f"written: {target}")
    return _problems(plan)


def _differences(context: Context, plan: Plan, json_wanted: bool) -> int:
    from multibot_plugin.bots.plan import show as as_text

    if json_wanted:
        show_json(plan.as_json())
    else:
        show(as_text(plan, context.home.command("apply"), sections=True))
    if plan.pending:
        return PENDING
    return 1 if plan.problems else 0


def _problems(plan: Plan) -> int:
    for bot, problem in sorted(plan.problems.items()):
        say(f"{bot}: left as it is: {problem}")
    return 1 if plan.problems else 0
