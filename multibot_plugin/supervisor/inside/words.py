"""What ``updateBots`` says of a bot: for those who answer, inside supervisord, and those who ask."""

from __future__ import annotations

ADDED, REPLACED, REMOVED = "added", "replaced", "removed"
LIVE_CHANGED, UNCHANGED = "live", "unchanged"
# It changed, but runs: to be stopped first; or is being stopped: ask again.
RUNNING, STOPPING = "running", "stopping"
FOREIGN = "foreign"  # a program of that name is somebody else's
