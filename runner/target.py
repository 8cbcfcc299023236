"""What a script's target says: ``/path/bot.py`` or ``-m PACKAGE``, and arguments, as a shell would split them."""

from __future__ import annotations

import os
import shlex
from typing import List


def words_of(target: str) -> List[str]:
    """Return the words of a script's target; raises ValueError when it cannot be split.

    A path may hold blanks and quotes: a target that is as a whole the path of something that exists is this one word.
    """
    if target.startswith("/") and os.path.exists(target):
        return [target]
    return shlex.split(target)
