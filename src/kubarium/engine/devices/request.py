"""Claims checked against classes and pools: what a search has to find, or why it need not start.

Errors name claim and request in the wording of upstream's allocator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubarium.engine import reasons
from kubarium.engine.devices import capacity
from kubarium.engine.devices.constraints import UNKNOWN, attribute
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    ALL,
    EXACT_COUNT,
    MAX_RESULTS_PER_CLAIM,
    AllocationError,
    AttributeValue,
    ClaimSpec,
    Derives,
    Device,
    DeviceClass,
    DeviceId,
    DeviceToleration,
    Features,
    Request,
    RequestEntry,
    SelectorError,
    Selects,
    Slice,
)
from kubarium.engine.devices.pools import Pool, device_reaches


@dataclass(frozen=True, slots=True)
class NamedClaim:
    """A claim to allocate; ``name`` is only for messages."""

    name: str
    spec: ClaimSpec


@dataclass(slots=True, eq=False)
class Candidate:
    """A device that the node can reach, with its place in first-fit order."""

    position: int
    id: DeviceId
    device: Device
    owner: Slice
    pool: Pool


class Shelf:
    """What one node can reach: its pools, their devices, and the latter in order of size.

    ``plain`` is a shelf without shared devices and counters, on which no device's use changes how
    good another one is.
    """

    def __init__(self, pools: Sequence[Pool], candidates: Sequence[Candidate]) -> None:
        self.pools = pools
        self.candidates = candidates
        # Pools in which a device has binding conditions come last.
        self.last = {id(pool) for pool in pools if pool.has_binding_conditions}
        self.plain = not any(c.device.allow_multiple or c.device.consumes for c in candidates)
        self._by_size: list[Candidate] | None = None

    def by_size(self) -> list[Candidate]:
        """Pools with binding conditions last, then little capacity before much."""
        if self._by_size is None:
            self._by_size = sorted(
                self.candidates, key=lambda c: (id(c.pool) in self.last, size_of(c.device))
            )
        return self._by_size


def size_of(device: Device) -> float:
    """All capacity of a device in one number, to tell large from small of a kind."""
    return sum(float(c.value) for c in device.capacity.values())


@dataclass(slots=True, eq=False)
class Wanted:
    """One alternative of one request: what it matches, and how many devices it needs."""

    claim: NamedClaim
    entry: RequestEntry
    request: Request
    path: str
    device_class: DeviceClass
    count: int = 0
    everything: list[Candidate] | None = None
    constraints: tuple[int, ...] = ()
    matched: dict[int, bool] = field(default_factory=dict)
    # Why an alternative is not to be had here, whatever devices there are.
    unmet: str = ""


def no_derivation(expression: str, driver: str, device: Device) -> AttributeValue:
    """The derivation of an engine without CEL: refuses every expression."""
    raise SelectorError(f"no CEL evaluator for {expression!r}", compile_time=True)


class Matching:
    """Which device matches which request: selectors of class and request, asked once each."""

    def __init__(
        self, selects: Selects, features: Features, derives: Derives = no_derivation
    ) -> None:
        self._selects = selects
        self._derives = derives
        self._features = features

    def value_of(
        self, wanted: Wanted, candidate: Candidate, attribute_name: str
    ) -> AttributeValue | None:
        """A constrained attribute as one request sees it: derived, or the device's own.

        List values are unknown while their gate is off. Raises AllocationError if the expression
        fails: upstream gives the whole pod up then, so that a broken one is noticed (KEP-6080).
        """
        for name, expression in wanted.request.derived:
            if name == attribute_name:
                return self._derived(wanted, candidate, name, expression)
        value = attribute(candidate.device, candidate.id.driver, attribute_name)
        if value is not None and value.is_list and not self._features.list_attributes:
            return UNKNOWN
        return value

    def may_value(
        self, wanted: Wanted, candidate: Candidate, attribute_name: str
    ) -> AttributeValue | None:
        """As :meth:`value_of`, but an expression that fails gives an unknown value."""
        try:
            return self.value_of(wanted, candidate, attribute_name)
        except AllocationError:
            return UNKNOWN

    def _derived(
        self, wanted: Wanted, candidate: Candidate, name: str, expression: str
    ) -> AttributeValue:
        try:
            return self._derives(expression, candidate.id.driver, candidate.device)
        except SelectorError as error:
            where = f"claim {wanted.claim.name}, request {wanted.path}: derived attribute {name}"
            if error.compile_time:
                raise AllocationError(f"{where}: CEL compile error: {error}") from error
            text = f"{where} on device {candidate.id}: CEL runtime error: {error}"
            raise AllocationError(text) from error

    def matches(self, wanted: Wanted, candidate: Candidate) -> bool:
        """Raises AllocationError, on the first bad selector, as upstream."""
        known = wanted.matched.get(candidate.position)
        if known is None:
            known = self._ask(wanted, candidate)
            wanted.matched[candidate.position] = known
        return known

    def may_match(self, wanted: Wanted, candidate: Candidate) -> bool:
        """As :meth:`matches`, but a selector that fails counts as a possible match."""
        try:
            return self.matches(wanted, candidate)
        except AllocationError:
            return True

    def _ask(self, wanted: Wanted, candidate: Candidate) -> bool:
        if candidate.device.binding_conditions and not self._features.binding_conditions:
            return False
        of_class = f"class {wanted.device_class.name}"
        return self._all(of_class, wanted.device_class.selectors, candidate) and self._all(
            f"claim {wanted.claim.name}", wanted.request.selectors, candidate
        )

    def _all(self, owner: str, selectors: Sequence[str | None], candidate: Candidate) -> bool:
        for index, expression in enumerate(selectors):
            try:
                if not self._selects(expression or "", candidate.id.driver, candidate.device):
                    return False
            except SelectorError as error:
                where = f"{owner}: selector #{index}"
                if error.compile_time:
                    raise AllocationError(f"{where}: CEL compile error: {error}") from error
                what = reasons.with_cel_hint(str(error))
                text = f"{where} on device {candidate.id}: CEL runtime error: {what}"
                raise AllocationError(text) from error
        return True


def candidates_of(pools: Sequence[Pool], node: str, labels: Mapping[str, str]) -> list[Candidate]:
    """Every device of every usable pool that the node can reach, in first-fit order."""
    found: list[Candidate] = []
    for pool in pools:
        if not pool.usable:
            continue
        for owner in pool.slices:
            for device in owner.devices:
                if device_reaches(owner, device, node, labels):
                    where = DeviceId(pool.driver, pool.name, device.name)
                    found.append(Candidate(len(found), where, device, owner, pool))
    return found


def taint_prevents(request: Request, device: Device) -> bool:
    """Whether a NoSchedule or NoExecute taint of the device is not tolerated."""
    return bool(device.taints) and untolerated(device, request.tolerations)


def untolerated(device: Device, tolerations: Sequence[DeviceToleration]) -> bool:
    """As :func:`taint_prevents`, for given tolerations."""
    return any(
        taint.effect in ("NoSchedule", "NoExecute")
        and not any(t.tolerates(taint) for t in tolerations)
        for taint in device.taints
    )


class Checker:
    """Turns claims into :class:`Wanted` rows; raises AllocationError where no search can help."""

    def __init__(
        self,
        classes: Mapping[str, DeviceClass],
        ledger: Ledger,
        features: Features,
        matching: Matching,
        pools: Sequence[Pool],
        candidates: Sequence[Candidate],
        *,
        compatible: bool = False,
    ) -> None:
        """``compatible``: what an alternative cannot have ends the search, as upstream."""
        self._compatible = compatible
        self._classes = classes
        self._ledger = ledger
        self._features = features
        self._matching = matching
        self._pools = pools
        self._candidates = candidates

    def wanted(self, claim: NamedClaim) -> list[list[Wanted]]:
        """For each request of the claim its alternatives, in order of preference."""
        rows: list[list[Wanted]] = []
        least = 0
        for entry in claim.spec.requests:
            if entry.prioritised and not self._features.prioritized_list:
                self._fail(
                    claim, entry, "has subrequests, but the DRAPrioritizedList feature is disabled"
                )
            self._check_gates(claim, entry)
            rows.append([self._one(claim, entry, request) for request in entry.alternatives])
            least += min(w.count for w in rows[-1])
        if least > MAX_RESULTS_PER_CLAIM:
            # How many "all" are is different on every node.
            here = any(w.everything is not None for row in rows for w in row)
            raise AllocationError(
                f"claim {claim.name}: number of requested devices {least} exceeds the claim limit"
                f" of {MAX_RESULTS_PER_CLAIM}",
                node_only=here,
            )
        for index, constraint in enumerate(claim.spec.constraints):
            if not constraint.match and not constraint.distinct:
                raise AllocationError(
                    f"claim {claim.name}, constraint #{index}: empty constraint"
                    " (unsupported constraint type?)"
                )
        return rows

    def _fail(self, claim: NamedClaim, entry: RequestEntry | Request, why: str) -> None:
        raise AllocationError(f"claim {claim.name}, request {entry.name}: {why}")

    def _check_gates(self, claim: NamedClaim, entry: RequestEntry) -> None:
        kind = "subrequest" if entry.prioritised else "request"
        for request in entry.alternatives:
            missing = ""
            if request.capacity is not None and not self._features.consumable_capacity:
                missing = "has capacity requests, but the DRAConsumableCapacity"
            elif request.derived and not self._features.derived_attributes:
                missing = "has derived attributes, but the DRADerivedAttributes"
            negative = [name for name, amount in request.capacity or () if amount < 0]
            if negative:
                self._fail(claim, request, f"capacity {negative[0]}: capacity value is negative")
            if missing:
                raise AllocationError(
                    f"claim {claim.name}, {kind} {request.name}: {missing} feature is disabled"
                )

    def _one(self, claim: NamedClaim, entry: RequestEntry, request: Request) -> Wanted:
        for index, selector in enumerate(request.selectors):
            if selector is None:
                raise AllocationError(
                    f"claim {claim.name}, request {request.name}, selector #{index}: CEL expression"
                    " empty (unsupported selector type?)"
                )
        if request.admin_access is not None and not self._features.admin_access:
            self._fail(claim, request, "admin access is requested, but the feature is disabled")
        if not request.device_class:
            self._fail(claim, request, "missing device class name (unsupported request type?)")
        device_class = self._classes.get(request.device_class)
        if device_class is None:
            name = request.device_class
            raise AllocationError(
                f"claim {claim.name}, request {request.name}: could not retrieve device class"
                f' {name}: deviceclass.resource.k8s.io "{name}" not found'
            )
        covering = tuple(
            i for i, c in enumerate(claim.spec.constraints) if c.covers(entry, request)
        )
        wanted = Wanted(
            claim, entry, request, entry.path(request), device_class, constraints=covering
        )
        self._count(wanted)
        return wanted

    def _count(self, wanted: Wanted) -> None:
        mode = wanted.request.mode
        if mode == EXACT_COUNT:
            wanted.count = wanted.request.count
        elif mode == ALL:
            try:
                wanted.everything = self._everything(wanted)
            except AllocationError as error:
                if self._compatible or not wanted.entry.prioritised or not error.node_only:
                    raise
                wanted.everything, wanted.unmet = [], str(error)
            wanted.count = len(wanted.everything)
        else:
            self._fail(wanted.claim, wanted.request, f"unsupported count mode {mode}")

    def _everything(self, wanted: Wanted) -> list[Candidate]:
        """Pool by pool, as upstream: what is wrong first is what the error says."""
        of_pool: dict[int, list[Candidate]] = {}
        for candidate in self._candidates:
            of_pool.setdefault(id(candidate.pool), []).append(candidate)
        found: list[Candidate] = []
        for pool in self._pools:
            state = "being updated" if pool.incomplete else "invalid" if pool.invalid else ""
            if state:
                raise AllocationError(
                    f"claim {wanted.claim.name}, request {wanted.request.name}: asks for all"
                    f" devices, but resource pool {pool} is currently {state}",
                    node_only=True,
                )
            found += [c for c in of_pool.get(id(pool), ()) if self._matching.matches(wanted, c)]
        if not self._features.consumable_capacity:
            return found
        fractional = self._features.fractional_range
        watches = wanted.request.admin_access and not self._compatible
        return [
            c
            for c in found
            if capacity.fits(
                wanted.request,
                c.device,
                "" if self._compatible else c.id.driver,
                {} if watches else self._ledger.consumed(c.id),
                fractional=fractional,
            )
        ]
