"""What pods say of their data, and what nodes say of what they have cached.

Three reports are read: images in a node's status, KServe's LocalModelNode (``model/NAME`` once it
is downloaded, sized by its LocalModelCache), and the node's annotation ``kubarium.dev/cached``, a
JSON object of names with sizes: ``{"dataset/web": "150Gi"}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import orjson

from kubarium.api.resource import Document, Resource
from kubarium.base.quantity import QuantityError, whole
from kubarium.engine.model import Node
from kubarium.engine.placement.locality import IMAGE
from kubarium.engine.snapshot import Snapshot
from kubarium.view.nodes import normalised_image

DATA = "kubarium.dev/data"
LOCALITY = "kubarium.dev/data-locality"
CACHED = "kubarium.dev/cached"
REQUIRED, PREFERRED = "required", "preferred"
MODEL = "model/"
DOWNLOADED = "ModelDownloaded"

_SERVING = "serving.kserve.io"
LOCAL_MODEL_NODES = Resource(_SERVING, "v1alpha1", "localmodelnodes", "LocalModelNode", False)
LOCAL_MODEL_CACHES = Resource(_SERVING, "v1alpha1", "localmodelcaches", "LocalModelCache", False)
LOCAL_MODEL_NAMESPACE_CACHES = Resource(
    _SERVING, "v1alpha1", "localmodelnamespacecaches", "LocalModelNamespaceCache", True
)
LOCALITY_RESOURCES = (LOCAL_MODEL_CACHES, LOCAL_MODEL_NAMESPACE_CACHES, LOCAL_MODEL_NODES)


def data_of(metadata: Document) -> tuple[tuple[str, ...], bool]:
    """The names in a pod's annotation, in order, and whether all must be cached on its node."""
    notes = metadata.get("annotations") or {}
    given = notes.get(DATA)
    if not isinstance(given, str):
        return (), False
    names = dict.fromkeys(_normal(part.strip()) for part in given.split(",") if part.strip())
    how = str(notes.get(LOCALITY) or PREFERRED).strip().lower()
    return tuple(names), bool(names) and how == REQUIRED


def names_data(metadata: Document) -> bool:
    """Whether a pod's annotations may say something of its data."""
    notes = metadata.get("annotations")
    return notes is not None and DATA in notes


def _normal(name: str) -> str:
    if name.startswith(IMAGE):
        return IMAGE + normalised_image(name.removeprefix(IMAGE))
    return name


def reported(node: Document) -> dict[str, int]:
    """Names with sizes in bytes from the node's annotation; what is malformed is left out."""
    return {name: _size(quantity) for name, quantity in (_report(node) or {}).items()}


# Of a node's annotation that :func:`is_unreadable` finds.
UNREADABLE = f"annotation {CACHED} is no JSON object, so that nothing of it counts"


def is_unreadable(node: Document) -> bool:
    """Whether the node's annotation is there and says nothing, since it is no JSON object."""
    return _report(node) is None


def _report(node: Document) -> Mapping[str, object] | None:
    text = (node["metadata"].get("annotations") or {}).get(CACHED)
    if not isinstance(text, str):
        return {} if text is None else None
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return given if isinstance(given, Mapping) else None


def _size(quantity: object) -> int:
    try:
        return max(0, whole(quantity))
    except QuantityError:
        return 0


def model_states(report: Document | None) -> dict[str, str]:
    """How far the download of each model of a LocalModelNode is, by its key there.

    What its spec does not list any more is about to be removed from the node, whatever the status
    still says of it.
    """
    status = ((report or {}).get("status") or {}).get("modelStatus")
    states = status if isinstance(status, Mapping) else {}
    listed = ((report or {}).get("spec") or {}).get("localModels")
    if not isinstance(listed, list):
        return {name: str(state) for name, state in states.items()}
    keys = ("/".join(filter(None, map(one.get, ("namespace", "modelName")))) for one in listed)
    return {key: str(states.get(key) or "") for key in keys}


class Caches:
    """What is cached where, from all reports; keeps the snapshot's nodes in step."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._reports: dict[str, dict[str, int]] = {}
        self._models: dict[str, tuple[str, ...]] = {}
        self._sizes: dict[str, int] = {}

    def node(self, document: Document | None, row: Node) -> Node:
        """The row with what the node has cached."""
        if document is not None:
            found = reported(document)
            if found:
                self._reports[row.name] = found
            else:
                self._reports.pop(row.name, None)
        data = dict(self._reports.get(row.name, {}))
        for model in self._models.get(row.name, ()):
            data.setdefault(MODEL + model, self._sizes.get(model, 0))
        return replace(row, data=tuple(sorted(data.items()))) if data or row.data else row

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change of KServe's local models."""
        document = new or old
        assert document is not None
        name = document["metadata"]["name"]
        if resource == LOCAL_MODEL_NODES:
            found = model_states(new)
            self._models[name] = tuple(m for m, state in found.items() if state == DOWNLOADED)
            self._refresh(name)
            return
        if resource == LOCAL_MODEL_NAMESPACE_CACHES:
            name = f"{document['metadata'].get('namespace', '')}/{name}"
        if new is None:
            self._sizes.pop(name, None)
        else:
            self._sizes[name] = _size((new.get("spec") or {}).get("modelSize"))
        for node, models in self._models.items():
            if name in models:
                self._refresh(node)

    def _refresh(self, name: str) -> None:
        row = self._snapshot.node(name)
        if row is not None:
            self._snapshot.set_node(self.node(None, row))
