"""Random clusters, and one change of those that help: who fits now is placed before the flush."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import NODES, PODS
from kubarium.api.patch import merge_patch
from kubarium.control.scheduling import components
from kubarium.engine.placement.place import Placer
from kubarium.runtime.virtual import run
from kubarium.view.cluster import ClusterView
from kubarium.view.locality import CACHED, DATA, LOCALITY

from .test_scheduler import node, pod

ZONE, HOSTNAME = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
TAINT = {"key": "only", "value": "some", "effect": "NoSchedule"}
TOLERATION = {"key": "only", "operator": "Exists"}
# Longer than the longest back-off, far shorter than the flush.
SOON_S = 15.0


def of(draw, *options):
    return draw(st.sampled_from(options))


def draw_node(draw, name):
    labels = {ZONE: of(draw, "z1", "z2")} if of(draw, True, True, False) else {}
    if draw(st.booleans()):
        labels["disk"] = of(draw, "ssd", "hdd")
    taints = [TAINT] if of(draw, True, False, False) else []
    document = node(name, cpu=of(draw, "100m", "1", "2", "4"), labels=labels, taints=taints)
    document["spec"]["unschedulable"] = of(draw, True, False, False)
    return document


def draw_term(draw):
    return {
        "topologyKey": of(draw, ZONE, HOSTNAME),
        "labelSelector": {"matchLabels": {"app": of(draw, "x", "x", "y")}},
    }


def draw_spread(draw):
    return {
        **draw_term(draw),
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": of(draw, "Honor", "Ignore"),
        "nodeAffinityPolicy": of(draw, "Honor", "Ignore"),
    }


WISHES = ("spread", "podAffinity", "podAntiAffinity", "ports", "selector", "data")
DATASETS = ("dataset/x", "dataset/y")


def draw_pod(draw, name, wish):
    """Most pods of a world have the same wish, so that they stand in each other's way."""
    wishes = {of(draw, wish, wish, wish, *WISHES)}
    spec = {}
    if "selector" in wishes:
        spec["nodeSelector"] = {"disk": of(draw, "ssd", "hdd")}
    if draw(st.booleans()):
        spec["tolerations"] = [TOLERATION]
    for kind in ("podAffinity", "podAntiAffinity"):
        if kind in wishes:
            required = {"requiredDuringSchedulingIgnoredDuringExecution": [draw_term(draw)]}
            spec["affinity"] = {kind: required}
    if "spread" in wishes:
        spec["topologySpreadConstraints"] = [draw_spread(draw)]
    document = pod(name, cpu=of(draw, "500m", "1", "2"), **spec)
    if "ports" in wishes:
        document["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 80}]
    document["metadata"]["labels"] = {"app": of(draw, "x", "x", "y", "z")}
    if "data" in wishes:
        name = of(draw, *DATASETS, "image/app:v1")
        document["metadata"]["annotations"] = {DATA: name, LOCALITY: "required"}
    return document


class Change(NamedTuple):
    """One thing that can happen: to the documents in thought, and in the world."""

    kind: str
    apply: Callable[[dict], None]
    happen: Callable[[object], Awaitable[object]]


def on_node(name, kind, part, change):
    def apply(documents):
        [document] = [n for n in documents[NODES] if n["metadata"]["name"] == name]
        documents[NODES].remove(document)
        documents[NODES].append(merge_patch(document, {part: change}))

    def happen(world):
        subresource = "status" if part == "status" else ""
        return world.client.patch(NODES, name, {part: change}, subresource=subresource)

    return Change(kind, apply, happen)


def on_pod(name, kind, change):
    def apply(documents):
        [document] = [p for p in documents[PODS] if p["metadata"]["name"] == name]
        documents[PODS].remove(document)
        if change is not None:
            documents[PODS].append(merge_patch(document, {"metadata": change}))

    def happen(world):
        if change is None:
            return world.client.delete(PODS, name, "default", grace_period_s=0)
        if "deletionTimestamp" in change:
            return world.client.delete(PODS, name, "default")
        return world.client.patch(PODS, name, {"metadata": change}, "default")

    return Change(kind, apply, happen)


def goes(name):
    def apply(documents):
        documents[NODES] = [n for n in documents[NODES] if n["metadata"]["name"] != name]

    return Change("node goes", apply, lambda world: world.client.delete(NODES, name))


def changes_of(documents):
    """All that one may do to a node or to a pod with a node."""
    for document in documents[NODES]:
        name, spec = document["metadata"]["name"], document["spec"]
        labels = document["metadata"]["labels"]
        yield goes(name)
        for key, values in ((ZONE, ("z1", "z2", None)), ("disk", ("ssd", "hdd", None))):
            for value in values:
                if labels.get(key) != value:
                    yield on_node(name, key, "metadata", {"labels": {key: value}})
        taints = None if spec.get("taints") else [TAINT]
        yield on_node(name, "taints", "spec", {"taints": taints})
        cordon = None if spec.get("unschedulable") else True
        yield on_node(name, "cordon", "spec", {"unschedulable": cordon})
        yield on_node(name, "grows", "status", {"allocatable": {"cpu": "16"}})
        for data in DATASETS:
            notes = {"annotations": {CACHED: f'{{"{data}": "1Gi"}}'}}
            yield on_node(name, "data", "metadata", notes)
        images = [{"names": ["docker.io/library/app:v1"], "sizeBytes": 1}]
        yield on_node(name, "image", "status", {"images": images})
    for document in documents[PODS]:
        metadata = document["metadata"]
        name = metadata["name"]
        yield on_pod(name, "pod goes", None)
        if document["spec"].get("nodeName") and "deletionTimestamp" not in metadata:
            yield on_pod(name, "pod ends", {"deletionTimestamp": "2026-01-01T00:00:00Z"})
        if LOCALITY in metadata.get("annotations", {}) and not document["spec"].get("nodeName"):
            yield on_pod(name, "prefers", {"annotations": {LOCALITY: "preferred"}})
        for app in ("x", "y", "z"):
            if metadata["labels"]["app"] != app:
                yield on_pod(name, "relabelled", {"labels": {"app": app}})


@st.composite
def clusters(draw):
    wish = of(draw, *WISHES)
    nodes = [draw_node(draw, f"n{i}") for i in range(draw(st.integers(2, 4)))]
    pods = [draw_pod(draw, f"p{i}", wish) for i in range(draw(st.integers(2, 7)))]
    return nodes, pods


def placeable(documents):
    """A pod that a scheduler just started would place at once; "" if there is none."""
    view = ClusterView.of(documents)
    placer = Placer(view.snapshot)
    for document in documents[PODS]:
        if not document["spec"].get("nodeName") and placer.place(view.pod(document)) is not None:
            return document["metadata"]["name"]
    return ""


def thought(documents, change):
    """The documents after the change."""
    after = {resource: list(found) for resource, found in documents.items()}
    change.apply(after)
    return after


@pytest.mark.timeout(400)  # half a minute on a quiet machine
@settings(max_examples=150, deadline=None)
@given(cluster=clusters(), picks=st.lists(st.integers(0, 1000), min_size=2, max_size=3))
def test_whom_one_change_helps_is_placed_soon(world_class, cluster, picks):
    nodes, pods = cluster

    async def play():
        world = world_class()
        for document in nodes:
            await world.create(NODES, document)
        await world.start(*components(world.context))
        for document in pods:
            await world.create(PODS, document)
        await world.settle(SOON_S)
        for pick in picks:
            await world.settle(20)  # back-off is served
            documents = {resource: await world.find(resource) for resource in (NODES, PODS)}
            assert not placeable(documents)
            known = changes_of(documents)
            helpful = [c for c in known if placeable(thought(documents, c))]
            if not helpful:
                return
            by_kind = {change.kind: change for change in helpful}  # each kind as often as others
            change = list(by_kind.values())[pick % len(by_kind)]
            await change.happen(world)
            await world.settle(SOON_S)
            documents = {resource: await world.find(resource) for resource in (NODES, PODS)}
            assert not placeable(documents), change.kind

    run(play(), 0)
