"""The newest Warning events of what an explanation speaks of: what controllers ran into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kubarium.api.resource import Document, Resource
from kubarium.view.explanation import Explanation

# Of one object, and levels of children that are looked at.
WARNINGS_SHOWN = 3
_DEPTH = 4

# The reason of what only the newest word counts of.
DECIDED = "FailedScheduling"

# What an event recorder writes before a message that stands for several.
_COMBINED = "(combined from similar events): "
_QUOTED = re.compile(r'"[^"]*"')

_WAITING = ("Pending", "Gated", "Suspended", "Unknown", "Running", "Scheduled")


def with_warnings(
    account: Explanation,
    events: Iterable[Document],
    documents: Mapping[Resource, Iterable[Document]],
) -> Explanation:
    """The account with the warnings about its subject, and about its children that wait.

    Not those about an earlier object of the same name as one of the ``documents``.
    """
    by_subject: dict[str, list[Document]] = {}
    for event in events:
        if event.get("type") == "Warning":
            by_subject.setdefault(_subject(event), []).append(event)
    if not by_subject:
        return account
    told = set(_subjects(account, _DEPTH)) & by_subject.keys()
    for (kind, place), uid in _uids(documents, told).items():
        subject = f"{kind} {place}"
        # The uid in events about nodes is the node's name (upstream: kubelet).
        known = ("", uid, place)
        by_subject[subject] = [e for e in by_subject[subject] if about(e).get("uid", "") in known]
    return _add(account, by_subject, _DEPTH)


def _subjects(account: Explanation, depth: int) -> Iterable[str]:
    yield account.subject
    for child in account.children if depth else ():
        yield from _subjects(child, depth - 1)


def _uids(
    documents: Mapping[Resource, Iterable[Document]], subjects: set[str]
) -> dict[tuple[str, str], str]:
    """The uid of each object that the subjects name, by kind and place."""
    kinds = {subject.partition(" ")[0] for subject in subjects}
    found: dict[tuple[str, str], str] = {}
    for resource, listed in documents.items():
        kind = resource.kind.lower()
        for document in listed if kind in kinds else ():
            place = _place(document["metadata"])
            if f"{kind} {place}" in subjects:
                found[kind, place] = document["metadata"].get("uid", "")
    return found


def _add(
    account: Explanation,
    events: dict[str, list[Document]],
    depth: int,
    above: tuple[str, ...] = (),
) -> Explanation:
    """``above`` is what those say whose child the account is."""
    if account.state not in _WAITING or depth == 0:
        return account
    summaries = [text for text in (account.summary, *_summaries(account.children)) if text]
    told = (*summaries, *account.reasons, *above)
    lines: dict[str, str] = {}
    decided = False
    for event in sorted(events.get(account.subject, ()), key=seen_at, reverse=True):
        if event.get("reason") == DECIDED:
            if decided:
                continue  # what its scheduler said before it decided again
            decided = True
        message = " ".join(str(event.get("message") or "").split())
        repeated = any(_repeats(message, summary) for summary in summaries)
        if not repeated and not any(message in text for text in told):
            message = message.removeprefix(_COMBINED)
            # Of messages that differ in a generated name only, the newest is enough.
            lines.setdefault(
                _QUOTED.sub("", message), f"{event.get('reason', 'Warning')}: {message}"
            )
    newest = tuple(lines.values())[:WARNINGS_SHOWN]
    above = (*above, account.summary, *newest)
    children = tuple(_add(child, events, depth - 1, above) for child in account.children)
    return replace(account, reasons=(*account.reasons, *newest), children=children)


def _repeats(message: str, summary: str) -> bool:
    """Whether an event says what the summary says.

    The scheduler's own goes on where the summary ends, or says between its parts what preemption
    found.
    """
    if message.startswith(summary):
        return True
    pairs = enumerate(zip(message, summary, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), len(message))
    return summary[:start].endswith(". ") and message.endswith(summary[start:])


def _summaries(accounts: Iterable[Explanation]) -> Iterable[str]:
    for account in accounts:
        yield account.summary
        yield from _summaries(account.children)


def _subject(event: Document) -> str:
    """As an Explanation names it: ``pod default/web``."""
    regarding = about(event)
    return f"{regarding.get('kind', '').lower()} {_place(regarding)}"


def about(event: Document) -> Document:
    """The reference to the object that an event is about, in either of its forms."""
    found: Document = event.get("involvedObject") or event.get("regarding") or {}
    return found


def _place(about: Document) -> str:
    namespace, name = about.get("namespace", ""), about.get("name", "")
    return f"{namespace}/{name}" if namespace else name


def seen_at(event: Document) -> str:
    """When it happened last, in UTC to the microsecond, which sorts as text.

    Times of whole seconds stand beside exact ones: of an event the latest counts.

    >>> seen_at({"lastTimestamp": "2026-01-01T00:00:07Z", "eventTime": "2026-01-01T00:00:07.25Z"})
    '2026-01-01T00:00:07.250000Z'
    """
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = (event.get("metadata") or {}).get("creationTimestamp")
    return max((_exact(str(time)) for time in times if time), default=_exact(str(created or "")))


def _exact(time: str) -> str:
    second, _, fraction = time.removesuffix("Z").partition(".")
    return f"{second}.{fraction:0<6.6}Z"
