"""``python -P -m multibot_runner ID DIGEST``: what supervisord starts.

A bot's own interpreter runs this folder as ``python FOLDER ID DIGEST DESCRIPTOR``: then the folder becomes the
package ``multibot_runner`` and nothing that lies beside it can be imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def _become_package() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != folder]
    spec = importlib.util.spec_from_file_location(
        "multibot_runner", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["multibot_runner"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if not __package__:
        _become_package()
    from multibot_runner.main import main

    sys.exit(main(sys.argv[1:]))
