"""The answer to a ResourcePoolStatusRequest."""

import pytest

from kubarium.engine.devices.model import DeviceId
from kubarium.view.device_pools import blocked_by, pool_statuses, unusable_slices
from kubarium.view.device_taints import taint_rule

DRIVER = "d.example.com"


def slice_of(name, pool="p", generation=1, count=1, **content):
    return {
        "metadata": {"name": name},
        "spec": {
            "driver": DRIVER,
            "nodeName": "n",
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": count},
            **content,
        },
    }


def claim_with(*devices, **result):
    return {
        "metadata": {"name": "c", "namespace": "default"},
        "status": {
            "allocation": {
                "devices": {
                    "results": [
                        {"request": "r", "driver": DRIVER, "pool": "p", "device": d, **result}
                        for d in devices
                    ]
                }
            }
        },
    }


def part(name, size, kind):
    used = {"counterSet": "s", "counters": {"memory": {"value": str(size)}}}
    return {"name": name, "attributes": {"kind": {"string": kind}}, "consumesCounters": [used]}


def ask(slices, claims=(), rules=(), **spec):
    return pool_statuses({"driver": DRIVER, **spec}, slices, claims, rules)


def test_a_used_partition_makes_the_whole_unavailable():
    counters = [{"name": "s", "counters": {"memory": {"value": "4"}}}]
    devices = [part("p0", 2, "half"), part("p1", 2, "half"), part("whole", 4, "full")]
    slices = [
        slice_of("a", count=2, sharedCounters=counters),
        slice_of("b", count=2, devices=devices),
    ]
    attribute = f"{DRIVER}/kind"
    answer = ask(slices, [claim_with("p0")], defaultPartitionTypeAttribute=attribute)
    (pool,) = answer["pools"]
    assert pool == {
        "driver": DRIVER,
        "poolName": "p",
        "generation": 1,
        "resourceSliceCount": 2,
        "nodeName": "n",
        "totalDevices": 3,
        "allocatedDevices": 1,
        "availableDevices": 1,
        "unavailableDevices": 1,
        "partitionSummary": [
            {"attribute": attribute, "type": "full", "total": 1, "allocatable": 0},
            {"attribute": attribute, "type": "half", "total": 2, "allocatable": 1},
        ],
    }


def test_shares_are_summed():
    device = {
        "name": "d",
        "allowMultipleAllocations": True,
        "capacity": {"memory": {"value": "8Gi"}},
    }
    claim = claim_with("d", shareID="x", consumedCapacity={"memory": "3Gi"})
    (pool,) = ask([slice_of("a", devices=[device])], [claim])["pools"]
    assert pool["shareableSummary"] == {
        "fullyAvailableDevices": 0,
        "partiallyAvailableDevices": 1,
        "capacity": [{"name": "memory", "total": "8Gi", "consumed": "3Gi", "available": "5Gi"}],
    }


def test_an_incomplete_pool_says_so_and_only_the_newest_generation_counts():
    slices = [slice_of("old", devices=[{"name": "x"}]), slice_of("new", generation=2, count=2)]
    (pool,) = ask(slices)["pools"]
    text = "pool d.example.com/p is incomplete: observed 1/2 slices at generation 2"
    assert pool["validationError"] == f"PoolIncomplete: {text}"
    assert "totalDevices" not in pool
    assert "resourceSliceCount" not in pool


def test_limit_pool_name_and_rules():
    slices = [slice_of(f"s{i}", pool=f"p{i}", devices=[{"name": "d"}]) for i in range(3)]
    assert [p["poolName"] for p in ask(slices, limit=2)["pools"]] == ["p0", "p1"]
    assert ask(slices, limit=2)["poolCount"] == 3
    taint = {"key": "k", "effect": "NoSchedule"}
    rule = {
        "metadata": {"name": "r"},
        "spec": {"deviceSelector": {"pool": "p1"}, "taint": taint},
    }
    (pool,) = ask(slices, (), [taint_rule(rule)], poolName="p1")["pools"]
    assert (pool["availableDevices"], pool["unavailableDevices"]) == (0, 1)
    nothing = {"metadata": {"name": "r"}, "spec": {"taint": taint}}
    (pool,) = ask(slices, (), [taint_rule(nothing)], poolName="p1")["pools"]
    assert pool["availableDevices"] == 1


COUNTERS = [{"name": "s", "counters": {"memory": {"value": "4"}}}]


def partitioned(devices, **content):
    return [
        slice_of("a", count=2, sharedCounters=COUNTERS),
        slice_of("b", count=2, devices=devices, **content),
    ]


def test_a_slices_own_partition_type_goes_before_the_requests_default():
    own = f"{DRIVER}/kind"
    slices = partitioned([part("p0", 2, "half"), part("p1", 2, "half")], partitionTypeAttribute=own)
    (pool,) = ask(slices, defaultPartitionTypeAttribute=f"{DRIVER}/other")["pools"]
    assert pool["partitionSummary"] == [
        {"attribute": own, "type": "half", "total": 2, "allocatable": 2}
    ]
    (pool,) = ask(partitioned([part("p0", 2, "half")]))["pools"]
    assert "partitionSummary" not in pool


def test_allocatable_partitions_share_the_counters_that_are_left():
    slices = partitioned([part(f"p{i}", 2, "half") for i in range(4)])
    (pool,) = ask(slices, [claim_with("p0")], defaultPartitionTypeAttribute="d.example.com/kind")[
        "pools"
    ]
    (half,) = pool["partitionSummary"]
    assert (half["total"], half["allocatable"]) == (4, 1)


