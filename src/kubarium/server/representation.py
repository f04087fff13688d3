"""Documents as a client wants to see them: whole, as a table, or their metadata alone."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, ListResult, WatchEvent
from kubarium.api.tables import table
from kubarium.base.errors import bad_request
from kubarium.server.wire import JSON, MediaType


def list_document(kind: Kind, page: ListResult) -> Document:
    """A page as the wire has it: ``PodList`` and so on."""
    metadata: Document = {"resourceVersion": page.resource_version}
    if page.continue_token:
        metadata["continue"] = page.continue_token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    return {
        "kind": kind.list_kind,
        "apiVersion": kind.resource.api_version,
        "metadata": metadata,
        "items": page.items,
    }


def _partial(document: Document, version: str) -> Document:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": document["metadata"],
    }


_INCLUDE = ("", "None", "Metadata", "Object")


def _table(
    kind: Kind,
    documents: list[Document],
    metadata: Document,
    media: MediaType,
    now: float,
    include_object: str,
) -> Document:
    if include_object not in _INCLUDE:
        raise bad_request(
            f'unrecognized includeObject value: "{include_object}"; '
            "supported are None, Metadata and Object"
        )
    document = table(kind, documents, now, metadata, include_object or "Metadata")
    document["apiVersion"] = f"meta.k8s.io/{media.version}"
    return document


def present_object(
    kind: Kind, document: Document, media: MediaType, now: float, include_object: str
) -> Document:
    """One object in the form that was negotiated."""
    if media.as_ == "PartialObjectMetadata":
        return _partial(document, media.version)
    if media.as_ == "Table":
        metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
        return _table(kind, [document], metadata, media, now, include_object)
    return document


def present_page(
    kind: Kind, page: ListResult, media: MediaType, now: float, include_object: str
) -> Document:
    """A page in the form that was negotiated."""
    whole = list_document(kind, page)
    if media.as_ == "PartialObjectMetadataList":
        return {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{media.version}",
            "metadata": whole["metadata"],
            "items": [_partial(item, media.version) for item in page.items],
        }
    if media.as_ == "Table":
        return _table(kind, page.items, whole["metadata"], media, now, include_object)
    return whole


def present_event(
    kind: Kind, event: WatchEvent, media: MediaType, now: float, include_object: str
) -> Document:
    """The object of a watch event in the form that was negotiated; a Status stays one."""
    if event.type == "ERROR":
        return event.object
    return present_object(kind, event.object, media, now, include_object)


def encode(document: Any, media_type: str = JSON, pretty: bool = False) -> bytes:
    """Bytes of a document."""
    if media_type == JSON:
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 if pretty else 0)
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


class _Dumper(yaml.CSafeDumper):
    """YAML without anchors: shared parts of documents are written out each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
