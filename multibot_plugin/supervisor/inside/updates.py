"""Single bots are taken from the file of sections into supervisord's memory, without reading everything anew.

A stock reread parses the whole configuration (0.4 to 0.7 s with 1,000 programs, in which supervisord does nothing
else) and fails as a whole where one section of anybody is wrong. Here the sections of the bots that are named are cut
out of our one file and parsed by supervisor's own parser. Afterwards memory and files agree, so that ``reread`` finds
no change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from supervisor.options import UnhosedConfigParser
from supervisor.states import ProcessStates
from supervisor.xmlrpc import Faults, RPCError

from multibot_plugin.supervisor.inside.words import WHERE, Word
from multibot_runner.protocol import EXIT_FINISHED, PROGRAM_PREFIX, BadFile, read_file

RUNNER = " -m multibot_runner "  # in the command of every bot (templates/program.conf.j2)
_FILE_CAP = 64 * 1024 * 1024
# What supervisord looks at again each time: needs no other process.
LIVE = (
    "autostart", "autorestart", "exitcodes", "startsecs", "startretries", "stopsignal", "stopwaitsecs", "stopasgroup",
    "killasgroup",
)  # fmt: skip
_PAST = ("state", "exitstatus", "laststart", "laststop")


class Updates:
    """``whole``: read the whole configuration as stock reread does (the part is switched off)."""

    def __init__(self, supervisord: Any, sections: str, soon: Callable[[], None], *, whole: bool) -> None:
        self._supervisord = supervisord
        self._path = Path(sections)
        self._soon = soon
        self._whole = whole

    def update(self, bots: Sequence[str], held: Collection[str] = ()) -> dict[str, Word]:
        """Bring ``bots`` to what the file says, as far as that can be done at once; return what was done for each.

        ``held``: those of them that are not started where they stand still.
        ``running``: it changed, or is no more, and has to be stopped first; ``stopping``: ask again when it has
        ended. Raises RPCError (CANT_REREAD) when the file or a section cannot be read: then nothing was changed.
        """
        wanted = self._read_whole(bots) if self._whole else self._read(bots)
        done = {bot: self._conform(PROGRAM_PREFIX + bot, wanted.get(bot), bot in held) for bot in bots}
        self._soon()
        return done

    def _read(self, bots: Sequence[str]) -> dict[str, Any]:
        """Return supervisor's configuration objects of those of ``bots`` that stand in the file."""
        try:
            text = read_file(self._path, _FILE_CAP).decode()
        except (BadFile, UnicodeDecodeError) as error:
            raise RPCError(Faults.CANT_REREAD, f"{self._path}: {type(error).__name__}") from None
        return {bot: self._parsed(bot, section) for bot in bots if (section := section_of(text, bot)) is not None}

    def _parsed(self, bot: str, section: str) -> Any:
        """Return what supervisor's own parser makes of a section."""
        options = self._supervisord.options
        parser = UnhosedConfigParser()
        parser.expansions = options.environ_expansions
        try:
            parser.read_string(section)
            (group,) = options.process_groups_from_parser(parser)
        except Exception:  # its text may quote what it did not understand
            where = f"in section 'program:{PROGRAM_PREFIX}{bot}' (file: '{self._path}')"
            raise RPCError(Faults.CANT_REREAD, where) from None
        for config in group.process_configs:
            config.environment = {**options.configroot.supervisord.environment, **config.environment}
        return group

    def _read_whole(self, bots: Sequence[str]) -> dict[str, Any]:
        try:
            self._supervisord.options.process_config(do_usage=False)
        except ValueError as error:  # its text may quote what it did not understand
            where = WHERE.search(str(error))
            raise RPCError(Faults.CANT_REREAD, where[0] if where else "the configuration") from None
        read = {group.name: group for group in self._supervisord.options.process_group_configs}
        return {bot: read[PROGRAM_PREFIX + bot] for bot in bots if PROGRAM_PREFIX + bot in read}

    def _conform(self, name: str, wanted: Any | None, held: bool = False) -> Word:
        group = self._supervisord.process_groups.get(name)
        process = group.processes.get(name) if group is not None else None
        if group is not None and (process is None or RUNNER not in process.config.command):
            return Word.FOREIGN
        self._remember(name, wanted)
        if group is None:
            added = wanted is not None and self._supervisord.add_process_group(wanted)
            return Word.ADDED if added else Word.UNCHANGED
        if wanted is not None and group.config == wanted:
            return Word.UNCHANGED
        was_enabled = process.config.autostart  # type: ignore[union-attr]
        if wanted is not None:
            for config in wanted.process_configs:
                for field in LIVE:
                    setattr(process.config, field, getattr(config, field))  # type: ignore[union-attr]
            if group.config == wanted:
                return Word.LIVE_CHANGED
        if group.get_unstopped_processes():
            stopping = process.get_state() == ProcessStates.STOPPING  # type: ignore[union-attr]
            return Word.STOPPING if stopping else Word.RUNNING
        enabled_now = process.config.autostart and not was_enabled  # type: ignore[union-attr]
        # In this very turn supervisord still looks at what was there when it began: it must find nothing to start.
        process.config.autostart = process.config.autorestart = False  # type: ignore[union-attr]
        self._supervisord.remove_process_group(name)
        if wanted is None:
            return Word.REMOVED
        self._supervisord.add_process_group(wanted)
        finished = has_finished(process) and not enabled_now
        if not finished and not held:
            return Word.REPLACED
        for field in _PAST:  # so that it is not started for the change
            setattr(self._supervisord.process_groups[name].processes[name], field, getattr(process, field))
        return Word.FINISHED if finished else Word.STANDING

    def _remember(self, name: str, wanted: Any | None) -> None:
        """Put a group into what was read last, where 'avail', 'add' and the next comparison look."""
        options = self._supervisord.options
        others = [group for group in options.process_group_configs if group.name != name]
        options.process_group_configs = others if wanted is None else [*others, wanted]


def has_finished(process: Any) -> bool:
    return bool(process.get_state() == ProcessStates.EXITED and process.exitstatus == EXIT_FINISHED)


def section_of(text: str, bot: str) -> str | None:
    """Return the section of a bot out of the text of the file; None without one. Pure.

    Raises RPCError where it stands there twice: supervisor would mix the two.
    """
    text, header = f"\n{text}", f"\n[program:{PROGRAM_PREFIX}{bot}]\n"
    start = text.find(header)
    if start < 0:
        return None
    if text.find(header, start + 1) > 0:
        raise RPCError(Faults.CANT_REREAD, f"twice in section 'program:{PROGRAM_PREFIX}{bot}'")
    end = text.find("\n[", start + 1)
    return text[start + 1 : end if end > 0 else len(text)]
