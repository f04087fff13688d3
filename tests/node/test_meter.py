"""Who holds which device, as the metrics say it: from pods, claims and the Node."""

from __future__ import annotations

from kubarium.api.kinds import PODS, RESOURCE_CLAIMS
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.meter import Meter

DRIVER = "gpu.example.com"


class Kind:
    """An informer's store: documents by name."""

    def __init__(self, *documents):
        self._documents = {d["metadata"]["name"]: d for d in documents}

    def get(self, name, namespace=None):
        return self._documents.get(name)

    def add_index(self, name, keys):
        self._keys = keys

    def by_index(self, name, key):
        return [d for d in self._documents.values() if key in self._keys(d)]


class World:
    clock = None

    def __init__(self, pods, claims):
        kinds = {PODS.plural: Kind(*pods), RESOURCE_CLAIMS.plural: Kind(*claims)}
        self.informers = self
        self._kinds = kinds

    def get(self, resource):
        return self._kinds.get(resource.plural, Kind())


def pod(name, claims, running=True):
    state = {"running": {}} if running else {"terminated": {}}
    named = [{"name": c} for c in claims]
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "spec": {
            "nodeName": "n1",
            "resourceClaims": [{"name": c, "resourceClaimName": c} for c in claims],
            "containers": [{"name": "main", "resources": {"claims": named}}],
        },
        "status": {"containerStatuses": [{"name": "main", "state": state}]},
    }


def claim(name, *shares, pods=("p",)):
    results = [
        {"request": "r", "driver": DRIVER, "pool": "n1", "device": device, "consumedCapacity": took}
        for device, took in shares
    ]
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}"},
        "status": {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": p, "uid": f"uid-{p}"} for p in pods],
        },
    }


def held(pods, claims):
    meter = Meter(World(pods, claims), {DRIVER: DeviceConfig(DRIVER, 2, allow_multiple=True)})
    return {
        device: [(h.pod, h.container, h.claim, h.consumed) for h in holders]
        for (_, device), holders in meter.held("n1").items()
    }


def test_a_container_holds_each_claims_shares_of_a_device():
    both = [
        claim("a", ("gpu-0", {"memory": "10Gi"}), ("gpu-0", {"memory": "2Gi"})),
        claim("b", ("gpu-0", {"memory": "1Gi"}), ("gpu-1", {"memory": "80Gi"})),
    ]
    assert held([pod("p", ["a", "b"])], both) == {
        "gpu-0": [
            ("p", "main", "a", ({"memory": "10Gi"}, {"memory": "2Gi"})),
            ("p", "main", "b", ({"memory": "1Gi"},)),
        ],
        "gpu-1": [("p", "main", "b", ({"memory": "80Gi"},))],
    }


def test_only_running_containers_hold_devices_and_each_pod_of_a_shared_claim_does():
    shared = claim("a", ("gpu-0", {}), pods=("p", "q", "r"))
    pods = [pod("p", ["a"]), pod("q", ["a"]), pod("r", ["a"], running=False)]
    assert held(pods, [shared]) == {
        "gpu-0": [("p", "main", "a", ({},)), ("q", "main", "a", ({},))],
    }


def test_a_claim_that_is_not_the_pods_gives_it_nothing():
    assert held([pod("p", ["a"])], [claim("a", ("gpu-0", {}), pods=("q",))]) == {}
    assert held([pod("p", ["a"])], []) == {}
