"""What a pod's volumes keep it from."""

from __future__ import annotations

import pytest

from kubarium.engine import reasons
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.explain.storage import volume_rules
from kubarium.engine.model import Node, Pod, PodShape, VolumeClaim
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import Profile
from kubarium.engine.snapshot import Snapshot


@pytest.mark.parametrize(("disabled", "told"), [((), 3), (("VolumeBinding",), 0)])
def test_claims_that_wait_are_told_of_if_the_profile_looks_at_them(disabled, told):
    snapshot = Snapshot()
    snapshot.set_node(Node("n", (("pods", 10),)))
    keys = (("ns", "a"), ("ns", "b"))
    for key in keys:
        snapshot.volumes[key] = VolumeClaim(key, choices=())
    pod = Pod(("ns", "p"), PodShape(), "p", volumes=keys)
    rules = list(volume_rules(snapshot, pod, Profile(disabled=frozenset(disabled))))
    assert sum(reason == reasons.VOLUME_BINDING for _, reason, *_ in rules) == told


def test_who_holds_a_claim_of_one_pod_leaves_its_room_too():
    """The node is full with the very pod that has the ReadWriteOncePod claim."""
    snapshot = Snapshot()
    snapshot.set_node(Node("n0", (("cpu", 1000), ("pods", 1))))
    data = VolumeClaim(("ns", "data"), exclusive=True)
    snapshot.volumes[data.key] = data
    snapshot.place(Pod(("ns", "holder"), PodShape((("cpu", 1000),)), volumes=(data.key,)), "n0")
    subject = Subject((Pod(("ns", "p"), PodShape((("cpu", 500),)), volumes=(data.key,)),))
    found = Explainer(Placer(snapshot)).suggest(subject)
    assert [s.kind for s in found] == ["free-pod"]
