"""Documents between the versions in which one stored kind is served.

Most versions of a built-in kind share their shape: only ``apiVersion`` differs. The exceptions
are Events, translated here, and the versions of ``api.versions``.
"""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, Resource
from kubarium.api.versions import SHAPES

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


def is_reshaped(kind: Kind) -> bool:
    """Whether ``kind`` is written by way of the version that is stored."""
    return (kind.resource.api_version, kind.resource.kind) in SHAPES


def convert(document: Document, wanted: Resource) -> Document:
    """``document`` as ``wanted`` is served: a new top level over shared parts."""
    translate = _TRANSLATORS.get((document["apiVersion"], wanted.api_version, wanted.kind))
    if translate is None:
        shape = SHAPES.get((wanted.api_version, wanted.kind))
        translate = shape.from_stored if shape else dict
    converted = translate(document)
    if converted is document:
        converted = dict(document)
    converted["apiVersion"] = wanted.api_version
    return converted


def as_stored(kind: Kind, document: Document, stored: Document | None) -> Document:
    """A document in a reshaped kind's version in the version that is stored, with a top level and
    metadata of its own; ``stored`` is what is there now, or None."""
    shape = SHAPES[kind.resource.api_version, kind.resource.kind]
    new = shape.to_stored(document, stored) | {"apiVersion": kind.storage.api_version}
    if isinstance(new.get("metadata"), dict):
        new["metadata"] = dict(new["metadata"])
    return new
