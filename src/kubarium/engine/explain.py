"""The smallest changes that would help: each wish and each shortage relaxed alone, and tried.

Every suggestion was tried on the snapshot before it is made, by the same code that schedules, so it
is true by construction: apply it and nothing else, and the subject is placed. The snapshot is as
before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

from kubarium.base.quantity import format_quantity
from kubarium.engine import reasons
from kubarium.engine.devices.model import (
    ALL,
    AllocationError,
    ClaimSpec,
    Request,
    SelectorError,
    Slice,
)
from kubarium.engine.model import HOSTNAME_LABEL, Claim, Gang, Node, Pod, PodShape, Toleration
from kubarium.engine.placement import filters
from kubarium.engine.placement.gang import place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import evict
from kubarium.engine.placement.trial import Budget
from kubarium.engine.plan import QueueItem
from kubarium.engine.verdict import Suggestion, Verdict

# Bounds of the search for suggestions, so that explaining stays quick on a large cluster.
MAX_NODES_TRIED = 16
MAX_PODS_TRIED = 64
MAX_ADDED = 64
# What the search for a mixed gang may cost in each of these trials.
FIT_BUDGET = 200

_EXTRA = "~extra"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be placed: one pod, or the waiting pods of a gang."""

    pods: tuple[Pod, ...]
    gang: Gang | None = None

    @property
    def shape(self) -> PodShape:
        return self.pods[0].shape

    def reshaped(self, shape: PodShape) -> Subject:
        """The subject with the first pod's shape replaced wherever it occurs."""
        old = self.shape
        return replace(
            self, pods=tuple(replace(p, shape=shape) if p.shape == old else p for p in self.pods)
        )


