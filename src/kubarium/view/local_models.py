"""What is said of data that pods require: where KServe's models are to be, and how far that is.

A LocalModelCache names LocalModelNodeGroups, whose volumes say by node affinity which nodes belong;
a LocalModelNode says for its node how far the download of each model is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from kubarium.api.kinds import NODES
from kubarium.api.resource import Document, Resource
from kubarium.base.quoted import listed
from kubarium.engine.model import Pod
from kubarium.engine.placement import filters
from kubarium.engine.placement.locality import IMAGE
from kubarium.engine.snapshot import Snapshot
from kubarium.view.locality import (
    DOWNLOADED,
    LOCAL_MODEL_CACHES,
    LOCAL_MODEL_NAMESPACE_CACHES,
    LOCAL_MODEL_NODES,
    MODEL,
    UNREADABLE,
    is_unreadable,
    model_states,
)
from kubarium.view.missing import NAMED, no_such
from kubarium.view.selectors import node_terms

LOCAL_MODEL_NODE_GROUPS = Resource(
    LOCAL_MODEL_CACHES.group, "v1alpha1", "localmodelnodegroups", "LocalModelNodeGroup", False
)

# Models told of for one subject, and nodes named in each state.
MODELS_TOLD = 3
NODES_NAMED = 3

_IN_WORDS = {
    "ModelDownloadPending": "waits to be downloaded",
    "ModelDownloading": "is being downloaded",
    "ModelDownloadError": "could not be downloaded",
}

Documents = Mapping[Resource, list[Document]]


def data_lines(documents: Documents, snapshot: Snapshot, pods: Iterable[Pod]) -> Iterator[str]:
    """About each model that the pods require and not every node has; reports nobody can read."""
    required = (pod.shape.data for pod in pods if pod.shape.data_required)
    names = [name for name in dict.fromkeys(chain(*required)) if not name.startswith(IMAGE)]
    models = [name.removeprefix(MODEL) for name in names if name.startswith(MODEL)]
    told = [
        name for name in models if len(snapshot.data.get(MODEL + name, ())) < len(snapshot.rows)
    ][:MODELS_TOLD]
    states = list(map(_states_of, documents.get(LOCAL_MODEL_NODES, ()))) if told else []
    for name in told:
        for line in _about(documents, snapshot, name, states):
            yield f"model {name}: {line}"
    lost = [node["metadata"]["name"] for node in documents.get(NODES, ()) if is_unreadable(node)]
    if names and lost:
        noun = "node" if len(lost) == 1 else "nodes"
        yield f"{noun} {listed(sorted(lost), NODES_NAMED)}: {UNREADABLE}"


def _states_of(report: Document) -> tuple[str, dict[str, str]]:
    return report["metadata"]["name"], model_states(report)


def _about(
    documents: Documents, snapshot: Snapshot, name: str, states: list[tuple[str, dict[str, str]]]
) -> Iterator[str]:
    namespace, slash, short = name.rpartition("/")
    resource = LOCAL_MODEL_NAMESPACE_CACHES if slash else LOCAL_MODEL_CACHES
    known = {
        cache["metadata"]["name"]: cache
        for cache in documents.get(resource, ())
        if cache["metadata"].get("namespace", "") == namespace
    }
    cache = known.get(short)
    reports = snapshot.data.get(MODEL + name)
    if cache is not None:
        yield from _groups(documents, snapshot, cache)
    elif not reports and (known or documents.get(LOCAL_MODEL_NODES)):
        yield no_such(resource.kind, short, known, NAMED)
    yield from _progress(snapshot, name, states)


def _groups(documents: Documents, snapshot: Snapshot, cache: Document) -> Iterator[str]:
    """The nodes on which it is to be; a namespaced cache names its groups the same way."""
    groups = {g["metadata"]["name"]: g for g in documents.get(LOCAL_MODEL_NODE_GROUPS, ())}
    for name in (cache.get("spec") or {}).get("nodeGroups") or ():
        group = groups.get(name)
        if group is None:
            yield no_such("LocalModelNodeGroup", name, groups, NAMED)
            continue
        volume = (group.get("spec") or {}).get("persistentVolumeSpec") or {}
        required = (volume.get("nodeAffinity") or {}).get("required")
        if not required:
            yield f"is to be on every node (LocalModelNodeGroup {name} has no node affinity)"
            continue
        matching = filters.any_term(snapshot, node_terms(required) or ())
        rows = np.flatnonzero(matching & snapshot.alive)
        nodes = sorted(n.name for row in rows.tolist() if (n := snapshot.nodes[row]) is not None)
        if nodes:
            on = f"{'node' if len(nodes) == 1 else 'nodes'} {listed(nodes, NODES_NAMED)}"
            yield f"is to be on {on} (LocalModelNodeGroup {name})"
        else:
            yield f"is to be nowhere: no node matches the affinity of LocalModelNodeGroup {name}"


def _progress(
    snapshot: Snapshot, name: str, states: list[tuple[str, dict[str, str]]]
) -> Iterator[str]:
    """How far it is where it is not there yet."""
    nodes: dict[str, list[str]] = {}
    gone: list[str] = []
    for node, models in states:
        state = models.get(name)
        if state is None:
            continue
        if node not in snapshot.rows:
            gone.append(node)
        elif state != DOWNLOADED:
            nodes.setdefault(_IN_WORDS.get(state, "waits to be downloaded"), []).append(node)
    for words, names in nodes.items():
        yield f"{words} on {listed(sorted(names), NODES_NAMED)}"
    if gone:
        noun = "a LocalModelNode" if len(gone) == 1 else "LocalModelNodes"
        yield f"{noun} without a node of that name: {listed(sorted(gone), NODES_NAMED)}"
