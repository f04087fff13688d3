"""An answer to "why?": structured, and rendered to a few lines only at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.engine.verdict import Suggestion

# Children shown in text; JSON holds all.
CHILDREN_SHOWN = 5
REASONS_SHOWN = 12
SUGGESTIONS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one object is in the state that it is in.

    ``subject`` is ``kind namespace/name``, ``state`` one word (Running, Scheduled, Pending, Gated,
    Suspended, Admitted, Finished, Allocated, Free, Terminating, Unknown). ``summary`` is the
    sentence to read first, in upstream's wording where there is one; ``tightest`` the constraint
    that matters most; ``reasons`` are the facts behind it; each of ``suggestions`` alone would let
    the subject run, and ``commands`` has the line that does it, where one line does. ``nodes`` and
    ``devices`` are the account of a subject without a place (docs/why.md). ``children`` are what
    the subject waits for.
    """

    subject: str
    state: str
    summary: str
    reasons: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    children: tuple[Explanation, ...] = ()
    tightest: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    commands: Mapping[Suggestion, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The whole account as JSON values; empty parts are left out."""
        document: dict[str, Any] = {
            "subject": self.subject,
            "state": self.state,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "tightest": self.tightest,
            "suggestions": [self._suggestion(s) for s in self.suggestions],
            "nodes": self.nodes,
            "devices": self.devices,
            "facts": self.facts,
            "children": [child.to_json() for child in self.children],
        }
        return {key: value for key, value in document.items() if value not in ([], {}, "")}

    def _suggestion(self, suggestion: Suggestion) -> dict[str, Any]:
        found: dict[str, Any] = {
            "kind": suggestion.kind,
            "text": suggestion.text,
            "subject": suggestion.subject,
            "node": suggestion.node,
            "amount": suggestion.amount,
            "command": self.commands.get(suggestion, ""),
            "parts": [self._suggestion(part) for part in suggestion.parts],
        }
        return {key: value for key, value in found.items() if value}

    def lines(self) -> list[str]:
        """The account for a terminal."""
        return list(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        yield f"{indent}{self.subject}: {self.state}"
        if self.summary:
            yield f"{indent}  {self.summary}"
        if self.tightest:
            yield f"{indent}  tightest: {self.tightest}"
        yield from _listed(self.reasons, f"{indent}  - ", REASONS_SHOWN)
        if self.suggestions:
            if all(suggestion.parts for suggestion in self.suggestions):
                yield f"{indent}  No single change is enough. Any one of these would help:"
            else:
                yield f"{indent}  Any one of these would help:"
            yield from self._suggested(f"{indent}    ")
        for child in self.children[:CHILDREN_SHOWN]:
            yield from child._lines(indent + "  ")
        more = len(self.children) - CHILDREN_SHOWN
        if more > 0:
            yield f"{indent}  … and {more} more"

    def _suggested(self, indent: str) -> Iterator[str]:
        for suggestion in self.suggestions[:SUGGESTIONS_SHOWN]:
            yield f"{indent}* {suggestion.text}"
            command = self.commands.get(suggestion, "")
            if command:
                yield f"{indent}    $ {command}"
        more = len(self.suggestions) - SUGGESTIONS_SHOWN
        if more > 0:
            yield f"{indent}* … and {more} more"


def _listed(texts: tuple[str, ...], bullet: str, shown: int) -> Iterator[str]:
    for text in texts[:shown]:
        yield f"{bullet}{text}"
    if len(texts) > shown:
        yield f"{bullet}… and {len(texts) - shown} more"
