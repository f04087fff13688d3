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


def consumed(
    request: Request, device: Device, *, fractional: bool = True
) -> tuple[tuple[str, Amount], ...]:
    """What ``request`` takes of each capacity of ``device``, after rounding, by name."""
    wanted = dict(request.capacity or ())
    return tuple(
        (name, _rounded(wanted.get(name), capacity, fractional))
        for name, capacity in sorted(device.capacity.items())
    )


def allowed(
    request: Request, device: Device, *, fractional: bool = True
) -> tuple[tuple[str, Amount], ...] | None:
    """What the request takes; None if the device lacks a capacity or its policies forbid it."""
    if any(name not in device.capacity for name, _ in request.capacity or ()):
        return None
    taken = consumed(request, device, fractional=fractional)
    for name, amount in taken:
        policy = device.capacity[name].policy
        if policy is not None and not _allowed(amount, policy, fractional):
            return None
    return taken


def fits(
    request: Request, device: Device, used: Mapping[str, Amount], *, fractional: bool = True
) -> bool:
    """Whether the device has what the request takes beyond ``used``, in allowed amounts."""
    taken = allowed(request, device, fractional=fractional)
    return taken is not None and room_for(taken, device, used)


def room_for(
    taken: tuple[tuple[str, Amount], ...], device: Device, used: Mapping[str, Amount]
) -> bool:
    """Whether amounts that are allowed are left beyond ``used``."""
    return all(used.get(n, 0) + amount <= device.capacity[n].value for n, amount in taken)


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