def test_partitions_of_one_type_that_cost_differently_are_a_problem_of_the_pool():
    slices = partitioned(
        [part("p0", 2, "half"), part("p1", 1, "half")], partitionTypeAttribute=f"{DRIVER}/kind"
    )
    (pool,) = ask(slices)["pools"]
    assert pool["validationError"].startswith("PartitionCostMismatch: ")


def test_admin_access_is_not_counted():
    (pool,) = ask([slice_of("a", devices=[{"name": "d"}])], [claim_with("d", adminAccess=True)])[
        "pools"
    ]
    assert (pool["allocatedDevices"], pool["availableDevices"]) == (0, 1)


def in_parts(count=2):
    counters = [{"name": "s", "counters": {"memory": {"value": "4"}}}]
    devices = [part("p0", 2, "half"), part("p1", 2, "half"), part("whole", 4, "full")]
    return [
        slice_of("a", count=count, sharedCounters=counters),
        slice_of("b", count=count, devices=[*devices, {"name": "plain"}]),
    ]


def blocked(slices, *claims):
    return {device.device: names for device, names in blocked_by(slices, claims).items()}


def test_what_holds_the_counters_blocks_the_other_parts():
    assert blocked(in_parts()) == {}
    assert blocked(in_parts(), claim_with("p0")) == {"whole": ("p0",)}
    assert blocked(in_parts(), claim_with("p0", "p1")) == {"whole": ("p0", "p1")}
    assert blocked(in_parts(), claim_with("whole")) == {"p0": ("whole",), "p1": ("whole",)}
    assert blocked(in_parts(), claim_with("whole", adminAccess=True)) == {}
    assert blocked(in_parts(), claim_with("plain")) == {}


def test_pools_that_give_nothing_are_not_judged():
    assert blocked(in_parts(count=3), claim_with("whole")) == {}
    other = slice_of("z", generation=2, devices=[{"name": "new"}])
    assert blocked([*in_parts(), other], claim_with("whole")) == {}


def test_blocked_devices_are_known_by_driver_and_pool():
    found = blocked_by(in_parts(), [claim_with("p0")])
    assert list(found) == [DeviceId(DRIVER, "p", "whole")]


KIND = "d.example.com/kind"


@pytest.mark.parametrize(
    ("slices", "spec", "text"),
    [
        (
            partitioned([part("p0", 2, "half"), part("p1", 1, "half")]),
            {"defaultPartitionTypeAttribute": KIND},
            'PartitionCostMismatch: devices of partition type "half" in pool d.example.com/p'
            " consume different counters",
        ),
        (
            partitioned([part("p0", 2, "half")]),
            {"defaultPartitionTypeAttribute": "d.example.com/other"},
            'PartitionTypeMissing: device "p0" in pool d.example.com/p does not carry partition'
            ' type attribute "d.example.com/other"',
        ),
        (
            [slice_of("a", devices=[{"name": "d"}], partitionTypeAttribute=KIND)],
            {},
            "PartitionTypeMissing: pool d.example.com/p declares partitionTypeAttribute but"
            " publishes no sharedCounters",
        ),
        (
            partitioned([part(f"p{i}", 1, f"kind-{i}") for i in range(33)]),
            {"defaultPartitionTypeAttribute": KIND},
            "PartitionSummaryOverCap: pool d.example.com/p has 33 partition types, exceeding the"
            " maximum of 32",
        ),
    ],
)
def test_what_cannot_be_summed_up_is_told_and_the_rest_is_counted(slices, spec, text):
    (pool,) = ask(slices, **spec)["pools"]
    assert pool["validationError"] == text
    assert "partitionSummary" not in pool
    assert pool["totalDevices"] == pool["availableDevices"] > 0


def test_more_capacities_than_can_be_listed_are_told_beside_the_partitions_error():
    shared = [
        {
            "name": f"d{i}",
            "allowMultipleAllocations": True,
            "capacity": {f"c{i}-{j}": {"value": "1"} for j in range(30)},
        }
        for i in range(2)
    ]
    (pool,) = ask([slice_of("a", devices=shared)])["pools"]
    text = "pool d.example.com/p has 60 shareable capacity keys, exceeding the maximum of 32"
    assert pool["validationError"] == f"ShareableSummaryOverCap: {text}"
    assert pool["totalDevices"] == 2
    assert "shareableSummary" not in pool
    (pool,) = ask([slice_of("a", devices=shared[:1], partitionTypeAttribute=KIND)])["pools"]
    assert pool["validationError"].startswith("PartitionTypeMissing")
    assert pool["shareableSummary"]["fullyAvailableDevices"] == 1


def test_slices_that_give_nothing_say_why():
    slices = [
        slice_of("old", generation=1, devices=[{"name": "a"}]),
        slice_of("new", generation=2, count=2, devices=[{"name": "a"}]),
        slice_of("twice", pool="q", devices=[{"name": "a"}, {"name": "a"}]),
        slice_of("fine", pool="r", devices=[{"name": "a"}]),
    ]
    assert unusable_slices(slices) == {
        "old": "of generation 1, and the pool is at 2",
        "new": "incomplete pool: 1 of 2 slices",
        "twice": "invalid pool",
    }
