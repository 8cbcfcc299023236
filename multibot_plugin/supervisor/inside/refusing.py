"""Which supervisor multibot works in, and how a call is refused. Loaded inside supervisord, too."""

from __future__ import annotations

import re
from types import MethodType
from typing import Any, NoReturn

from supervisor.xmlrpc import RPCError

from multibot_plugin.supervisor.inside.requests import Refusal

LEAST = "4.3.0"


def too_old(version: str) -> str:
    """Return why multibot does not work in this version of supervisor, nothing when it does."""
    match = re.match(r"(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) >= (4, 3):
        return ""
    return f"supervisor {version} is too old, multibot needs {LEAST}"


def fault(refusal: Refusal) -> RPCError:
    """Return what supervisord answers a refused call with."""
    error = RPCError(refusal.code)
    error.text = refusal.text  # RPCError itself calls every code of ours UNKNOWN
    return error


class RefusingInterface:
    """What a supervisord in which multibot cannot work gets instead of the methods: each says why there is none.

    supervisord itself goes on: an exception in the factory would end it, and with it every program of its operator.
    """

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return MethodType(RefusingInterface._refuse, self)

    def _refuse(self, *arguments: Any) -> NoReturn:
        raise fault(self._refusal)
