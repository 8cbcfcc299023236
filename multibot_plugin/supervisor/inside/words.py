"""Words that both sides use: those who answer, inside supervisord, and those who ask."""

from __future__ import annotations

import re
from enum import StrEnum

# The only part of what supervisor's parser says that cannot hold a value (a bad quote makes it cite a whole
# environment=).
WHERE = re.compile(r"in section '([^']{1,100})'(?: \(file: '([^']{1,300})'\))?\s*$")


class Word(StrEnum):
    """What ``updateBots`` says of a bot."""

    ADDED = "added"
    REPLACED = "replaced"
    REMOVED = "removed"
    LIVE_CHANGED = "live"
    UNCHANGED = "unchanged"
    RUNNING = "running"  # it changed, but runs: to be stopped first
    STOPPING = "stopping"  # ask again
    STANDING = "standing"  # replaced, and not started: it stands still by somebody's wish
    FINISHED = "finished"  # replaced, and not started: it has done what it should
    FOREIGN = "foreign"  # a program of that name is somebody else's
