"""``multibot doctor``: look at everything that an installation needs, and name the remedies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import click

from multibot_plugin.cli import checks, checks_host, fleet
from multibot_plugin.cli.checks import BAD, GOOD, Check, Found, Patient
from multibot_plugin.cli.output import Context, mark, one_line, output_option, pass_context, show, show_json
from multibot_plugin.cli.start import check_initialised
from multibot_plugin.errors import MultibotError
from multibot_plugin.supervisor.faults import SupervisorFault

CHECKS: Sequence[tuple[str, Callable[[Patient], Found]]] = (
    ("settings", checks.settings),
    ("supervisord", checks.supervisord),
    ("configuration", checks.main_file),
    ("monitor", checks.monitor),
    ("database", checks.database),
    ("rendered", checks.rendered),
    ("descriptors", checks.descriptors),
    ("alerts", checks_host.alerts),
    ("ports", checks_host.ports),
    ("isolation", checks_host.isolation),
    ("files", checks_host.files),
    ("journal", checks_host.journal),
    ("disk", checks_host.disk),
)


@click.command()
@output_option(forms=("table", "json"))
@pass_context
def doctor(context: Context, form: str) -> int:
    """Check the installation: supervisord, monitor, database, alerts, rights, room. Nothing is changed.

    ● fine, ▲ worth a look, ✖ wrong; below a line what to type. Exit code 1 when something is wrong.
    """
    check_initialised(context.home)
    found = examine(Patient(context, _look(context), dict(fleet.read_status(context.home))))
    ok = all(check.mark != BAD for check in found)
    if form == "json":
        show_json({"ok": ok, "checks": [_as_json(check) for check in found]})
    else:
        for check in found:
            _show(check)
    return 0 if ok else 1


def _beside() -> Mapping[str, Callable[[Patient], Found]]:
    """Return the checks that are others in an operator's own supervisord."""
    from multibot_plugin.cli import checks_beside

    return {"supervisord": checks_beside.supervisord, "configuration": checks_beside.main_file}


def _look(context: Context) -> fleet.Fleet:
    try:
        return fleet.look(context)
    except SupervisorFault as fault:
        return fleet.without(context, fleet.NotLoaded(str(fault)))


def _as_json(check: Check) -> dict[str, object]:
    level = {GOOD: "ok", BAD: "failed"}.get(check.mark, "warning")
    return {"check": check.name, "level": level, "text": one_line(check.text), "remedies": list(check.remedies)}


def _show(check: Check) -> None:
    show(f"{mark(check.mark)} {one_line(check.text)}")
    for remedy in check.remedies:
        show(f"    {remedy}")


def examine(patient: Patient) -> list[Check]:
    """Return the result of every check; one that cannot be made is a finding itself."""
    found: list[Check] = []
    others = _beside() if patient.context.home.foreign else {}
    for name, check in CHECKS:
        try:
            result = others.get(name, check)(patient)
            found += [result] if isinstance(result, Check) else result
        except (MultibotError, OSError) as error:
            found.append(Check(name, BAD, f"{name}: {error}"))
        except Exception as error:  # a fault of ours must not hide what the other checks found
            found.append(Check(name, BAD, f"{name}: cannot be checked ({type(error).__name__})"))
    return found
