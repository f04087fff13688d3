"""Which of several devices that would do is taken."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kubarium.engine.devices.model import (
    Allocation,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    Device,
    DeviceId,
    DeviceResult,
    RequestPolicy,
)
from kubarium.engine.devices.preference import (
    BEST_FIT,
    FIRST_FIT,
    SPREAD,
    AttributeOrder,
    DevicePreference,
)

from .stock import gpu, inventory, names, request, run, spec, text, use


def chosen(stock, claim, strategy, *attributes):
    stock.preference = DevicePreference(strategy, attributes)
    [found] = names(run(stock, claim))
    return found


def held(*devices, **more):
    return Allocation(tuple(DeviceResult("r", DeviceId("d", "p", d), **more) for d in devices))


def number(value):
    return AttributeValue("int", frozenset((value,)))


def shares():
    policy = RequestPolicy(default=1, minimum=1, maximum=8, step=1)
    devices = [Device(n, {}, {"memory": Capacity(8, policy)}, allow_multiple=True) for n in "abc"]
    stock = inventory(devices)
    stock.enter(held("b", shared=True, consumed=(("memory", 4),)))
    stock.enter(held("c", shared=True, consumed=(("memory", 2),)))
    return stock


def test_shares_fill_an_opened_device_or_go_to_an_idle_one():
    assert chosen(shares(), spec(request()), BEST_FIT) == ["b"]
    assert chosen(shares(), spec(request()), SPREAD) == ["a"]
    assert chosen(shares(), spec(request()), FIRST_FIT) == ["a"]


def test_spread_takes_the_emptiest_of_shared_devices():
    stock = shares()
    stock.enter(held("a", shared=True, consumed=(("memory", 6),)))
    assert chosen(stock, spec(request()), SPREAD) == ["c"]


def partitions():
    devices = [Device(f"g{i}-{j}", consumes=use(1, f"s{i}")) for i in range(2) for j in range(3)]
    stock = inventory(devices, counters=[gpu(3, "s0"), gpu(3, "s1")])
    stock.enter(held("g0-0"))
    return stock


def test_partitions_stay_together_or_spread_over_gpus():
    assert chosen(partitions(), spec(request()), BEST_FIT) == ["g0-1"]
    assert chosen(partitions(), spec(request()), SPREAD) == ["g1-0"]


@pytest.mark.parametrize(("strategy", "found"), [(BEST_FIT, "small"), (SPREAD, "big")])
def test_groups_of_a_match_are_kept_whole_or_left_roomy(strategy, found):
    sizes = {"mid": 3, "big": 4, "small": 2, "single": 1}
    devices = [
        Device(f"{g}{i}", {"d/numa": text(g)}) for g, size in sizes.items() for i in range(size)
    ]
    claim = spec(request(2), match="d/numa")
    assert chosen(inventory(devices), claim, strategy) == [f"{found}0", f"{found}1"]


ROOT = "resource.kubernetes.io/pcieRoot"


@pytest.mark.parametrize("strategy", [BEST_FIT, FIRST_FIT, SPREAD])
def test_a_gpu_and_a_nic_are_found_on_one_pcie_root(strategy):
    """Four roots with two GPUs each, NICs on two of them, one of which has a free GPU."""
    gpus = [
        Device(f"gpu{i}", {"d/kind": text("gpu"), ROOT: text(f"pci{i // 2}")}) for i in range(8)
    ]
    nics = [Device(f"nic{r}", {"d/kind": text("nic"), ROOT: text(f"pci{r}")}) for r in (1, 3)]
    stock = inventory([*gpus, *nics])
    stock.enter(held("gpu2", "gpu3"))
    entries = (request(1, "kind=gpu", name="gpu"), request(1, "kind=nic", name="nic"))
    claim = ClaimSpec(entries, (Constraint((), match=ROOT),))
    assert chosen(stock, claim, strategy) == ["gpu6", "nic3"]


def test_best_fit_goes_to_a_root_with_a_nic_without_trying_others():
    gpus = [Device(f"gpu{i}", {"d/kind": text("gpu"), ROOT: text(f"pci{i}")}) for i in range(32)]
    nic = Device("nic", {"d/kind": text("nic"), ROOT: text("pci31")})
    entries = (request(1, "kind=gpu", name="gpu"), request(1, "kind=nic", name="nic"))
    claim = ClaimSpec(entries, (Constraint((), match=ROOT),))
    search = inventory([*gpus, nic], best_fit=True).search("n", {}, [("c", claim)])
    assert search.run() is not None
    assert (search.steps, search.work) == (2, 0)


def test_attributes_that_are_named_come_first():
    devices = [
        Device("a", {"d/index": number(2), "d/tier": text("x")}, {"memory": Capacity(3)}),
        Device("b", {"d/index": number(10), "d/tier": text("y")}, {"memory": Capacity(1)}),
        Device("c", {}, {"memory": Capacity(Fraction(1, 2))}),
    ]

    def first(*orders):
        return chosen(inventory(devices), spec(request()), BEST_FIT, *orders)

    assert first() == ["c"]
    assert first(AttributeOrder("d/index")) == ["a"]
    assert first(AttributeOrder("d/index", descending=True)) == ["b"]
    assert first(AttributeOrder("d/tier", descending=True)) == ["b"]
    assert first(AttributeOrder("d/memory", descending=True)) == ["a"]
    assert first(AttributeOrder("d/nothing")) == ["c"]
