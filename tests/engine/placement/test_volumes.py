"""Volume claims limit the nodes of their pods."""

from __future__ import annotations

from kubarium.engine import reasons
from kubarium.engine.model import Node, Pod, PodShape, VolumeClaim
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import NodeTerm, Requirement

from .worlds import snapshot_of

DATA = ("ns", "data")
ZONE = "topology.kubernetes.io/zone"


def on_host(name):
    return (NodeTerm((Requirement("host", "In", (name,)),)),)


def world(claim):
    cluster = [
        Node(n, (("cpu", 1000), ("pods", 10)), {"host": n, ZONE: f"z-{n}"}) for n in ("a", "b")
    ]
    snapshot = snapshot_of(cluster)
    if claim is not None:
        snapshot.volumes[claim.key] = claim
    return Placer(snapshot)


def pod(name="p"):
    return Pod(("ns", name), PodShape(requests=(("cpu", 100),)), volumes=(DATA,))


def test_a_bound_claim_pulls_its_pod_to_the_volumes_node():
    placement = world(VolumeClaim(DATA, terms=on_host("b"))).place(pod())
    assert placement is not None
    assert placement.node == "b"


def test_a_volumes_zone_counts_as_its_label():
    zone = Requirement(ZONE, "In", ("z-b", "z-c"))
    placement = world(VolumeClaim(DATA, zones=(zone,))).place(pod())
    assert placement is not None
    assert placement.node == "b"


def test_a_claim_that_waits_goes_where_some_volume_can_be_reached():
    placement = world(VolumeClaim(DATA, choices=(("x", on_host("x")), ("b", on_host("b"))))).place(
        pod()
    )
    assert placement is not None
    assert placement.node == "b"
    nowhere = world(VolumeClaim(DATA, choices=()))
    assert nowhere.place(pod()) is None
    assert nowhere.account(pod()).counts == {reasons.VOLUME_BINDING: 2}


def test_a_missing_claim_is_named():
    placer = world(None)
    assert placer.place(pod()) is None
    text = '0/2 nodes are available: persistentvolumeclaim "data" not found.'
    assert placer.account(pod()).message() == text


def test_an_exclusive_claim_has_one_pod_at_a_time():
    placer = world(VolumeClaim(DATA, exclusive=True))
    assert placer.place(pod("first")) is not None
    assert placer.place(pod("second")) is None
    assert placer.account(pod("second")).counts == {reasons.VOLUME_IN_USE: 2}
    placer.snapshot.displace(("ns", "first"))
    assert placer.place(pod("second")) is not None
