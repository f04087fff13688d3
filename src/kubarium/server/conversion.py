"""Documents between the versions in which one stored kind is served.

Most versions of a built-in kind share their shape: only ``apiVersion`` differs. The exceptions
are Events, translated here, and the versions of ``api.versions``.
"""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, Resource

Translator = Callable[[Document], Document]

# core/v1 Event fields and what events.k8s.io/v1 calls them.
_EVENT_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_CORE_EVENT_NAMES = {new: old for old, new in _EVENT_NAMES.items()}


def _renamed(names: dict[str, str]) -> Translator:
    def translate(document: Document) -> Document:
        return {names.get(key, key): value for key, value in document.items()}

    return translate


# By group and version of the document, and group and version wanted, and kind.
_TRANSLATORS: dict[tuple[str, str, str], Translator] = {
    ("v1", "events.k8s.io/v1", "Event"): _renamed(_EVENT_NAMES),
    ("events.k8s.io/v1", "v1", "Event"): _renamed(_CORE_EVENT_NAMES),
}


def convert(document: Document, wanted: Resource) -> Document:
    """``document`` in another version of its shape (or as the other kind of Event): a new top level
    over shared parts."""
    translate = _TRANSLATORS.get((document["apiVersion"], wanted.api_version, wanted.kind))
    converted = translate(document) if translate else dict(document)
    converted["apiVersion"] = wanted.api_version
    return converted


def as_served(kind: Kind, stored: Document) -> Document:
    """A stored document as ``kind`` is served: a new top level over shared parts."""
    if kind.shape is None:
        return convert(stored, kind.resource)
    return kind.shape.from_stored(stored) | {"apiVersion": kind.resource.api_version}


def as_stored(kind: Kind, document: Document, stored: Document | None) -> Document:
    """A document in the version of a kind of another shape, in the version that is stored; with a
    top level and metadata of its own. ``stored`` is what is there now, or None."""
    assert kind.shape is not None
    new = kind.shape.to_stored(document, stored) | {"apiVersion": kind.storage.api_version}
    if isinstance(new.get("metadata"), dict):
        new["metadata"] = dict(new["metadata"])
    return new
