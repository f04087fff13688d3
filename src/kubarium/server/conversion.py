"""Documents between the versions in which one stored kind is served.

Most versions of a built-in kind share their shape: only ``apiVersion`` differs. The exceptions
are listed in ``_TRANSLATORS``.
"""

from __future__ import annotations

from collections.abc import Callable

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
    """``document`` as ``wanted`` is served: a new top level over shared parts."""
    translate = _TRANSLATORS.get((document["apiVersion"], wanted.api_version, wanted.kind))
    converted = translate(document) if translate else dict(document)
    converted["apiVersion"] = wanted.api_version
    return converted
