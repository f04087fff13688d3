"""DeviceTaintRules: taints that an administrator puts on devices whatever their driver says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.engine.devices.model import DeviceTaint
from kubarium.view.taints import taint as read_taint


@dataclass(frozen=True, slots=True)
class TaintRule:
    """``spec.deviceSelector`` and ``spec.taint``; an empty string selects any."""

    name: str
    selects_any: bool
    driver: str
    pool: str
    device: str
    taint: DeviceTaint

    def concerns_pool(self, driver: str, pool: str) -> bool:
        """Whether some device of the pool may be selected."""
        return self.selects_any and self.driver in ("", driver) and self.pool in ("", pool)

    def selects(self, driver: str, pool: str, device: str) -> bool:
        """Whether the device is selected. A rule without a selector selects nothing."""
        return self.concerns_pool(driver, pool) and self.device in ("", device)


def taint_rule(document: Document) -> TaintRule:
    """A DeviceTaintRule."""
    spec = document.get("spec") or {}
    selector, taint = spec.get("deviceSelector"), spec.get("taint") or {}
    where = selector or {}
    return TaintRule(
        document["metadata"]["name"],
        selector is not None,
        where.get("driver") or "",
        where.get("pool") or "",
        where.get("device") or "",
        read_taint(taint),
    )


def taints_of(
    rules: Iterable[TaintRule], driver: str, pool: str, device: str
) -> tuple[DeviceTaint, ...]:
    """The taints that rules put on one device, in order of the rules."""
    return tuple(r.taint for r in rules if r.selects(driver, pool, device))
