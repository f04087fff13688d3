"""What a pod's claims add to its control groups, and which node operations they skip."""

from __future__ import annotations

import pytest

from kubarium.node.drivers.prepare import ClaimProblem, drivers_skipped, prepare_claim
from kubarium.node.runtimes.process.cgroups import container_amounts, pod_amounts

GIB = 2**30


def pod(*containers, statuses=(), **spec):
    return {
        "spec": {"containers": list(containers), **spec},
        "status": {"nodeAllocatableResourceClaimStatuses": list(statuses)},
    }


def container(name, **limits):
    return {"name": name, "resources": {"limits": limits, "requests": limits}}


CORES = {
    "resourceClaimName": "cores",
    "containers": ["a", "b"],
    "mapping": [{"name": "cpu", "quantity": "2"}],
}
GPU = {
    "resourceClaimName": "gpu",
    "containers": ["a"],
    "overhead": [{"name": "memory", "perPod": "1Gi", "perContainer": "512Mi"}],
}


def test_each_user_may_use_all_that_a_claim_brings_and_the_pod_has_it_once():
    document = pod(
        container("a", cpu="1", memory="1Gi"),
        container("b", cpu="1", memory="1Gi"),
        statuses=[CORES, GPU],
    )
    whole = pod_amounts(document)
    assert (whole.milli_cpu, whole.milli_cpu_request) == (4000, 4000)
    assert whole.memory == 2 * GIB + GIB + GIB // 2


def test_limits_that_are_not_set_stay_unset():
    document = pod({"name": "a"}, statuses=[CORES])
    whole = pod_amounts(document)
    assert whole.milli_cpu is None
    assert whole.milli_cpu_request == 2000, "shares count what the scheduler has reserved"
    assert container_amounts({}, {"cpu": 2}).milli_cpu is None
    assert container_amounts({"limits": {"cpu": "1"}}, {"cpu": 2}).milli_cpu == 3000


def test_limits_of_the_pod_itself_cover_its_claims():
    document = pod(container("a", cpu="1"), statuses=[CORES], resources={"limits": {"cpu": "3"}})
    assert pod_amounts(document).milli_cpu == 3000


def result(driver="d.example.com", skip=()):
    return {
        "request": "r",
        "driver": driver,
        "pool": "p",
        "device": "d",
        "skipNodeOperations": list(skip),
    }


@pytest.mark.parametrize(
    ("skips", "skipped"),
    [
        ([["*"]], True),
        ([["NodePrepareResources", "NodeUnprepareResources"]], True),
        ([["NodeUnprepareResources"]], False),
        ([["*"], []], False),
        ([["SomethingNew"]], False),
    ],
)
def test_a_driver_is_skipped_if_all_its_devices_say_so(skips, skipped):
    results = [result(skip=s) for s in skips]
    assert bool(drivers_skipped(results, "NodePrepareResources")) == skipped


def test_a_skipped_driver_need_not_be_on_the_node():
    def claim(*results):
        allocation = {"devices": {"results": list(results)}}
        return {"metadata": {"name": "c"}, "status": {"allocation": allocation}}

    assert prepare_claim(claim(result(skip=["*"])), {}) == []
    with pytest.raises(ClaimProblem, match=r"DRA driver d\.example\.com is not registered"):
        prepare_claim(claim(result()), {})
    with pytest.raises(ClaimProblem, match=r"DRA driver other\.example\.com is not registered"):
        prepare_claim(claim(result(skip=["*"]), result("other.example.com")), {})
