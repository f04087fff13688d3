"""The view follows documents, and what was only assumed survives what does not concern it."""

from __future__ import annotations

from kubarium.api.kinds import NODES, PODS, RESOURCE_CLAIMS
from kubarium.engine.devices.model import Allocation, DeviceId, DeviceResult
from kubarium.view.cluster import ClusterView

KEY = ("ns", "p")


def node():
    allocatable = {"cpu": "4", "memory": "1Gi", "pods": "10"}
    return {"metadata": {"name": "a"}, "status": {"allocatable": allocatable}}


def pod(on="", phase="Pending", labels=None):
    requests = {"cpu": "1"}
    spec = {"containers": [{"name": "c", "resources": {"requests": requests}}]}
    if on:
        spec["nodeName"] = on
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "labels": labels or {}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


def view():
    found = ClusterView()
    found.apply(NODES, None, node())
    return found


def cpu_used(found):
    return int(found.snapshot.requested[0, found.snapshot.rows["a"]])


def test_a_bound_pod_takes_room_until_it_ends():
    found = view()
    found.apply(PODS, None, pod(on="a"))
    assert cpu_used(found) == 1000
    found.apply(PODS, pod(on="a"), pod(on="a", phase="Running"))
    assert cpu_used(found) == 1000
    found.apply(PODS, pod(on="a"), pod(on="a", phase="Succeeded"))
    assert cpu_used(found) == 0
    found.snapshot.check()


def test_an_assumed_pod_stays_until_it_is_confirmed_or_forgotten():
    found = view()
    found.snapshot.place(found.pod(pod()), "a")
    found.apply(PODS, pod(), pod(labels={"new": "label"}))
    assert found.snapshot.node_of(KEY) == "a"
    found.forget_assumed(KEY)
    assert found.snapshot.node_of(KEY) is None
    found.apply(PODS, pod(), pod(on="a"))
    found.forget_assumed(KEY)
    assert found.snapshot.node_of(KEY) == "a"


def test_a_pod_may_come_before_its_node():
    found = ClusterView()
    found.apply(PODS, None, pod(on="a"))
    found.apply(NODES, None, node())
    assert cpu_used(found) == 1000
    found.apply(NODES, node(), None)
    found.apply(NODES, None, node())
    assert cpu_used(found) == 1000
    found.snapshot.check()


def claim(device=""):
    document = {
        "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}},
    }
    if device:
        result = {"request": "r", "driver": "d", "pool": "p", "device": device}
        document["status"] = {"allocation": {"devices": {"results": [result]}}}
    return document


def test_an_assumed_allocation_stays_until_it_is_confirmed_or_forgotten():
    found, key, gpu = view(), ("ns", "c"), DeviceId("d", "p", "g")
    found.apply(RESOURCE_CLAIMS, None, claim())
    found.snapshot.allocate(key, Allocation((DeviceResult("r", gpu),)))
    found.apply(RESOURCE_CLAIMS, claim(), claim())
    assert found.snapshot.inventory.ledger.in_use(gpu)
    found.apply(RESOURCE_CLAIMS, claim(), claim("g"))
    assert found.snapshot.inventory.ledger.in_use(gpu)
    found.apply(RESOURCE_CLAIMS, claim("g"), claim())
    assert not found.snapshot.inventory.ledger.in_use(gpu)
    found.snapshot.inventory.ledger.check()
