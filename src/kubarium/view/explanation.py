"""An answer to "why?": structured, and rendered to a few lines only at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kubarium.engine.verdict import Suggestion

# Children shown in text; JSON holds all.
CHILDREN_SHOWN = 5
REASONS_SHOWN = 12
SUGGESTIONS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one object is in the state that it is in.

    ``subject`` is ``kind namespace/name``, ``state`` one word (Running, Scheduled, Pending, Gated,
    Suspended, Admitted, Finished, Allocated, Free, Terminating, Unknown). ``summary`` is the
    sentence to read first, in upstream's wording where there is one; ``reasons`` are the facts
    behind it; each of ``suggestions`` alone would let the subject run. ``children`` are what the
    subject waits for.
    """

    subject: str
    state: str
    summary: str
    reasons: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    children: tuple[Explanation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The whole account as JSON values; empty parts are left out."""
        document: dict[str, Any] = {
            "subject": self.subject,
            "state": self.state,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "suggestions": [
                {
                    key: value
                    for key, value in (
                        ("kind", s.kind),
                        ("text", s.text),
                        ("subject", s.subject),
                        ("node", s.node),
                        ("amount", s.amount),
                    )
                    if value
                }
                for s in self.suggestions
            ],
            "facts": self.facts,
            "children": [child.to_json() for child in self.children],
        }
        return {key: value for key, value in document.items() if value not in ([], {}, "")}

    def lines(self) -> list[str]:
        """The account for a terminal."""
        return list(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        yield f"{indent}{self.subject}: {self.state}"
        if self.summary:
            yield f"{indent}  {self.summary}"
        yield from _listed(self.reasons, f"{indent}  - ", REASONS_SHOWN)
        if self.suggestions:
            yield f"{indent}  Any one of these would help:"
            texts = tuple(s.text for s in self.suggestions)
            yield from _listed(texts, f"{indent}    * ", SUGGESTIONS_SHOWN)
        for child in self.children[:CHILDREN_SHOWN]:
            yield from child._lines(indent + "  ")
        more = len(self.children) - CHILDREN_SHOWN
        if more > 0:
            yield f"{indent}  … and {more} more"


def _listed(texts: tuple[str, ...], bullet: str, shown: int) -> Iterator[str]:
    for text in texts[:shown]:
        yield f"{bullet}{text}"
    if len(texts) > shown:
        yield f"{bullet}… and {len(texts) - shown} more"
