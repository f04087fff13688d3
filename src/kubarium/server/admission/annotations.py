"""Warnings about annotations of ours that nobody will be able to read."""

from __future__ import annotations

from kubarium.server.admission.chain import Attempt
from kubarium.view.annotations import unreadable


def warn_of_annotations(attempt: Attempt) -> None:
    """Each one once, when it is written; nothing is refused for it."""
    kind = attempt.kind.resource.kind
    known = set(unreadable(attempt.old, kind)) if attempt.old is not None else set()
    for text in unreadable(attempt.document, kind):
        if text not in known:
            attempt.call.warn(text)
