"""An operator's supervisord.conf, read as supervisor reads it (4.3.0, options.py:547). It is never written."""

from __future__ import annotations

import configparser
import glob
import os
import platform
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from multibot_plugin.errors import BadValue
from multibot_runner.protocol import BadFile, read_file

_FILE_CAP = 16 * 1024 * 1024
_LONGEST_SOCKET = 107  # sun_path
Sections = Mapping[str, Mapping[str, str]]


def new_parser() -> configparser.RawConfigParser:
    """Return a parser with the rules of supervisor's own."""
    return configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";", "#"))


class MainFile:
    """The file at ``path``. Everything is read when it is first asked for; raises BadValue then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def own(self) -> Sections:
        """What stands in the file itself, word for word. supervisorctl looks at nothing else."""
        return _sections(self._parsed)

    @cached_property
    def _parsed(self) -> configparser.RawConfigParser:
        parser = new_parser()
        _read(parser, self.path)
        if not parser.has_section("supervisord"):
            raise BadValue(f"{self.path}: no section [supervisord], so this is no configuration of supervisord")
        return parser

    @cached_property
    def included(self) -> tuple[Path, ...]:
        """The files that it includes, in supervisor's order. Of two sections [include] the last ``files`` holds."""
        found: list[str] = []
        for pattern in self.value("include", "files").split():
            found += sorted(glob.glob(os.path.join(self.path.parent, pattern)))
        return tuple(map(Path, found))

    @cached_property
    def sections(self) -> Sections:
        """What supervisord sees: the file with those that it includes, option by option the last one."""
        parser = new_parser()
        parser.read_dict(self.own)
        for path in self.included:
            if path.is_file() and os.access(path, os.R_OK):  # supervisord, too, leaves out what it cannot read
                _read(parser, path)
        return _sections(parser)

    def value(self, section: str, option: str) -> str:
        """Return an option of the file itself with its % expressions resolved; nothing where it is not there."""
        return self._resolved(section, option, self.own.get(section, {}).get(option, ""))

    def socket(self) -> Path:
        """Return the unix socket of this supervisord."""
        # Its own first: the files that it includes may be many, and this is asked with every command.
        file = _socket_in(self.own) or _socket_in(self.sections)
        if file:
            path = _path(self._resolved("unix_http_server", "file", file))
            if path.is_absolute() and "\0" not in file and len(os.fsencode(path)) <= _LONGEST_SOCKET:
                return path
            wanted = f"an absolute path of at most {_LONGEST_SOCKET} bytes"
            raise BadValue(f"{self.path}: file={path} in [unix_http_server] is not {wanted}")
        only = " (only [inet_http_server])" if "inet_http_server" in self.sections else ""
        raise BadValue(f"{self.path}: its supervisord has no unix socket{only}: "
                       "add [unix_http_server] with file=/run/supervisor.sock, and restart it")  # fmt: skip

    def login(self) -> str:
        """Return ``user:password`` where the socket wants one, as supervisorctl would give it, else nothing."""
        for section in ("supervisorctl", "unix_http_server"):
            user, password = self.value(section, "username"), self.value(section, "password")
            if user and password and not password.startswith("{SHA}"):
                return f"{user}:{password}"
        return ""

    def pidfile(self) -> Path | None:
        """Return where supervisord writes its pid; None where the file does not say."""
        path = _path(self.value("supervisord", "pidfile"))
        return path if path.is_absolute() else None

    def _resolved(self, section: str, option: str, value: str) -> str:
        names = {f"ENV_{name}": text for name, text in os.environ.items()}
        names |= {"here": str(self.path.parent), "host_node_name": platform.node()}
        try:
            return (value % names).strip()
        except (KeyError, ValueError, TypeError):
            text = f"{self.path}: {option} in [{section}] has a % expression that means nothing here"
            raise BadValue(text) from None


def _path(text: str) -> Path:
    """Return a path with its ``~`` resolved as supervisor does; as it is where there is no such user."""
    return Path(os.path.expanduser(text))


def _socket_in(sections: Sections) -> str:
    servers = (o for name, o in sections.items() if name.partition(":")[0] == "unix_http_server")
    return next((options["file"] for options in servers if "file" in options), "")


def _sections(parser: configparser.RawConfigParser) -> Sections:
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _read(parser: configparser.RawConfigParser, path: Path) -> None:
    real = path.resolve()
    try:
        parser.read_string(read_file(real, _FILE_CAP).decode(), str(path))
    except BadFile as error:
        raise BadValue(f"{path}: cannot be read: {str(error).removeprefix(f'{real}: ')}") from error
    except (UnicodeDecodeError, configparser.Error) as error:  # its words cite the line, which may hold a secret
        line = getattr(error, "lineno", None) or next((number for number, _ in getattr(error, "errors", ())), 0)
        where = f" (line {line})" if line else ""
        raise BadValue(f"{path}: supervisor could not understand this{where}") from None