class Explainer:
    """Finds suggestions for subjects that fit nowhere on a placer's snapshot."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._snapshot = placer.snapshot

    def fits(self, subject: Subject) -> bool:
        """Whether the subject could be placed now; nothing is kept."""
        mark = self._snapshot.checkpoint()
        try:
            gang = subject.gang
            if gang is not None and gang.scheduled_count < gang.min_count:
                item = QueueItem(subject.pods, gang)
                budget = Budget(FIT_BUDGET)
                return bool(place_gang(self._placer, item, budget=budget).placements)
            return self._placer.place(subject.pods[0]) is not None
        finally:
            self._snapshot.rollback(mark)

    def suggest(self, subject: Subject, verdict: Verdict) -> tuple[Suggestion, ...]:
        """Changes of which each alone lets the subject be placed, the most direct first."""
        found: list[Suggestion] = []
        for search in (
            self._devices,
            self._device_wishes,
            self._resources,
            self._wishes,
            self._nodes,
            self._neighbours,
            self._gang_size,
        ):
            found.extend(search(subject, verdict))
        return tuple(found)

    # Devices

    def _pending(self, subject: Subject) -> list[Claim]:
        snapshot = self._snapshot
        keys = dict.fromkeys(key for pod in subject.pods for key in pod.claims)
        return [
            snapshot.claims[key]
            for key in keys
            if key in snapshot.claims and key not in snapshot.allocations
        ]

    def _devices(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """More devices like one that exists, on a node that could use them."""
        seen: dict[str, None] = {}
        for claim in self._pending(subject):
            for entry in claim.spec.requests:
                request = entry.alternatives[0]
                if request.device_class in seen or request.mode == ALL:
                    continue
                seen[request.device_class] = None
                yield from self._more_devices(subject, claim, request)

    def _more_devices(
        self, subject: Subject, claim: Claim, request: Request
    ) -> Iterator[Suggestion]:
        model = self._device_like(claim, request)
        if model is None:
            return
        nodes = self._promising_nodes(subject)
        helpful: list[tuple[int, str]] = []
        for name in nodes:
            count = self._smallest(partial(self._fits_with_devices, subject, model, name))
            if count:
                helpful.append((count, name))
        if not helpful:
            return
        least, where = min(helpful, key=lambda entry: entry[0])
        everywhere = (
            len([h for h in helpful if h[0] == least]) == len(nodes) == len(self._snapshot.rows)
        )
        noun = "device" if least == 1 else "devices"
        place = "any node" if everywhere and len(nodes) > 1 else f"node {where}"
        text = f"add {least} more {noun} of class {request.device_class} on {place}"
        yield Suggestion("add-devices", text, request.device_class, where, least)

    def _device_like(self, claim: Claim, request: Request) -> Slice | None:
        """A slice with one device that the request's selectors accept, free or not."""
        inventory = self._snapshot.inventory
        owner = inventory.classes.get(request.device_class)
        if owner is None:
            return None
        wanted = [s for s in (*owner.selectors, *request.selectors) if s is not None]
        for item in inventory.slices.values():
            for device in item.devices:
                try:
                    if all(inventory.selects(s, item.driver, device) for s in wanted):
                        plain = replace(device, consumes=(), node_name="", node_terms=None)
                        return replace(item, devices=(plain,), counter_sets=(), per_device=False)
                except SelectorError:  # a selector that fails matches nothing
                    continue
        return None

    def _fits_with_devices(self, subject: Subject, model: Slice, node: str, count: int) -> bool:
        inventory = self._snapshot.inventory
        extra = replace(
            model,
            name=_EXTRA,
            pool=_EXTRA,
            generation=1,
            slice_count=1,
            node_name=node,
            node_terms=None,
            all_nodes=False,
            devices=tuple(replace(model.devices[0], name=f"extra-{i}") for i in range(count)),
        )
        inventory.set_slice(extra)
        try:
            return self.fits(subject)
        finally:
            inventory.remove_slice(_EXTRA)

    def _promising_nodes(self, subject: Subject) -> list[str]:
        """Nodes that the subject could use were it not for devices; those with devices first."""
        snapshot = self._snapshot
        fit = self._placer.fit(subject.shape).refresh()
        names = [name for name, row in snapshot.rows.items() if fit[row] >= 0]
        names.sort(key=lambda name: not snapshot.inventory.has_devices(name))
        return names[:MAX_NODES_TRIED]

    def _smallest(self, fits: Callable[[int], bool]) -> int:
        """The least count up to MAX_ADDED for which ``fits`` holds; 0 if none. Monotone."""
        low, high = 0, 1
        while not fits(high):
            low, high = high, high * 2
            if high > MAX_ADDED:
                return 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high

    def _device_wishes(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """Each selector and constraint of the claims left out alone, and smaller counts."""
        claims = self._pending(subject)
        if not claims:
            return
        spec = claims[0].spec
        alike = [c for c in claims if c.spec == spec]
        for text, about, relaxed in _relaxed_specs(spec):
            if self._fits_with_spec(subject, alike, relaxed):
                yield Suggestion("remove-constraint", text, about)
        for index, entry in enumerate(spec.requests):
            request = entry.alternatives[0]
            if entry.prioritised or request.mode == ALL:
                continue
            for count in range(request.count - 1, 0, -1):
                smaller = _with_request(spec, index, replace(request, count=count))
                if self._fits_with_spec(subject, alike, smaller):
                    text = f"ask for {count} instead of {request.count} in request {entry.name}"
                    yield Suggestion("lower-count", text, entry.name, amount=count)
                    break

    def _fits_with_spec(self, subject: Subject, claims: list[Claim], spec: ClaimSpec) -> bool:
        book = self._snapshot.claims
        for claim in claims:
            book[claim.key] = replace(claim, spec=spec)
        try:
            return self.fits(subject)
        except AllocationError:
            return False
        finally:
            for claim in claims:
                book[claim.key] = claim

    # Resources

    def _resources(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """More of what is short on the one node that needs least (single pods only)."""
        if len(subject.pods) > 1:
            return
        short = [
            name
            for name, why in verdict.by_node.items()
            if why and all(r.startswith("Insufficient") or r == reasons.TOO_MANY_PODS for r in why)
        ]
        ranked = sorted((self._shortage(name, subject.shape), name) for name in short)
        for (_, missing), name in ranked[:MAX_NODES_TRIED]:
            node = self._snapshot.node(name)
            assert node is not None
            have = dict(node.allocatable)
            more = {r: have.get(r, 0) + amount for r, amount in missing}
            if self._fits_with_node(subject, replace(node, allocatable=_merged(node, more))):
                parts = " and ".join(f"{_shown(r, a)} more {r}" for r, a in missing)
                text = f"{parts} on node {name}"
                yield Suggestion("add-resource", text, missing[0][0], name, missing[0][1])
                return

    def _shortage(self, name: str, shape: PodShape) -> tuple[float, tuple[tuple[str, int], ...]]:
        """(relative size, amounts) of what the node lacks for the shape."""
        snapshot, row = self._snapshot, self._snapshot.rows[name]
        missing: list[tuple[str, int]] = []
        size = 0.0
        for resource, amount in (*shape.requests, ("pods", 1)):
            index = snapshot.resource_index(resource)
            free = int(snapshot.allocatable[index, row] - snapshot.requested[index, row])
            if amount > max(free, 0) or amount > free:
                missing.append((resource, amount - free))
                size += (amount - free) / amount
        return size, tuple(missing)

    def _fits_with_node(self, subject: Subject, *nodes: Node) -> bool:
        mark = self._snapshot.checkpoint()
        for node in nodes:
            self._snapshot.set_node(node)
        fits = self.fits(subject)
        self._snapshot.rollback(mark)
        return fits

    def _fits_with_first(self, subject: Subject, nodes: list[Node], count: int) -> bool:
        return self._fits_with_node(subject, *nodes[:count])

    def _nodes(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """Uncordoned nodes, and more nodes like one that exists."""
        cordoned = [n for n in self._live_nodes() if n.unschedulable]
        for node in cordoned[:MAX_NODES_TRIED]:
            if self._fits_with_node(subject, replace(node, unschedulable=False)):
                yield Suggestion("uncordon", f"uncordon node {node.name}", node=node.name)
                break
        for node in self._kinds_of_nodes():
            clones = [self._clone(node, i) for i in range(MAX_ADDED)]
            count = self._smallest(partial(self._fits_with_first, subject, clones))
            if count:
                noun = f"node like {node.name}" if count == 1 else f"nodes like {node.name}"
                text = f"add {count} more {noun} (without devices)"
                yield Suggestion("add-node", text, node=node.name, amount=count)
                return

    def _live_nodes(self) -> list[Node]:
        nodes = self._snapshot.nodes
        return [n for row in self._snapshot.rows.values() if (n := nodes[row]) is not None]

    def _kinds_of_nodes(self) -> list[Node]:
        """One node of each size that is neither cordoned nor alone because of its name."""
        kinds: dict[object, Node] = {}
        for node in self._live_nodes():
            if not node.unschedulable:
                kinds.setdefault((node.allocatable, node.taints), node)
        return list(kinds.values())[:MAX_NODES_TRIED]

    def _clone(self, node: Node, number: int) -> Node:
        name = f"{_EXTRA}-{number}"
        labels = {**node.labels}
        if HOSTNAME_LABEL in labels:
            labels[HOSTNAME_LABEL] = name
        return replace(node, name=name, labels=labels)

    # The pod's own wishes

    def _wishes(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """Each clause that the pod states, left out alone; each taint, tolerated alone."""
        for kind, about, text, shape in _relaxed_shapes(subject.shape):
            if self.fits(subject.reshaped(shape)):
                yield Suggestion(kind, text, about)
        shape = subject.shape
        taints = dict.fromkeys(
            taint
            for node in self._live_nodes()
            for taint in filters.untolerated(node.taints, shape.tolerations)
        )
        for taint in list(taints)[:MAX_NODES_TRIED]:
            extra = Toleration(taint.key, "Equal", taint.value, taint.effect)
            tolerant = replace(shape, tolerations=(*shape.tolerations, extra))
            if self.fits(subject.reshaped(tolerant)):
                yield Suggestion("tolerate-taint", f"tolerate taint {taint}", str(taint))

    # Others

    def _neighbours(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """One placed pod whose end would make the room."""
        snapshot = self._snapshot
        placed = sorted(
            (pod for pod, _ in snapshot.placed_pods()),
            key=lambda p: (p.priority, -p.created, p.key),
        )
        for pod in placed[:MAX_PODS_TRIED]:
            node = snapshot.node_of(pod.key) or ""
            mark = snapshot.checkpoint()
            evict(snapshot, pod)
            fits = self.fits(subject)
            snapshot.rollback(mark)
            if fits:
                name = "/".join(pod.key)
                yield Suggestion("free-pod", f"let pod {name} on node {node} end", name, node)
                return

    def _gang_size(self, subject: Subject, verdict: Verdict) -> Iterator[Suggestion]:
        """The largest smaller minimum that fits."""
        gang = subject.gang
        if gang is None or not gang.min_count:
            return
        low, high = 0, gang.min_count  # low fits (nothing asked), high does not
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.fits(replace(subject, gang=replace(gang, min_count=middle)))
            low, high = (middle, high) if fits else (low, middle)
        if low:
            text = f"lower minCount of pod group {gang.key[1]} from {gang.min_count} to {low}"
            yield Suggestion("lower-min-count", text, gang.key[1], amount=low)


def _relaxed_shapes(shape: PodShape) -> Iterator[tuple[str, str, str, PodShape]]:
    """(kind, subject, text, shape) with one clause left out."""
    for i, clause in enumerate(shape.node_selector):
        rest = shape.node_selector[:i] + shape.node_selector[i + 1 :]
        text = f"remove node selector clause {clause}"
        yield "remove-selector", str(clause), text, replace(shape, node_selector=rest)
    if shape.affinity is not None:
        text = "remove the required node affinity"
        yield "remove-affinity", "nodeAffinity", text, replace(shape, affinity=None)
    for i, spread in enumerate(shape.spread):
        if spread.hard:
            rest_spread = shape.spread[:i] + shape.spread[i + 1 :]
            text = f"remove the spread constraint over {spread.topology_key}"
            yield "remove-spread", spread.topology_key, text, replace(shape, spread=rest_spread)
    for i, term in enumerate(shape.pod_affinity):
        rest_terms = shape.pod_affinity[:i] + shape.pod_affinity[i + 1 :]
        text = f"remove the required pod affinity over {term.topology_key}"
        yield (
            "remove-pod-affinity",
            term.topology_key,
            text,
            replace(shape, pod_affinity=rest_terms),
        )
    for i, term in enumerate(shape.pod_anti_affinity):
        rest_terms = shape.pod_anti_affinity[:i] + shape.pod_anti_affinity[i + 1 :]
        text = f"remove the required pod anti-affinity over {term.topology_key}"
        relaxed = replace(shape, pod_anti_affinity=rest_terms)
        yield "remove-pod-anti-affinity", term.topology_key, text, relaxed
    for i, port in enumerate(shape.ports):
        rest_ports = shape.ports[:i] + shape.ports[i + 1 :]
        text = f"do without host port {port.port}"
        yield "remove-port", str(port.port), text, replace(shape, ports=rest_ports)


def _relaxed_specs(spec: ClaimSpec) -> Iterator[tuple[str, str, ClaimSpec]]:
    """(text, subject, spec) with one constraint or selector left out."""
    for i, constraint in enumerate(spec.constraints):
        about = constraint.match or constraint.distinct
        kind = "matchAttribute" if constraint.match else "distinctAttribute"
        rest = spec.constraints[:i] + spec.constraints[i + 1 :]
        yield f"remove the constraint {kind} {about}", about, ClaimSpec(spec.requests, rest)
    for index, entry in enumerate(spec.requests):
        request = entry.alternatives[0]
        for i, selector in enumerate(request.selectors):
            kept = request.selectors[:i] + request.selectors[i + 1 :]
            text = f"remove selector `{selector}` of request {entry.name}"
            relaxed = _with_request(spec, index, replace(request, selectors=kept))
            yield text, selector or "", relaxed


def _with_request(spec: ClaimSpec, index: int, request: Request) -> ClaimSpec:
    entry = spec.requests[index]
    changed = replace(entry, alternatives=(request, *entry.alternatives[1:]))
    return ClaimSpec(
        (*spec.requests[:index], changed, *spec.requests[index + 1 :]), spec.constraints
    )


def _merged(node: Node, more: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted({**dict(node.allocatable), **more}.items()))


def _shown(resource: str, amount: int) -> str:
    if resource == "cpu":
        return format_quantity(Fraction(amount, 1000))
    return format_quantity(amount, binary=amount % 1024 == 0)
