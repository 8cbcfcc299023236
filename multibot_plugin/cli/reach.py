"""Root installs: can a user id without an account run our interpreter and get to its directory?

The only proof is a real setuid followed by an exec, so that is what is done.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TIMEOUT_S = 30.0
# In the child: the directory first, then what a runner imports before anything else.
_PROBE = "import os, sys\ntry: os.chdir(sys.argv[1])\nexcept OSError: sys.exit(3)\nimport multibot_runner.protocol"
_NO_DIRECTORY = 3


def why_unreachable(uid: int, directory: Path) -> str | None:
    """Return why ``uid`` could not run a bot whose files lie in ``directory``, with the remedy; None when it could.

    Call it as root. ``directory`` need not exist yet: the nearest existing one above counts.
    """
    while not directory.is_dir():
        directory = directory.parent
    words = [sys.executable, "-P", "-c", _PROBE, str(directory)]
    try:
        done = subprocess.run(words, user=uid, group=uid, extra_groups=[], env={}, cwd="/", capture_output=True,
                              timeout=_TIMEOUT_S, check=False)  # fmt: skip
    except PermissionError:
        return _closed_interpreter(uid)
    except OSError as error:
        return f"user id {uid} cannot be used here ({error.strerror}): set bot_uid_range to ids that this system maps"
    except subprocess.TimeoutExpired:
        return f"{sys.executable} did not answer user id {uid} within {_TIMEOUT_S:.0f} s"
    if done.returncode == _NO_DIRECTORY:
        where = _closed(directory) or directory
        return (
            f"the bots' user ids cannot enter {where}: use a --home below a directory that others may enter (chmod o+x)"
        )
    return _closed_interpreter(uid) if done.returncode else None


def _closed_interpreter(uid: int) -> str:
    where = next(
        filter(None, map(_closed, (Path(sys.executable), Path(sys.executable).resolve(), Path(__file__)))), None
    )
    reason = f"{where} is closed to others" if where else "it or one of its modules is closed to others"
    return (
        f"user id {uid} cannot run {sys.executable} ({reason}): bots get user ids of their own, so put the virtual "
        "environment where others may read it, like /opt/multibot"
    )


def _closed(path: Path) -> Path | None:
    """Return the first directory on the way to ``path`` (or itself) that others may not enter or execute."""
    for place in (*reversed(path.parents), path):
        try:
            if not os.stat(place).st_mode & 0o001 and (place.is_dir() or (place == path and path.suffix != ".py")):
                return place
        except OSError:
            return place
    return None
