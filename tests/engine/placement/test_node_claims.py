"""What claims take of their node's CPU and memory, added to what containers ask for (KEP-5517)."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    Capacity,
    Device,
    DeviceId,
    DeviceResult,
    NodeResource,
    Slice,
)
from kubarium.engine.model import ClaimShare, Overhead, Pod, PodPart, PodShape
from kubarium.engine.placement.node_claims import charged, is_mapped, shares_of
from kubarium.node.claimed import of_pod
from kubarium.view.pods import claim_shares, claim_shares_document

CLAIM = ("ns", "c")


def part(name, cpu=0, *claims, **kind):
    return PodPart(name, (("cpu", cpu),), claims, **kind)


def pod(*parts, cpu, level=()):
    shape = PodShape(requests=(("cpu", cpu),))
    return Pod(("ns", "p"), shape, claims=(CLAIM,), parts=parts, pod_level=level)


def mapped(amount, *containers):
    return ClaimShare(CLAIM, containers, (("cpu", amount),))


def overhead(per_pod, per_container, *containers):
    return ClaimShare(CLAIM, containers, (), (Overhead("cpu", per_pod, per_container),))


def cpu(document, *shares):
    return charged(document, shares).shape.request("cpu")


def test_what_is_mapped_counts_once_however_many_containers_use_it():
    two = pod(part("a", 100, CLAIM), part("b", 200, CLAIM), cpu=300)
    assert cpu(two, mapped(4000, "a", "b")) == 4300
    assert cpu(pod(part("a", 100), cpu=100), mapped(4000)) == 4100, "or none"


def test_overhead_counts_for_the_pod_and_for_each_user():
    two = pod(part("a", 100), part("b", 200), cpu=300)
    assert cpu(two, overhead(10, 5, "a", "b")) == 320
    assert cpu(two, overhead(None, 5, "a", "gone")) == 310, "unknown users count for ever"


def test_overhead_of_a_brief_container_counts_for_the_pods_whole_life():
    """As the node adds it to the pod's control group, and upstream to its requests."""
    parts = (part("init", 250, initial=True, brief=True), part("main", 200))
    assert cpu(pod(*parts, cpu=250), overhead(None, 100, "init")) == 350
    assert cpu(pod(*parts, cpu=250), overhead(None, 100, "main")) == 350
    assert cpu(pod(*parts, cpu=250), overhead(7, 100, "init", "main")) == 457


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.booleans()), max_size=4))
def test_the_scheduler_counts_what_the_node_adds(overheads):
    """Whatever containers are there: what the status says is what both take from it."""
    users = tuple(name for name, (_, _, uses) in zip("abcd", overheads, strict=False) if uses)
    shares = [overhead(pod_, each, *users) for pod_, each, _ in overheads]
    document = {"status": {"nodeAllocatableResourceClaimStatuses": claim_shares_document(shares)}}
    one = pod(part("a", 100), part("b", 50, initial=True, brief=True), cpu=100)
    assert cpu(one, *shares) == 100 + 1000 * of_pod(document).get("cpu", 0)


def test_requests_of_the_pod_as_a_whole_stay_as_they_are():
    whole = pod(part("a", 100), cpu=5000, level=(("cpu", 5000),))
    assert cpu(whole, mapped(4000, "a")) == 5000


def test_fractions_are_rounded_up_at_the_end():
    one = pod(part("a", 100), cpu=100)
    assert cpu(one, mapped(Fraction(1, 3)), mapped(Fraction(1, 3))) == 101


def stock(*resources, **more):
    device = Device("d", node_resources=resources, **more)
    found = Inventory()
    found.set_slice(Slice("s", "drv", "p", 1, 1, (device,), node_name="n"))
    return found


def held(**more):
    return Allocation((DeviceResult("r", DeviceId("drv", "p", "d"), **more),))


def test_a_mapping_multiplies_what_was_consumed():
    cores = NodeResource("cpu", "cores", 2000)
    inventory = stock(cores, capacity={"cores": Capacity(8)}, allow_multiple=True)
    share = held(shared=True, consumed=(("cores", 3),))
    assert is_mapped(inventory, share)
    one = pod(part("a", 0, CLAIM), cpu=0)
    [found] = shares_of(inventory, one, [(CLAIM, share)])
    assert (found.containers, found.mapped) == (("a",), (("cpu", 6000),))
    whole = stock(cores, capacity={"cores": Capacity(8)})
    [found] = shares_of(whole, one, [(CLAIM, held())])
    assert found.mapped == (("cpu", 16000),), "a device given whole has consumed everything"


def test_devices_that_take_nothing_of_the_node_cost_nothing():
    one = pod(part("a", 0, CLAIM), cpu=0)
    assert shares_of(stock(), one, [(CLAIM, held())]) == ()
    gone = Allocation((DeviceResult("r", DeviceId("drv", "p", "gone")),))
    assert shares_of(stock(NodeResource("cpu", "", 1)), one, [(CLAIM, gone)]) == ()


amounts = st.integers(1, 10_000)


@given(
    st.lists(st.tuples(st.sampled_from(["cpu", "memory"]), amounts), max_size=2),
    st.none() | amounts,
    st.none() | amounts,
)
def test_the_status_says_all_that_the_engine_decided(mapped, per_pod, per_container):
    over = () if per_pod is per_container is None else (Overhead("cpu", per_pod, per_container),)
    share = ClaimShare(CLAIM, ("a", "b"), tuple(sorted(dict(mapped).items())), over)
    document = {
        "metadata": {"name": "p", "namespace": "ns"},
        "status": {"nodeAllocatableResourceClaimStatuses": claim_shares_document([share])},
    }
    assert claim_shares(document) == (share,)
