"""multibot in an operator's own supervisord: what its file needs, and whether that supervisord will do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import multibot_plugin
from multibot_plugin.home import Home, user_name
from multibot_plugin.supervisor.client import Supervisor
from multibot_plugin.supervisor.conf import render_sections
from multibot_plugin.supervisor.mainfile import MainFile, Sections, new_parser

_LISTENER, _INTERFACE = "eventlistener:multibot", "rpcinterface:multibot"
_MISSING = "is missing"
# Its other options (how long it may take to stop, its log) are the operator's.
_FIXED = ("command", "environment", "autostart", "autorestart")
_NUMBERS = ("buffer_size", "priority", "startsecs", "startretries", "stopwaitsecs")
_OURS = ("supervisor.rpcinterface_factory", "status", "state")  # what is no switch in that section
_IMPORT_TIMEOUT_S = 30.0
# Both of ours that are loaded there: inside supervisord, and in supervisorctl.
_IMPORT = "import multibot_plugin.supervisor.rpc, multibot_plugin.supervisor.ctl"
_PLAIN_PRIORITY = -1  # supervisor's default for an eventlistener
_STOCK = ("[rpcinterface:supervisor]\n"
          "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What the file has to hold in one section. ``problem``: what is wrong with it; nothing where it is right.

    ``text``: what belongs there; nothing where a line that is there has to be mended.
    """

    section: str
    problem: str
    text: str

    @property
    def blocks(self) -> bool:
        """Whether nothing works without it: a listener that is there does its work, if less well than it could."""
        return self.problem == _MISSING or bool(self.problem and self.text and self.section != _LISTENER)

    @property
    def to_mend(self) -> bool:
        """Whether a line is wrong as such: no supervisord should be started with the file as it is."""
        return bool(self.problem and not self.text)


def parts(home: Home, python: str = sys.executable) -> list[Part]:
    """Return every part that ``home.main_file`` has to hold; raises BadValue for a file that cannot be read."""
    file = home.main_file
    assert file is not None
    parser = new_parser()
    parser.read_string(render_sections(home, python))
    found = [Part("include", _include_problem(home, file), _include_text(home, file))]
    stock = "" if "rpcinterface:supervisor" in file.sections else _MISSING
    found.append(Part("rpcinterface:supervisor", stock, _STOCK))
    mistakes = {_INTERFACE: wrong_switch(file.sections.get(_INTERFACE, {})), _LISTENER: _wrong_number(file)}
    for name in parser.sections():
        if mistake := mistakes.get(name):
            found.append(Part(name, mistake, ""))
            continue
        wanted = dict(parser[name])
        text = "".join(f"{option}={value}\n" for option, value in wanted.items())
        found.append(Part(name, _section_problem(name, wanted, file), f"[{name}]\n{text}"))
    return found


def to_paste(found: list[Part]) -> str:
    """Return what the file lacks, as it can be appended to it as a whole; nothing when it lacks nothing."""
    return "\n".join(part.text for part in found if part.problem and part.text)


def to_restart(home: Home) -> str:
    """Return what a person types (or does first) so that the operator's supervisord begins anew with its file."""
    wrong = any(part.to_mend for part in parts(home))
    return f"mend {home.foreign} first ({home.command('doctor')} says what)" if wrong else home.to_restart


def wrong_switch(options: Mapping[str, str]) -> str:
    """Return what is wrong with the switches among the options of [rpcinterface:multibot]; nothing if nothing is."""
    from multibot_plugin.supervisor.inside.parts import Parts

    # What a % expression stands for, only supervisord knows.
    switches = {name: text for name, text in options.items() if name not in _OURS and "%" not in text}
    _, wrong = Parts.of(switches)
    return "; ".join(wrong)


def without_switches(text: str) -> str:
    """Return a supervisord.conf without the switches of [rpcinterface:multibot], which are the operator's to set."""
    from multibot_plugin.supervisor.inside.parts import Parts

    kept, section = [], ""
    for line in text.splitlines():
        section = line.strip() if line.startswith("[") else section
        if section != f"[{_INTERFACE}]" or line.partition("=")[0].strip() not in Parts.__dataclass_fields__:
            kept.append(line)
    return "\n".join(kept)


