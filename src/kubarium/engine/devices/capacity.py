"""Consumable capacity: how much of a shared device one request takes (KEP-5075).

An unset request takes the policy's default, or everything; a set one is rounded up to the next
valid value or step. Source: upstream ``consumable_capacity.go``.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.engine.devices.model import Amount, Capacity, Device, Request, RequestPolicy


def consumed(request: Request, device: Device) -> tuple[tuple[str, Amount], ...]:
    """What ``request`` takes of each capacity of ``device``, after rounding, by name."""
    wanted = dict(request.capacity or ())
    return tuple(
        (name, _rounded(wanted.get(name), capacity))
        for name, capacity in sorted(device.capacity.items())
    )


def fits(request: Request, device: Device, used: Mapping[str, Amount]) -> bool:
    """Whether the device has what the request takes beyond ``used``, in allowed amounts."""
    if any(name not in device.capacity for name, _ in request.capacity or ()):
        return False
    for name, amount in consumed(request, device):
        capacity = device.capacity[name]
        if capacity.policy is not None and not _allowed(amount, capacity.policy):
            return False
        if used.get(name, 0) + amount > capacity.value:
            return False
    return True


def _rounded(wanted: Amount | None, capacity: Capacity) -> Amount:
    policy = capacity.policy
    if wanted is None:
        return policy.default if policy and policy.default is not None else capacity.value
    if policy is None:
        return wanted
    if policy.minimum is not None:
        return _stepped(wanted, policy.minimum, policy.step)
    return next((v for v in policy.valid_values if v >= wanted), wanted)


def _stepped(wanted: Amount, minimum: Amount, step: Amount | None) -> Amount:
    if wanted < minimum:
        return minimum
    if not step:
        return wanted
    steps = -((minimum - wanted) // step)
    return minimum + steps * step


def _allowed(amount: Amount, policy: RequestPolicy) -> bool:
    if policy.default is not None and amount == policy.default:
        return True
    if policy.minimum is not None or policy.maximum is not None:
        if policy.maximum is not None and amount > policy.maximum:
            return False
        return not policy.step or (amount - (policy.minimum or 0)) % policy.step == 0
    return not policy.valid_values or amount in policy.valid_values
