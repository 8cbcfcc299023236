"""Bots that were taken away past multibot: out of the rendered file, and then out of supervisord with it.

A directory that vanished, a mount that is missing, a file that somebody emptied: supervisord's parser takes it for
"no bots" and says nothing; the next ``supervisorctl update`` stops them all, and nobody would watch them any more.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from multibot_plugin.bots.files import deployed, read_text
from multibot_plugin.bots.render import read_rendered
from multibot_plugin.bots.unfinished import under_way
from multibot_plugin.errors import MultibotError
from multibot_plugin.home import Home

_MOST_NAMED = 5


def astray(home: Home, known: Collection[str]) -> str:
    """Return in words which bots were taken away, "" when none were; ``known``: those that supervisord has.

    What a command of ours is doing right now is left out.
    """
    rendered, why = set[str](), ""
    try:
        rendered |= _bots(read_text(home.rendered))
    except MultibotError as error:
        why = f" ({error})"
    ours = under_way(home)
    unnamed = sorted(set(known) - rendered - ours)
    gone = sorted(deployed(home) - rendered - ours - set(known))
    cure = f"{'take it away, then ' if why else ''}'{home.command('apply')}' brings them back"
    if gone:
        return f"supervisord lost {_named(gone)}, which {home.rendered} does not name any more{why}: {cure}"
    if unnamed:
        danger = "'supervisorctl update' would stop them"
        return f"{home.rendered} does not name {_named(unnamed)}{why}: {danger}{'; ' if why else ', '}{cure}"
    return ""


@lru_cache(maxsize=1)  # at every tick the same
def _bots(text: str) -> frozenset[str]:
    return frozenset(read_rendered(text))


def _named(bots: Collection[str]) -> str:
    names = ", ".join(list(bots)[:_MOST_NAMED])
    return f"{len(bots)} bot{'s' if len(bots) > 1 else ''} ({names}{', ...' if len(bots) > _MOST_NAMED else ''})"
