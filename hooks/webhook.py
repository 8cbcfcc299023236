"""Do updates reach a bot whose polls are not seen? What Telegram says of it (getWebhookInfo), and what has arrived.

``deaf`` and ``taken`` are rules of polling.py, which tells the first trouble that applies. The check here is the last
delivery that failed, in Telegram's words: over as soon as nothing waits any more.
"""

from __future__ import annotations

from multibot_plugin.hookspecs import Finding, Health, Heartbeat, Level, MonitorInfo, Observation, WebhookInfo, hookimpl

_WAITING_PROBES = 12  # answers in a row in which updates wait and become no fewer; a busy bot has two or three
_RECENT_S = 600.0
_probing = True


@hookimpl
def multibot_configure(info: MonitorInfo) -> None:
    global _probing
    _probing = float(info.settings["monitor.probe_s"]) > 0


@hookimpl
def multibot_check(observation: Observation) -> list[Finding]:
    info = observation.webhook
    if "webhook" in observation.open and is_awaited(observation) and not has_received(observation):
        text = "webhook: not known yet whether Telegram can deliver again"
        return [Finding(observation.bot, "webhook", Level.WARNING, text, Health.DEGRADED)]
    if observation.state != "running" or info is None or not _failure(observation, info):
        return []
    text = f"webhook: Telegram cannot deliver: {info.error}"
    return [Finding(observation.bot, "webhook", Level.WARNING, text, Health.DEGRADED)]


def is_awaited(observation: Observation) -> bool:
    """Return whether Telegram is yet to be asked about this process, of a bot or since the monitor began."""
    return observation.webhook is None and _probing


def has_received(observation: Observation) -> bool:
    """Return whether this very process is known to have handled an update."""
    return observation.heartbeat is not None and observation.heartbeat.update_mono is not None


def deaf(observation: Observation, heartbeat: Heartbeat) -> Finding | None:
    """Return what keeps updates from a bot: no webhook, a wrong one, or that they wait and nobody fetches them."""
    info = observation.webhook
    if info is None or info.code != 200 or observation.receives == "nothing":
        return None
    if observation.receives == "webhook" and (text := _misdirected(observation, heartbeat, info)):
        # Only of a build bot it is known that it sets its webhook when it starts.
        again = observation.launch == "build" and not info.origin
        return Finding(observation.bot, "deaf", Level.CRITICAL, f"deaf: {text}", Health.DEAF, restart=again)
    if heartbeat.oldest_update_mono is not None:  # it has it, and answers Telegram when it is handled: slow, not deaf
        return None
    since = info.waiting_since_mono
    needed = 1 if "deaf" in observation.open else _WAITING_PROBES
    if since is None or info.waiting_probes < needed or _arrived_since(observation, since):
        return None
    what = "1 update has" if info.pending == 1 else f"{info.pending} updates have"
    text = f"deaf: {what} been waiting at Telegram for {span(observation.now - since)}"
    if _failure(observation, info):
        text = f"{text}, which cannot deliver: {info.error}"
    again = observation.receives != "auto" or info.fetched
    if not again:
        text = f"{text} (does it only send? receives=nothing)"
    return Finding(observation.bot, "deaf", Level.CRITICAL, text, Health.DEAF, restart=again, since_mono=since)


def taken(observation: Observation) -> str:
    """Return where a webhook takes the updates of a bot that wants to poll for them; "" nowhere."""
    return observation.webhook.origin if observation.webhook and observation.receives == "polling" else ""


def began(heartbeat: Heartbeat) -> float:
    """Return since when the bot's own code runs."""
    return max(heartbeat.start_mono, heartbeat.until_mono or 0.0)


def span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _failure(observation: Observation, info: WebhookInfo) -> bool:
    """Return whether a delivery failed lately, and nothing has arrived since."""
    if info.error_at is None or not info.pending:
        return False
    age_s = max(0.0, observation.now_at - info.error_at)
    return age_s <= _RECENT_S and not _arrived_since(observation, observation.now - age_s)


def _misdirected(observation: Observation, heartbeat: Heartbeat, info: WebhookInfo) -> str:
    if info.asked_mono - began(heartbeat) < float(observation.settings["start_grace_s"]):  # it may have set it since
        return ""
    if not info.origin:
        return "no webhook is set"
    return "" if info.as_configured else f"its webhook leads elsewhere: to {info.origin}"


def _arrived_since(observation: Observation, since: float) -> bool:
    arrived = observation.heartbeat.update_mono if observation.heartbeat else None
    return arrived is not None and arrived > since
