"""Advice where a device plugin serves an extended resource on some nodes and DRA on others.

Every suggestion is carried out on the documents, as somebody would who reads it.
"""

from __future__ import annotations

import re
from copy import deepcopy

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import DEVICE_CLASSES, NODES, PODS, RESOURCE_SLICES
from kubarium.view.why import explain

GPU = "example.com/gpu"
DRIVER = "gpu.example.com"
FITS = "the pod fits now; the scheduler has not placed it yet"
CLASS = {
    "metadata": {"name": "gpu"},
    "spec": {
        "selectors": [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}],
        "extendedResourceName": GPU,
    },
}
TAINT = {"key": "off", "effect": "NoSchedule"}


def node(name, gpus=0, cpu=4, taints=(), cordoned=False):
    allocatable = {"cpu": str(cpu), "pods": "10"} | ({GPU: str(gpus)} if gpus else {})
    spec = {"taints": list(taints)} | ({"unschedulable": True} if cordoned else {})
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {"allocatable": allocatable},
    }


def slice_of(name, gpus, pool="", start=0):
    return {
        "metadata": {"name": f"slice-{pool or name}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": name,
            "pool": {"name": pool or name, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"gpu-{start + i}"} for i in range(gpus)],
        },
    }


def pod(name, gpus, cpu=1, on=""):
    requests = {"cpu": str(cpu)} | ({GPU: str(gpus)} if gpus else {})
    spec = {"containers": [{"name": "main", "resources": {"requests": requests}}]}
    if on:
        spec["nodeName"] = on
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def world(nodes, slices=(), holders=(), wanted=1, cpu=1):
    waiting = pod("waiting", wanted, cpu)
    return {
        DEVICE_CLASSES: [CLASS],
        NODES: list(nodes),
        RESOURCE_SLICES: list(slices),
        PODS: [waiting, *holders],
    }


def told(documents):
    return explain(documents, documents[PODS][0])


def done(documents, suggestion):
    """The documents after somebody did what the suggestion says."""
    after = deepcopy(documents)
    requests = after[PODS][0]["spec"]["containers"][0]["resources"]["requests"]
    nodes = {n["metadata"]["name"]: n for n in after[NODES]}
    match suggestion.kind:
        case "combination":
            for part in suggestion.parts:
                after = done(after, part)
        case "lower-count":
            assert suggestion.text.endswith(f" in {GPU} of container main")
            requests[GPU] = str(suggestion.amount)
        case "lower-request":
            milli = suggestion.subject == "cpu"
            requests[suggestion.subject] = f"{suggestion.amount}{'m' if milli else ''}"
        case "add-devices":
            more = slice_of(suggestion.node, suggestion.amount, "more", 50)
            after[RESOURCE_SLICES].append(more)
        case "add-resource":
            book = nodes[suggestion.node]["status"]["allocatable"]
            for part in suggestion.text.partition(" on node ")[0].split(" and "):
                amount, _, resource = part.partition(" more ")
                milli = int(amount[:-1]) if amount.endswith("m") else 1000 * int(amount)
                book[resource] = f"{milli + 1000 * int(book.get(resource, '0'))}m"
        case "add-node":
            model = deepcopy(nodes[suggestion.node])
            model["metadata"] = {"name": "new", "labels": {"kubernetes.io/hostname": "new"}}
            after[NODES].append(model)
            for item in documents[RESOURCE_SLICES]:
                if item["spec"]["nodeName"] == suggestion.node:
                    count = len(item["spec"]["devices"])
                    after[RESOURCE_SLICES].append(slice_of("new", count))
        case "uncordon":
            nodes[suggestion.node]["spec"].pop("unschedulable")
        case "tolerate-taint":
            after[PODS][0]["spec"]["tolerations"] = [{"key": "off", "operator": "Exists"}]
        case "free-pod" | "free-pods":
            gone = re.findall(r"ns/([\w-]+)", suggestion.subject)
            after[PODS] = [p for p in after[PODS] if p["metadata"]["name"] not in gone]
        case "raise-priority":
            after[PODS][0]["spec"]["priority"] = suggestion.amount
        case other:
            raise AssertionError(f"no way to carry out {other}")
    return after


@st.composite
def worlds(draw):
    nodes, slices, holders = [], [], []
    for i in range(draw(st.integers(1, 4))):
        gpus, plugin = draw(st.integers(0, 3)), draw(st.booleans())
        nodes.append(
            node(
                f"n{i}",
                gpus if plugin else 0,
                draw(st.sampled_from([1, 4])),
                draw(st.sampled_from([(), (), (TAINT,)])),
                draw(st.sampled_from([False, False, True])),
            )
        )
        if gpus and not plugin:
            slices.append(slice_of(f"n{i}", gpus))
        if plugin and draw(st.booleans()):
            holders.append(pod(f"h{i}", draw(st.integers(0, gpus)), 1, f"n{i}"))
    cpu = draw(st.sampled_from([1, 1, 2]))
    return world(nodes, slices, holders, draw(st.integers(1, 4)), cpu)


@settings(deadline=None, max_examples=300)
@given(worlds())
def test_every_suggestion_done_by_hand_makes_the_pod_fit(documents):
    said = told(documents)
    if said.summary == FITS:
        return
    for suggestion in said.suggestions:
        event(suggestion.kind)
        after = told(done(documents, suggestion))
        evicts = any(line.startswith("preemption makes room") for line in after.reasons)
        preempts = suggestion.kind == "raise-priority" and evicts
        assert after.summary == FITS or preempts, suggestion.text


def test_both_sides_have_their_advice():
    """Two devices wanted; one free on the plugin's node, one published by a DRA driver."""
    documents = world([node("plain", gpus=1), node("dra")], [slice_of("dra", 1)], wanted=2)
    assert [s.text for s in told(documents).suggestions] == [
        "ask for 1 instead of 2 in example.com/gpu of container main",
        "request at most 1 example.com/gpu (free on node plain)",
        "add 1 more device of class gpu on node dra",
        "1 more example.com/gpu on node plain",
    ]


def test_a_pod_that_holds_what_a_plugin_serves_can_end():
    documents = world(
        [node("plain", gpus=2), node("dra")], [slice_of("dra", 1)], [pod("h", 2, on="plain")], 2
    )
    texts = [s.text for s in told(documents).suggestions]
    assert "let pod ns/h on node plain end" in texts
    assert "add 1 more node like plain" in texts


def test_the_account_speaks_of_the_resource_that_the_pod_asks_for():
    said = told(world([node("dra")], [slice_of("dra", 1)], wanted=2))
    assert said.reasons[0].startswith(f"{GPU} of container main: 2 of class gpu needed")
