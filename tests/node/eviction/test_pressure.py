"""Thresholds over time, who goes first, and what is said to them."""

from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.eviction.pressure import Pressure
from kubarium.node.eviction.ranking import low_message, ranked, storage_excess
from kubarium.node.eviction.usage import ContainerUsage, PodUsage, Signal
from kubarium.node.kubelet_config import Amount, Threshold, read_amount

MI = 1 << 20
HARD = Threshold("memory.available", Amount(100 * MI))
SOFT = Threshold("memory.available", Amount(300 * MI), 60.0)
DISK = Threshold("nodefs.available", read_amount("10%"), 0.0, Amount(50 * MI))


def memory(mebibytes):
    return {"memory.available": Signal(mebibytes * MI, 1000 * MI)}


def disk(mebibytes):
    return {"nodefs.available": Signal(mebibytes * MI, 1000 * MI)}


def test_a_hard_threshold_is_acted_on_at_once_and_its_condition_lasts_a_while():
    pressure = Pressure([HARD], 300.0)
    assert pressure.step(memory(100), 0.0) is None
    assert pressure.conditions == ()
    assert pressure.step(memory(99), 1.0) == HARD
    assert pressure.conditions == ("MemoryPressure",)
    assert pressure.step(memory(500), 2.0) is None
    assert pressure.step(memory(500), 300.9) is None
    assert pressure.conditions == ("MemoryPressure",), "five minutes since it was last seen"
    pressure.step(memory(500), 301.0)
    assert pressure.conditions == ()


def test_a_soft_threshold_waits_for_its_grace_period_and_begins_anew_after_a_break():
    pressure = Pressure([SOFT], 0.0)
    assert pressure.step(memory(200), 0.0) is None
    assert pressure.conditions == ("MemoryPressure",)
    assert pressure.step(memory(200), 59.0) is None
    assert pressure.step(memory(400), 59.5) is None
    assert pressure.step(memory(200), 61.0) is None
    assert pressure.step(memory(200), 121.0) == SOFT


def test_what_is_acted_on_goes_on_until_the_minimum_is_reclaimed():
    pressure = Pressure([DISK], 0.0)
    assert pressure.step(disk(99), 0.0) == DISK
    assert pressure.step(disk(120), 1.0) == DISK, "less than 10 % and 50 Mi"
    assert pressure.step(disk(150), 2.0) is None
    assert pressure.step(disk(120), 3.0) is None, "it is not met anew"


def test_memory_comes_before_disk_and_hard_before_soft():
    pressure = Pressure([DISK, SOFT, HARD], 0.0)
    both = memory(50) | disk(10)
    assert pressure.step(both, 0.0) == HARD
    assert pressure.step(both, 100.0) == HARD
    assert pressure.conditions == ("MemoryPressure", "DiskPressure")
    assert Pressure([DISK, HARD], 0.0).step(disk(10), 0.0) == DISK, "memory is not known"


def pod(name, memory="", priority=0, limits=None, **spec):
    requests = {"memory": memory} if memory else {}
    resources = {"requests": requests} | ({"limits": limits} if limits else {})
    container = {"name": "main", "resources": resources}
    return {
        "metadata": {"uid": name, "name": name},
        "spec": {"priority": priority, "containers": [container]} | spec,
    }


def uses(memory=0, storage=0, processes=0):
    return PodUsage({"main": ContainerUsage(memory * MI, storage * MI)}, processes=processes)


def order(resource, *pairs):
    usage = {document["metadata"]["uid"]: used for document, used in pairs}
    found = ranked([document for document, _ in pairs], usage, resource)
    return [document["metadata"]["name"] for document in found]


def test_who_uses_more_than_requested_goes_first_then_by_priority_then_by_how_much():
    assert order(
        "memory",
        (pod("modest", "500Mi"), uses(400)),
        (pod("important", "100Mi", 9), uses(300)),
        (pod("greedy", "100Mi"), uses(400)),
        (pod("greedier"), uses(350)),
        (pod("idle", "10Mi"), uses(10)),
    ) == ["greedier", "greedy", "important", "idle", "modest"]


def test_for_processes_the_priority_decides():
    assert order(
        "pids",
        (pod("few"), uses(processes=2)),
        (pod("many", priority=1), uses(processes=900)),
        (pod("more"), uses(processes=5)),
    ) == ["more", "few", "many"]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 3)), max_size=8))
def test_nobody_within_the_request_goes_before_somebody_beyond_it(pods):
    pairs = [(pod(str(n), f"{asked}Mi", p), uses(used)) for n, (asked, used, p) in enumerate(pods)]
    beyond = [used > asked for asked, used, _ in pods]
    found = [beyond[int(name)] for name in order("memory", *pairs)]
    assert found == sorted(found, reverse=True)


def test_the_message_is_kubelets():
    text = low_message(
        pod("p", "100Mi"), uses(150), "memory", HARD, Signal(50 * MI + 1024, 1000 * MI)
    )
    assert text == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51201Ki. "
        "Container main was using 150Mi, request is 100Mi, has larger consumption of memory. "
    )
    quiet = low_message(pod("p", "200Mi"), uses(150), "memory", HARD, Signal(0, 0))
    assert quiet.endswith("available: 0. ")


# Local storage


def test_limits_on_local_storage():
    volume = [{"name": "data", "emptyDir": {"sizeLimit": "10Mi"}}]
    holds = PodUsage({}, {"data": 11 * MI})
    assert storage_excess(pod("p", volumes=volume), holds) == (
        'Usage of EmptyDir volume "data" exceeds the limit "10Mi". '
    )
    assert storage_excess(pod("p", volumes=volume), PodUsage({}, {"data": 10 * MI})) == ""
    limited = pod("p", limits={"ephemeral-storage": "20Mi"})
    assert storage_excess(limited, uses(storage=20)) == ""
    assert storage_excess(limited, uses(storage=21)) == (
        "Pod ephemeral local storage usage exceeds the total limit of containers 20Mi. "
    )
    second = {"name": "b", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}
    limited["spec"]["containers"].append(second)
    assert storage_excess(limited, uses(storage=21)) == (
        'Container main exceeded its local ephemeral storage limit "20Mi". '
    )
    assert storage_excess(pod("p"), uses(storage=10_000)) == "", "nobody said how much"
    whole = pod("p", resources={"limits": {"ephemeral-storage": "5Mi"}})
    assert "5Mi" in storage_excess(whole, uses(storage=6))
