"""Consumable capacity: how much of a shared device one request takes (KEP-5075).

An unset request takes the policy's default, or everything; a set one is rounded up to the next
valid value or step. Source: upstream ``consumable_capacity.go``. With ``fractional`` False (the
gate DRAFractionalCapacityRange off) ranges are computed in whole numbers, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kubarium.engine.devices.model import Amount, Capacity, Device, Request, RequestPolicy


def allowed(
    request: Request, device: Device, driver: str, *, fractional: bool = True
) -> tuple[tuple[str, Amount], ...] | None:
    """What ``request`` takes of each capacity of ``device``, after rounding, by name.

    None if the device lacks a capacity that is asked for, or its policies forbid the amount.
    """
    wanted: dict[str, Amount] = {}
    for name, amount in request.capacity or ():
        known = published_name(device, driver, name)
        if not known:
            return None
        # Both names of one capacity: the larger amount is enough for each.
        wanted[known] = max(amount, wanted.get(known, amount))
    taken: list[tuple[str, Amount]] = []
    for name, capacity in sorted(device.capacity.items()):
        amount = _rounded(wanted.get(name), capacity, fractional)
        policy = capacity.policy
        if amount < 0 or (policy is not None and not _allowed(amount, policy, fractional)):
            return None
        taken.append((name, amount))
    return tuple(taken)


def published_name(device: Device, driver: str, name: str) -> str:
    """The name under which a device has a capacity; "" if it has none.

    The driver's domain may be left out, in the slice and in the claim. Upstream takes names as they
    are written: so does a search without a ``driver``.
    """
    if name in device.capacity:
        return name
    domain, slash, short = name.partition("/")
    other = f"{driver}/{name}" if not slash else short if domain == driver else ""
    return other if other in device.capacity else ""


def fits(
    request: Request,
    device: Device,
    driver: str,
    used: Mapping[str, Amount],
    *,
    fractional: bool = True,
) -> bool:
    """Whether the device has what the request takes beyond ``used``, in allowed amounts."""
    taken = allowed(request, device, driver, fractional=fractional)
    return taken is not None and room_for(taken, device, used)


def room_for(
    taken: tuple[tuple[str, Amount], ...], device: Device, used: Mapping[str, Amount]
) -> bool:
    """Whether amounts that are allowed are left beyond ``used``."""
    return all(used.get(n, 0) + amount <= device.capacity[n].value for n, amount in taken)


def most_allowed(capacity: Capacity, left: Amount) -> Amount | None:
    """The largest share that may be asked for and fits into what is left; None if none does."""
    policy = capacity.policy
    if policy is None:
        return left if left > 0 else None
    if policy.minimum is not None or policy.maximum is not None:
        least = policy.minimum or 0
        most = left if policy.maximum is None else min(left, policy.maximum)
        if policy.step:
            most = least + (most - least) // policy.step * policy.step
        return most if most >= least and most > 0 else None
    if not policy.valid_values:
        return left if left > 0 else None
    return max((value for value in policy.valid_values if 0 < value <= left), default=None)


def _rounded(wanted: Amount | None, capacity: Capacity, fractional: bool) -> Amount:
    policy = capacity.policy
    if wanted is None:
        return policy.default if policy and policy.default is not None else capacity.value
    if policy is None:
        return wanted
    if policy.minimum is not None:
        if wanted < policy.minimum or not policy.step:
            return max(wanted, policy.minimum)
        minimum = policy.minimum
        if not fractional:
            wanted, policy = math.ceil(wanted), _whole(policy)
            minimum = math.ceil(minimum)
        return _stepped(wanted, minimum, policy.step)
    return next((v for v in policy.valid_values if v >= wanted), wanted)


def _whole(policy: RequestPolicy) -> RequestPolicy:
    minimum, step = policy.minimum, policy.step
    return replace(
        policy,
        minimum=None if minimum is None else math.ceil(minimum),
        step=None if step is None else math.ceil(step),
    )


def _stepped(wanted: Amount, minimum: Amount, step: Amount | None) -> Amount:
    if not step:
        return wanted
    steps = -((minimum - wanted) // step)
    return minimum + steps * step


def _allowed(amount: Amount, policy: RequestPolicy, fractional: bool) -> bool:
    if policy.default is not None and amount == policy.default:
        return True
    if policy.minimum is not None or policy.maximum is not None:
        if policy.maximum is not None and amount > policy.maximum:
            return False
        if not fractional:
            amount, policy = math.ceil(amount), _whole(policy)
        return not policy.step or (amount - (policy.minimum or 0)) % policy.step == 0
    return not policy.valid_values or amount in policy.valid_values
