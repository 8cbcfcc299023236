"""supervisor's own parser, run as a child process: reads a configuration on stdin, writes what it understood as JSON.

A child, because the parser ends its process on some errors, reads the whole environment, and imports the plugins that
the configuration names. Started by multibot_plugin.supervisor.conf; argv[1] is the directory that ``%(here)s`` means.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
from typing import Any

from supervisor.options import ServerOptions


def parse(text: str, here: str) -> list[dict[str, Any]]:
    """Return the groups in ``text``, each with its programs; raises ValueError with the parser's own words."""
    options = ServerOptions()
    options.here = here
    options.configfile = io.StringIO(text)
    options.process_config(do_usage=False)
    return [
        {
            "group": group.name,
            "programs": [
                {"name": p.name, "command": p.command, "autostart": bool(p.autostart), "stopwaitsecs": p.stopwaitsecs}
                for p in group.process_configs
            ],
        }
        for group in options.process_group_configs
    ]


def main() -> int:
    try:
        answer: dict[str, Any] = {"groups": parse(sys.stdin.read(), sys.argv[1])}
    except Exception as error:
        # Not the traceback: its lines may quote a value. The place is enough to find a fault of ours.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        answer = {"error": f"{error}", "kind": type(error).__name__, "place": f"{frame.name}:{frame.lineno}"}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
