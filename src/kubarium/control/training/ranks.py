"""Ranks as events speak of them, and warnings that are said once."""

from __future__ import annotations

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Informer


def named(pod: Document) -> str:
    """``rank 7 (pod train-7)``; ``pod x`` for one without a rank."""
    index = (pod["metadata"].get("labels") or {}).get(COMPLETION_INDEX)
    name = pod["metadata"]["name"]
    return f"pod {name}" if index is None else f"rank {index} (pod {name})"


class Warnings:
    """Each warning about an object once, however often it is found; forgotten with the object."""

    def __init__(self, recorder: EventRecorder, objects: Informer) -> None:
        self._recorder = recorder
        self._told: dict[str, dict[str, None]] = {}
        objects.on_change(self._changed)

    def _changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is None:
            self._told.pop(old["metadata"]["uid"], None)

    def tell(self, document: Document, reason: str, text: str, about: str = "") -> None:
        """``about`` is what makes it the same warning; the text itself unless given."""
        told = self._told.setdefault(document["metadata"]["uid"], {})
        if (about or text) not in told:
            told[about or text] = None
            self._recorder.event(document, "Warning", reason, text)
