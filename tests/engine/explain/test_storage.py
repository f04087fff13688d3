"""What a pod's volumes keep it from."""

from __future__ import annotations

import pytest

from kubarium.engine import reasons
from kubarium.engine.explain.storage import volume_rules
from kubarium.engine.model import Node, Pod, PodShape, VolumeClaim
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
