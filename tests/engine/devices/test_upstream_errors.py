"""First fit gives upstream's errors too, not only its devices: which is met, and when it is met.

Found by running upstream's allocator and ours on the same random claims and slices.
"""

from __future__ import annotations

import pytest

from kubarium.engine.devices.model import (
    ALL,
    Allocation,
    AllocationError,
    Capacity,
    ClaimSpec,
    Constraint,
    Device,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    DeviceToleration,
    RequestEntry,
)
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.view.devices import claim_spec

from .stock import gpu, inventory, names, request, run, spec, text, use


@pytest.mark.parametrize("best_fit", [True, False])
def test_a_selector_that_fails_late_is_an_error_in_first_fit_and_no_fit_otherwise(best_fit):
    """The first request holds g0 for longer than a search waits before it prunes."""
    devices = [Device(f"g{i}", {"d/kind": text("x")} if i else {}) for i in range(14)]
    claim = spec(request(2, name="a"), request(13, "!kind=x", name="b"))
    stock = inventory(devices, best_fit=best_fit)
    if best_fit:
        assert run(stock, claim) is None
    else:
        with pytest.raises(AllocationError, match="selector #0 on device d/p/g0"):
            run(stock, claim)


def test_counters_that_do_not_suffice_are_seen_before_a_constraint_of_all_devices():
    parts = [Device("a", {"d/numa": text("0")}), Device("b", consumes=use(3))]
    everything = spec(request(mode=ALL), match="d/numa")
    assert run(inventory(parts, counters=[gpu(2)]), everything) is None
    with pytest.raises(AllocationError, match="cannot add device d/p/b"):
        run(inventory(parts, counters=[gpu(3)]), everything)


def test_capacity_of_all_devices_is_asked_after_their_constraints():
    """The first request leaves too little of b for the second, which b lacks an attribute for."""
    nics = {
        name: Device(name, attributes, {"bw": Capacity(10)}, allow_multiple=True)
        for name, attributes in (("a", {"d/numa": text("0")}), ("b", {}))
    }
    share = {"capacity": (("bw", 6),)}
    entries = (request(1, name="one", **share), request(mode=ALL, name="all", **share))
    claim = ClaimSpec(entries, (Constraint(("all",), match="d/numa"),))
    with pytest.raises(AllocationError, match="cannot add device d/p/b"):
        run(inventory([nics["b"], nics["a"]]), claim)
    assert run(inventory([nics["a"]]), claim) is None, "here the constraint is satisfied"


def test_all_devices_are_gathered_pool_by_pool():
    """A selector that fails in one pool comes before what is wrong with the next one."""
    stock = inventory([Device("g0")], pool="p1")
    inventory([Device("g0")], pool="p2", into=stock, slice_count=2)
    with pytest.raises(AllocationError, match="on device d/p1/g0") as found:
        run(stock, spec(request(1, "!kind=x", mode=ALL)))
    assert not found.value.node_only
    with pytest.raises(AllocationError, match="resource pool d/p2 is currently being updated"):
        run(stock, spec(request(mode=ALL)))


@pytest.mark.parametrize("best_fit", [True, False])
def test_an_overdrawn_counter_set_closes_the_whole_pool_in_first_fit_only(best_fit):
    devices = [Device("a", consumes=use(4)), Device("b", consumes=use(1, "other"))]
    sets = [gpu(3), gpu(3, "other")]
    stock = inventory(devices, counters=sets, best_fit=best_fit)
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "p", "a")),)))
    found = run(stock, spec(request()))
    assert found is None if not best_fit else names(found) == [["b"]]


def test_a_missing_attribute_comes_with_upstreams_advice():
    with pytest.raises(AllocationError, match=r"no such key: kind\. consider using CEL optional"):
        run(inventory([Device("g0")]), spec(request(1, "!kind=x")))


def test_a_toleration_without_a_key_is_for_all_keys_also_when_values_must_be_equal():
    taint = DeviceTaint("k", "v", "NoSchedule")
    stock = inventory([Device("g0", taints=(taint,))])

    def with_toleration(**fields):
        return run(stock, spec(request(tolerations=(DeviceToleration(**fields),))))

    assert names(with_toleration(operator="Equal", value="v")) == [["g0"]]
    assert with_toleration(operator="Equal", value="w") is None
    assert with_toleration(operator="Equal", value="v", effect="NoExecute") is None
    assert with_toleration(operator="Odd", value="v") is None


@pytest.mark.parametrize("best_fit", [True, False])
def test_a_device_whose_selector_has_several_terms_is_kept_to_the_node(best_fit):
    """Only its first term would be written otherwise, which need not be the node's."""
    terms = tuple(
        NodeTerm(fields=(Requirement("metadata.name", "In", (name,)),)) for name in ("m", "n")
    )
    device = Device("g0", node_terms=terms)
    stock = inventory([device], best_fit=best_fit, node_name="", per_device=True)
    if not best_fit:
        with pytest.raises(AllocationError, match=r"claim c0: unsupported .* with 2 terms"):
            run(stock, spec(request()))
        return
    [found] = run(stock, spec(request()))
    assert found.scope.admits("n", {})
    assert not found.scope.admits("m", {})


def test_a_clause_that_two_devices_have_in_another_order_is_written_once():
    """Values of a requirement are a set; source: the allocator's createNodeSelector."""

    def at(*zones):
        return (NodeTerm((Requirement("zone", "In", zones),)),)

    here = {"zone": "b"}
    devices = [Device("g0", node_terms=at("a", "b")), Device("g1", node_terms=at("b", "a"))]
    stock = inventory(devices, node_name="", per_device=True)
    [found] = stock.search("n", here, [("c", spec(request(2)))]).run()
    assert found.scope.terms == at("a", "b")
    other = [devices[0], Device("g1", node_terms=at("b", "c"))]
    stock = inventory(other, node_name="", per_device=True)
    [found] = stock.search("n", here, [("c", spec(request(2)))]).run()
    assert found.scope.terms == (NodeTerm(at("a", "b")[0].labels + at("b", "c")[0].labels),)


def test_a_request_is_read_as_it_is_written():
    """Only what is left out gets the API's defaults; an expression may be empty, and is CEL's."""

    def read(**fields):
        document = {"name": "r", "exactly": {"deviceClassName": "any", **fields}}
        [entry] = claim_spec({"devices": {"requests": [document]}}).requests
        return entry.alternatives[0]

    assert (read().mode, read().count) == ("ExactCount", 1)
    assert (read(allocationMode="ExactCount", count=0).count) == 0
    stock = inventory([Device("g0")])
    odd = spec(RequestEntry("r", (read(allocationMode=""),)))
    with pytest.raises(AllocationError, match=r"request r: unsupported count mode $"):
        run(stock, odd)
    assert read(selectors=[{"cel": {}}, {}, {"cel": {"expression": "e"}}]).selectors == (
        "",
        None,
        "e",
    )