def other_user(supervisor: Supervisor) -> str:
    """Return that this supervisord runs as somebody else than us, nothing when it does not."""
    uid = os.stat(f"/proc/{supervisor.pid()}").st_uid
    if uid != os.geteuid():
        who, we = (user_name(u) or f"user id {u}" for u in (uid, os.geteuid()))
        return f"this supervisord runs as {who}, the installation belongs to {we}: both have to be the same user"
    return ""


def interpreter(supervisor: Supervisor) -> str:
    """Return the interpreter of a supervisord as it was called: the file that it is does not say which venv."""
    import psutil

    process = psutil.Process(supervisor.pid())
    called = process.cmdline()[0]
    return called if called.startswith("/") else process.exe()


def cannot_import(python: str) -> str:
    """Return why the interpreter of an operator's supervisord could not load our plugins, nothing when it could.

    It runs as us: call it for a supervisord that does so, too (``other_user``).
    """
    words = [python, "-P", "-c", _IMPORT]
    try:
        done = subprocess.run(words, capture_output=True, cwd="/", timeout=_IMPORT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done and not done.returncode:
        return ""
    return f"{python}, which runs this supervisord, cannot import multibot {multibot_plugin.__version__}"


def own_supervisord(home: Home) -> str:
    """Return what a person types to let multibot's own supervisord, which has what it takes, run the file."""
    return f"{os.path.join(os.path.dirname(sys.executable), 'supervisord')} -c {shlex.quote(str(home.foreign))}"


def _include_problem(home: Home, file: MainFile) -> str:
    included = {os.path.realpath(path) for path in file.included}
    wanted = [path for path in (home.rendered, home.rendered_postgres) if path.exists()]
    missing = next((path for path in wanted if os.path.realpath(path) not in included), None)
    return f"does not include {missing}" if missing else ""


def _include_text(home: Home, file: MainFile) -> str:
    """The last ``files`` of a file holds, so the new one names what the present one names."""
    present = file.own.get("include", {}).get("files", "").split()
    note = "; in place of the present [include]: supervisord takes the last one alone\n" if present else ""
    return f"{note}[include]\nfiles={' '.join([*present, f'{home.rendered.parent}/*.conf'])}\n"


def _section_problem(name: str, wanted: Mapping[str, str], file: MainFile) -> str:
    sections = file.own if name.startswith("ctlplugin:") else file.sections
    if name not in sections:
        included = name in file.sections
        return "stands in an included file, where supervisorctl does not look" if included else _MISSING
    options = sections[name]
    if name == _LISTENER and (problem := _listener_problem(options, wanted, file.sections)):
        return problem
    for option in _FIXED if name == _LISTENER else wanted:
        if options.get(option) != wanted[option]:
            return f"has to say {option}={wanted[option]}"
    return ""


def _listener_problem(options: Mapping[str, str], wanted: Mapping[str, str], sections: Sections) -> str:
    events = {event.strip().upper() for event in options.get("events", "").split(",")}
    if not events >= set(wanted["events"].split(",")):
        return f"has to say events={wanted['events']}"
    if _number(options.get("buffer_size", ""), 10) < int(wanted["buffer_size"]):
        return f"has to say buffer_size={wanted['buffer_size']} (or more): supervisord throws away what does not fit"
    priority = _number(options.get("priority", ""), _PLAIN_PRIORITY)
    others = {name: o for name, o in sections.items() if name.startswith("eventlistener:") and name != _LISTENER}
    for name, theirs in others.items():
        if _number(theirs.get("priority", ""), _PLAIN_PRIORITY) == priority:
            return f"has the priority of [{name}], so supervisord mixes up their events: give it another"
    return ""


def _wrong_number(file: MainFile) -> str:
    """Return which number of the listener's section is none; nothing where they are right."""
    options = file.sections.get(_LISTENER, {})
    for name in _NUMBERS:
        text = options.get(name, "0")
        if "%" not in text and not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
            return f"{name}={text} is not a number: supervisord does not start with it"
    return ""


def _number(text: str, default: int) -> int:
    try:
        return int(text) if text else default
    except ValueError:
        return default
