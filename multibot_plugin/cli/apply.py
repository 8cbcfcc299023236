"""``multibot apply``: the running bots become what the database says."""

from __future__ import annotations

import click

from multibot_plugin.cli.applying import apply_now, as_json, say_environment, say_result, summary
from multibot_plugin.cli.output import Context, pass_context, say, show_json


@click.command()
@click.option("--yes", is_flag=True, help="Also when that removes every bot.")
@click.option("--json", "json_wanted", is_flag=True, help="The plan and what was done, as JSON.")
@pass_context
def apply(context: Context, yes: bool, json_wanted: bool) -> int:
    """Bring the running bots to what the database says.

    Exactly the bots that changed are started, restarted, stopped or removed. A bot whose row cannot be used stays as
    it is; the others are applied, and the exit code is 1. To see it first: 'multibot render-config --diff'.
    """
    say_environment(context)
    result = apply_now(context, force=yes)
    say_result(context, result)
    if json_wanted:
        show_json({**as_json(result), "text": summary(result)})
    else:
        say(summary(result))
    return 0 if result.ok else 1
