"""Advice to pods and gangs that require data: each suggestion is carried out on the documents."""

from __future__ import annotations

import re
from copy import deepcopy

import orjson
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import NODES, POD_GROUPS, PODS
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.view.cluster import ClusterView
from kubarium.view.locality import CACHED, DATA, LOCALITY
from kubarium.view.why import explain

NAMES = ("dataset/x", "dataset/y", "image/app:v1")


def node(name, cpu, rack, have):
    report = {data: "1Gi" for data in sorted(have) if not data.startswith("image/")}
    images = [
        {"names": [f"docker.io/library/{data.removeprefix('image/')}"], "sizeBytes": 1}
        for data in sorted(have)
        if data.startswith("image/")
    ]
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "rack": rack},
            "annotations": {CACHED: orjson.dumps(report).decode()},
        },
        "spec": {},
        "status": {"allocatable": {"cpu": str(cpu), "pods": "10"}, "images": images},
    }


def pod(name, cpu, data, group=""):
    notes = {DATA: ",".join(sorted(data)), LOCALITY: "required"} if data else {}
    requests = {"requests": {"cpu": str(cpu)}}
    spec = {"containers": [{"name": "main", "resources": requests}]}
    if group:
        spec["schedulingGroup"] = {"podGroupName": group}
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "annotations": notes}
    return {"kind": "Pod", "metadata": metadata, "spec": spec}


def gang(least, key):
    spec = {"schedulingPolicy": {"gang": {"minCount": least}}}
    if key:
        spec["schedulingConstraints"] = {"topology": [{"key": key}]}
    metadata = {"name": "g", "namespace": "ns", "uid": "uid-g"}
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": metadata,
        "spec": spec,
    }


def add_to(document, name):
    if name.startswith("image/"):
        names = [name.removeprefix("image/")]
        document["status"]["images"].append({"names": names, "sizeBytes": 1})
        return
    report = orjson.loads(document["metadata"]["annotations"][CACHED]) | {name: "1Gi"}
    document["metadata"]["annotations"][CACHED] = orjson.dumps(report).decode()


def starts(documents):
    """Whether the scheduler would place the pod, or the gang as a whole."""
    view = ClusterView.of(documents)
    gang = view.gang(("ns", "g")) if documents[POD_GROUPS] else None
    pods = tuple(view.pod(one) for one in documents[PODS])
    [decision] = plan_cycle(Placer(view.snapshot), [QueueItem(pods, gang)]).decisions
    return bool(decision.placements)


def done(documents, suggestion):
    """The documents after somebody did what the suggestion says; None for what is not tried."""
    after = deepcopy(documents)
    nodes = {n["metadata"]["name"]: n for n in after[NODES]}
    match suggestion.kind:
        case "combination":
            for part in suggestion.parts:
                after = done(after, part) if after is not None else None
        case "prefer-data":
            for one in after[PODS]:
                one["metadata"]["annotations"].pop(LOCALITY, None)
        case "cache-data":
            what = re.fullmatch(r"cache (.*) on (node|\d+ nodes) .*", suggestion.text)[1]
            where = [suggestion.node] if suggestion.node else suggestion.subject.split(",")
            for name in where:
                for data in what.split(" and "):
                    add_to(nodes[name], data)
        case "add-node":
            for i in range(suggestion.amount):
                fresh = deepcopy(nodes[suggestion.node])
                labels = fresh["metadata"]["labels"] | {"kubernetes.io/hostname": f"new-{i}"}
                fresh["metadata"] |= {"name": f"new-{i}", "labels": labels}
                fresh["metadata"]["annotations"] = {}
                fresh["status"]["images"] = []
                after[NODES].append(fresh)
        case "lower-min-count":
            policy = after[POD_GROUPS][0]["spec"]["schedulingPolicy"]
            policy["gang"]["minCount"] = suggestion.amount
        case "remove-topology":
            after[POD_GROUPS][0]["spec"].pop("schedulingConstraints")
        case "add-resource":
            book = nodes[suggestion.node]["status"]["allocatable"]
            book["cpu"] = f"{1000 * int(book['cpu']) + suggestion.amount}m"
        case _:
            return None
    return after


worlds = st.tuples(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.sets(st.sampled_from(NAMES))),
        min_size=1,
        max_size=4,
    ),
    st.lists(
        st.tuples(st.integers(1, 3), st.sets(st.sampled_from(NAMES), max_size=2)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["", "rack"]),
)


@settings(max_examples=150, deadline=None)
@given(worlds)
def test_advice_about_data_holds_once_it_is_followed(world):
    nodes, pods, key = world
    single = len(pods) == 1
    documents = {
        NODES: [node(f"n{i}", *given) for i, given in enumerate(nodes)],
        PODS: [pod(f"p{i}", *given, "" if single else "g") for i, given in enumerate(pods)],
        POD_GROUPS: [] if single else [gang(len(pods), key)],
    }
    subject = documents[PODS if single else POD_GROUPS][0]
    for suggestion in explain(documents, subject).suggestions:
        after = done(documents, suggestion)
        if after is None:
            continue
        event(suggestion.kind)
        assert starts(after), suggestion
