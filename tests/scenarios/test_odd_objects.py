"""Objects at the edges of what is valid, and such as no API server would take today, in any order:
no component dies, no handler raises, a sound pod is scheduled, and `kubarium why` answers."""

import logging
import random
import time
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    REPLICA_SETS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.client.gather import gather
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.server.local import LocalClient
from kubarium.testing import run_virtual
from kubarium.view import why
from tests.scenarios import oddities
from tests.scenarios.oddities import CANARY, Oddities

EXPLAINED = (PODS, RESOURCE_CLAIMS, POD_GROUPS, COMPOSITE_POD_GROUPS, NODES)
STEPS = 30
# CPU seconds for one answer about a cluster of a dozen objects; what does not end takes for ever.
MOST_CPU_S = 5.0


def file():
    devices = [{"profile": "gpu.example.com", "count": 2}]
    taint = {"key": CANARY, "effect": "NoSchedule"}
    return ClusterFile(
        [
            NodePool("n", 2, "simulated", devices=devices),
            NodePool(CANARY, 1, "simulated", taints=[taint]),
        ]
    )


class Trouble(logging.Handler):
    """Tracebacks and errors that Kubarium logs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.seen = []

    def emit(self, record):
        if record.exc_info or record.levelno >= logging.ERROR:
            self.seen.append(f"{record.getMessage()} {record.exc_info}")


async def put_raw(cluster, kind, document):
    """Into the store as it is, as from an older version or a backup."""
    registry = cluster.embedded.server.registry
    metadata = document["metadata"]
    namespace = "default" if kind.namespaced else ""
    record = registry.find(kind, namespace, metadata["name"])
    held = record.value["metadata"] if record else {}
    metadata["uid"] = held.get("uid") or f"raw-{cluster.embedded.store.revision}"
    metadata["creationTimestamp"] = held.get("creationTimestamp") or "2026-01-01T00:00:00Z"
    if namespace:
        metadata["namespace"] = namespace
    registry.commit(kind, document, record, False)


async def do_something(cluster, odd, raw):
    """Make, change or delete an object; a refusal is as good as a success."""
    document = odd.document()
    kind, name = odd.kind_of(document), document["metadata"]["name"]
    resource, namespace = kind.resource, "default" if kind.namespaced else ""
    client = cluster.client
    what = odd.random.choice(["create", "create", "update", "status", "delete", "raw"])
    try:
        if what == "delete":
            await client.delete(resource, name, namespace)
        elif what == "raw" and raw:
            await put_raw(cluster, kind, document)
        elif what in ("create", "raw"):
            made = await client.create(resource, document, namespace)
            if document.get("status") and kind.has_status:
                changed = {**made, "status": document["status"]}
                await client.update(resource, changed, namespace, subresource="status")
        else:
            held = await client.get(resource, name, namespace)
            changed = odd.changed(held)
            if what == "status" and kind.has_status:
                changed = {**held, "status": changed.get("status") or {}}
                await client.update(resource, changed, namespace, subresource="status")
            else:
                await client.update(resource, changed, namespace)
    except ApiError as error:
        if error.code >= 500:
            raise


async def answers(cluster):
    """`kubarium why` of everything that it speaks of."""
    documents = await gather(cluster.client, why.RESOURCES_NEEDED)
    for resource in EXPLAINED:
        for document in documents[resource]:
            began = time.process_time()
            kind = {"apiVersion": resource.api_version, "kind": resource.kind}
            told = why.explain(documents, kind | document)
            assert told.lines()
            assert told.to_json()
            assert time.process_time() - began < MOST_CPU_S, document


async def canary_is_scheduled(cluster):
    document = oddities.pod(CANARY)
    del document["status"]
    document["spec"]["containers"][0]["resources"] = {}
    document["spec"]["tolerations"] = [{"key": CANARY, "operator": "Exists"}]
    document["spec"]["nodeSelector"] = {"kubernetes.io/hostname": f"{CANARY}-0"}
    await cluster.client.create(PODS, document, "safe")

    async def has_node():
        return (await cluster.get(PODS, CANARY, "safe"))["spec"].get("nodeName")

    await cluster.until(has_node, 10, "the canary is scheduled")


def nothing_broke(cluster, trouble):
    embedded = cluster.embedded
    assert not embedded._failed.done(), embedded._failed.exception()
    failures = {
        name: counts["lastError"]
        for informers in embedded._informers
        for name, counts in informers.statistics().items()
        if counts["failures"]
    }
    assert not failures
    assert not trouble.seen


SAFE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "safe"}}


@contextmanager
def watched():
    """What is logged meanwhile that should not be."""
    trouble, logger = Trouble(), logging.getLogger("kubarium")
    logger.addHandler(trouble)
    try:
        yield trouble
    finally:
        logger.removeHandler(trouble)


async def survive(cluster, draws, raw):
    odd = Oddities(draws)
    with watched() as trouble:
        await cluster.client.create(NAMESPACES, SAFE)
        await cluster.client.create(PRIORITY_CLASSES, oddities.priority_class("high"))
        for _ in range(STEPS):
            await do_something(cluster, odd, raw)
            await cluster.clock.sleep(draws.choice([0, 0, 0, 0.1, 5, 40]))
        await answers(cluster)
        await canary_is_scheduled(cluster)
        await cluster.clock.sleep(400)
        await answers(cluster)
        nothing_broke(cluster, trouble)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_odd_objects_stop_nobody(seed):
    run_virtual(lambda cluster: survive(cluster, random.Random(seed), raw=False), file=file())


# Documents that are in the store although no rule of today would let them in.


def _strange_node():
    document = oddities.node("bare")
    del document["spec"]
    document["status"]["conditions"] = [{"type": "Ready"}, {"status": "True"}, {}]
    return NODES, document


def _strange_slice():
    document = oddities.resource_slice("s0")
    document["spec"] = {"devices": [{}, {"name": "d0", "attributes": {"x": {}}}]}
    return RESOURCE_SLICES, document


def _slice_without_spec():
    return RESOURCE_SLICES, oddities.thing(oddities.RESOURCE, "ResourceSlice", "s0")


def _strange_claim():
    document = oddities.held_claim("a")
    document["status"]["allocation"]["devices"]["results"].append({"request": "r0"})
    document["status"]["allocation"]["allocationTimestamp"] = "yesterday"
    return RESOURCE_CLAIMS, document


def _strange_budget():
    document = oddities.budget("b")
    term = {"key": "app", "operator": "Like", "values": ["a"]}
    document["spec"]["selector"] = {"matchExpressions": [term]}
    return POD_DISRUPTION_BUDGETS, document


def _strange_replica_set():
    term = {"key": "app", "operator": "Like", "values": ["a"]}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": oddities.pod("x")["spec"]}
    spec = {"selector": {"matchExpressions": [term]}, "template": template, "replicas": 0}
    return REPLICA_SETS, oddities.thing("apps/v1", "ReplicaSet", "rs", spec)


def _orphan():
    document = oddities.pod("a")
    document["metadata"]["labels"] = {"app": "a"}
    document["metadata"]["ownerReferences"] = [{"controller": True, "name": "x"}]
    return PODS, document


STORED = {
    "a node without spec, of strange conditions": _strange_node,
    "a slice without driver and pool": _strange_slice,
    "a slice without spec": _slice_without_spec,
    "an allocation without device": _strange_claim,
    "a budget of an unknown operator": _strange_budget,
    "a replica set of an unknown operator": _strange_replica_set,
    "an owner that is not named": _orphan,
}


@pytest.mark.parametrize("case", STORED)
def test_what_is_in_the_store_stops_nobody(case, monkeypatch):
    # What the store holds is kept as it is by who writes another part of the object.
    monkeypatch.setattr(LocalClient, "checks_fresh", False)

    async def story(cluster):
        with watched() as trouble:
            await cluster.client.create(NAMESPACES, SAFE)
            resource, document = STORED[case]()
            kind = cluster.embedded.server.catalog.of(resource)
            await put_raw(cluster, kind, document)
            for make, name in ((oddities.taint_rule, "r"), (oddities.pool_request, "q")):
                await cluster.apply(make(name))
            await cluster.apply(oddities.pod("labelled") | {"status": {}})
            await cluster.clock.sleep(60)
            await answers(cluster)
            await canary_is_scheduled(cluster)
            await cluster.clock.sleep(400)
            nothing_broke(cluster, trouble)

    run_virtual(story, file=file())


def test_a_budget_of_an_unknown_operator_hides_no_other():
    async def story(cluster):
        resource, document = _strange_budget()
        kind = cluster.embedded.server.catalog.of(resource)
        await put_raw(cluster, kind, document)
        sound = oddities.budget("c")
        await cluster.apply(sound)
        labelled = oddities.pod("a")
        labelled["metadata"]["labels"] = {"app": "a"}
        await cluster.apply(labelled)

        async def counted():
            return (await cluster.get(resource, "c")).get("status", {}).get("expectedPods")

        assert await cluster.until(counted, 20, "the sound budget counts the pod") == 1

    run_virtual(story, file=file())


def test_what_cannot_be_read_is_left_out_of_an_answer_and_named():
    async def story(cluster):
        await cluster.apply(oddities.pod("a") | {"status": {}})
        documents = dict(await gather(cluster.client, why.RESOURCES_NEEDED))
        documents[NODES] = [*documents[NODES], {"metadata": {"name": "odd", "labels": 5}}]
        [pod] = documents[PODS]
        told = why.explain(documents, {"apiVersion": "v1", "kind": "Pod", **pod})
        assert any("Node odd cannot be read and is left out" in line for line in told.lines())

    run_virtual(story, file=file())


def test_numbers_that_python_does_not_read_are_refused_or_told():
    """A quantity, a selector and an annotation of 5000 digits: each is somebody's own problem."""
    digits = "9" * 5000
    expression = f'device.capacity["gpu.example.com"].memory.compareTo(quantity("{digits}")) > 0'

    async def story(cluster):
        with watched() as trouble:
            await cluster.client.create(NAMESPACES, SAFE)
            huge = oddities.pod("huge")
            huge["spec"]["containers"][0]["resources"] = {"requests": {"cpu": digits}}
            with pytest.raises(ApiError, match=r"resources\.requests\.cpu: quantities must match"):
                await cluster.apply(huge)
            wish = oddities.simple_claim("a")
            exactly = {"deviceClassName": "gpu.example.com"}
            exactly["selectors"] = [{"cel": {"expression": expression}}]
            wish["spec"]["devices"]["requests"][0]["exactly"] = exactly
            await cluster.apply(wish)
            choosy = oddities.pod("choosy")
            choosy["spec"]["resourceClaims"] = [{"name": "x", "resourceClaimName": "a"}]
            await cluster.apply(choosy)
            annotations = {"kubarium.dev/devices.gpu.example.com": digits}
            await cluster.client.patch(NODES, "n-0", {"metadata": {"annotations": annotations}})
            await cluster.clock.sleep(60)
            told = await cluster.condition(PODS, "choosy", "PodScheduled")
            assert "claim default/a: selector #0" in told["message"]
            assert len(await cluster.events("InvalidDeviceCount")) == 1
            await canary_is_scheduled(cluster)
            nothing_broke(cluster, trouble)

    run_virtual(story, file=file())


def test_a_pod_that_asks_for_more_than_can_be_counted_leaves_the_books_right():
    """Quantities may be as large as they like, and a pod that names its node is not asked."""

    async def story(cluster):
        container = {"image": "busybox", "resources": {"requests": {"cpu": "9" * 30}}}
        many = [{"name": f"c{i}"} | container for i in range(200)]
        with watched() as trouble:
            for i in range(3):
                document = oddities.pod(f"huge-{i}")
                del document["status"]
                document["spec"] |= {"containers": many, "nodeName": "n-0"}
                await cluster.client.create(PODS, document, "default")
            await cluster.apply(oddities.pod("a"))
            await cluster.clock.sleep(5)
            assert (await cluster.get(PODS, "a"))["spec"].get("nodeName") == "n-1"
            nothing_broke(cluster, trouble)

    run_virtual(story, file=file())
