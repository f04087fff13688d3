"""Families of claims that cannot be satisfied, or only just: the search must not grow with them.

Work is counted, never timed: devices tried, and devices looked at by the bounds. The limits are
polynomials well above what is needed today and far below any exponential.
"""

from __future__ import annotations

import pytest

from kubarium.engine.devices.model import (
    Capacity,
    ClaimSpec,
    Constraint,
    Device,
    RequestPolicy,
)

from .stock import first_available, gpu, inventory, request, search, spec, text, use

SIZES = [8, 16, 32, 64, 128]


def settle(attempt, size, *, feasible=False):
    found = attempt.run()
    assert (found is not None) == feasible
    assert attempt.steps <= 20 * size, f"{attempt.steps} devices tried"
    assert attempt.work <= 100 * size * size, f"{attempt.work} devices looked at"


def devices(size, **attributes):
    """Devices g0… with attributes by functions of their number."""
    return [
        Device(f"g{i}", {f"d/{name}": text(str(of(i))) for name, of in attributes.items()})
        for i in range(size)
    ]


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_more_devices_than_distinct_values(size):
    stock = inventory(devices(size, numa=lambda i: i % (size // 2 - 1), serial=lambda i: i))
    entries = [request(size // 4, name=name) for name in "ab"]
    settle(search(stock, spec(*entries, distinct="d/numa")), size)


@pytest.mark.parametrize("size", SIZES)
def test_two_attributes_that_match_only_one_at_a_time(size):
    stock = inventory(devices(size, numa=lambda i: i // 4, rack=lambda i: i // 2 % 4 + i % 2 * 10))
    both = tuple(Constraint((), match=f"d/{name}") for name in ("numa", "rack"))
    settle(search(stock, ClaimSpec((request(4),), both)), size)


@pytest.mark.parametrize("size", SIZES)
def test_a_chain_of_matches(size):
    stock = inventory(
        devices(
            size,
            numa=lambda i: i % 8,
            rack=lambda i: i * 3 % 7 + i % 8 * 10,
            kind=lambda i: "xyz"[i % 3],
        )
    )
    entries = tuple(request(3, f"kind={kind}", name=kind) for kind in "xyz")
    chain = (Constraint(("x", "y"), match="d/numa"), Constraint(("y", "z"), match="d/rack"))
    settle(search(stock, ClaimSpec(entries, chain)), size)


def partitioned(gpus, *sizes, total=8):
    """GPUs of ``total`` memory, each with one partition of each size."""
    parts = [
        Device(
            f"g{i}-{j}",
            {"d/gpu": text(str(i)), "d/size": text(str(size))},
            consumes=use(size, f"s{i}"),
        )
        for i in range(gpus)
        for j, size in enumerate(sizes)
    ]
    return inventory(parts, counters=[gpu(total, f"s{i}") for i in range(gpus)])


@pytest.mark.parametrize("size", [8, 16, 32])
def test_one_partition_more_than_the_counters_hold(size):
    stock = partitioned(size // 8, *[2] * 7)
    settle(search(stock, spec(request(size // 8 * 4 + 1))), size)


@pytest.mark.parametrize("size", SIZES)
def test_partitions_of_one_gpu_one_more_than_it_holds(size):
    stock = partitioned(size // 8, *[1] * 9)
    settle(search(stock, spec(request(9), match="d/gpu")), size)


@pytest.mark.parametrize("size", SIZES)
def test_large_partitions_leave_no_room_for_a_small_one(size):
    stock = partitioned(size // 8, *[1] * 7, 3, 3, 4, total=7)
    large = spec(
        request(size // 8, "size=4", name="four"), request(size // 8, "size=3", name="three")
    )
    settle(search(stock, large, spec(request(1, "size=1"))), size)
    settle(search(partitioned(size // 8, 1, 3, 3, 4, total=8), large), size, feasible=True)


def shareable(count):
    policy = RequestPolicy(default=1, minimum=1, maximum=10, step=1)
    capacity = {"memory": Capacity(10, policy)}
    return inventory([Device(f"s{i}", {}, capacity, allow_multiple=True) for i in range(count)])


@pytest.mark.parametrize("size", SIZES)
def test_one_share_too_many(size):
    claims = [spec(request(capacity=(("memory", 6),))) for _ in range(size // 8 + 1)]
    settle(search(shareable(size // 8), *claims), size)


@pytest.mark.parametrize("size", SIZES)
def test_shares_of_two_sizes_that_do_not_pair(size):
    claims = [spec(request(capacity=(("memory", 4 + i % 2 * 3),))) for i in range(size // 4)]
    settle(search(shareable(size // 8), *claims), size)


@pytest.mark.parametrize("size", SIZES)
def test_prioritised_lists_under_a_match(size):
    stock = inventory(devices(size, numa=lambda i: i // 3, kind=lambda i: "xyz"[i % 3]))
    entries = tuple(
        first_available(*((k, {"selectors": (f"kind={k}",)}) for k in "xyz"), name=f"r{i}")
        for i in range(4)
    )
    settle(search(stock, spec(*entries, match="d/numa")), size)


@pytest.mark.parametrize("size", SIZES)
def test_claims_that_each_want_most_of_a_group(size):
    stock = inventory(devices(size, numa=lambda i: i // 4, serial=lambda i: i))
    claims = [spec(request(3), match="d/numa") for _ in range(size // 4 + 1)]
    settle(search(stock, *claims), size)


@pytest.mark.parametrize("size", SIZES)
def test_as_many_claims_as_groups_find_their_groups(size):
    stock = inventory(devices(size, numa=lambda i: i // 4, serial=lambda i: i))
    claims = [spec(request(3), match="d/numa") for _ in range(size // 4)]
    settle(search(stock, *claims), size, feasible=True)
