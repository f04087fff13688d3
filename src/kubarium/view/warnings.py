"""The newest Warning events of what an explanation speaks of: what controllers ran into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kubarium.api.resource import Document
from kubarium.view.explanation import Explanation

# Of one object, and levels of children that are looked at.
WARNINGS_SHOWN = 3
_DEPTH = 4

_WAITING = ("Pending", "Gated", "Suspended", "Unknown", "Running", "Scheduled")


def with_warnings(account: Explanation, events: Iterable[Document]) -> Explanation:
    """The account with the warnings about its subject, and about its children that wait."""
    by_subject: dict[str, list[Document]] = {}
    for event in events:
        if event.get("type") == "Warning":
            by_subject.setdefault(_subject(event), []).append(event)
    return _add(account, by_subject, _DEPTH) if by_subject else account


def _add(account: Explanation, events: dict[str, list[Document]], depth: int) -> Explanation:
    if account.state not in _WAITING or depth == 0:
        return account
    told = (account.summary, *account.reasons)
    lines: dict[str, None] = {}
    for event in sorted(events.get(account.subject, ()), key=_seen_at, reverse=True):
        message = " ".join(str(event.get("message") or "").split())
        # The scheduler's own event goes on where the summary ends.
        repeated = account.summary and message.startswith(account.summary)
        if not repeated and not any(message in text for text in told):
            lines[f"{event.get('reason', 'Warning')}: {message}"] = None
    newest = tuple(lines)[:WARNINGS_SHOWN]
    children = tuple(_add(child, events, depth - 1) for child in account.children)
    return replace(account, reasons=(*account.reasons, *newest), children=children)


def _subject(event: Document) -> str:
    """As an Explanation names it: ``pod default/web``."""
    about = event.get("involvedObject") or event.get("regarding") or {}
    namespace, name = about.get("namespace", ""), about.get("name", "")
    place = f"{namespace}/{name}" if namespace else name
    return f"{about.get('kind', '').lower()} {place}"


def _seen_at(event: Document) -> str:
    """RFC 3339 in UTC, which sorts as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = (event.get("metadata") or {}).get("creationTimestamp")
    return str(next((time for time in times if time), created or ""))
