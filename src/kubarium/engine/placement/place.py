"""Placing one pod: the best feasible node, devices included, and the account when there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.devices.model import Allocation, AllocationError, ClaimSpec
from kubarium.engine.model import Key, Pod, PodShape
from kubarium.engine.placement import filters, topology
from kubarium.engine.placement.class_counts import ClassCounts
from kubarium.engine.placement.devices import ClaimsOf, DeviceFit, claims_of, held_mask
from kubarium.engine.placement.evictions import Evict, Evictions
from kubarium.engine.placement.fit import Fit
from kubarium.engine.placement.node_claims import charged, lacking, shares_of
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.scores import Scores
from kubarium.engine.placement.volumes import (
    Group,
    assume,
    problem_of,
    volume_filters,
    volume_score,
)
from kubarium.engine.plan import Placement
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import NodeReasons, Verdict

# Nodes with nominated pods that are judged each for itself, without what is promised of others; of
# more all promises count on each, so that the work does not grow with their square.
PROMISED_APART = 8
# Shapes and claim lists whose state is kept; the least recently used is dropped beyond that.
MAX_FITS = 256


class Placer:
    """Places pods on a snapshot and remembers, between pods, what stays true."""

    def __init__(self, snapshot: Snapshot, profile: Profile = DEFAULT) -> None:
        self.snapshot = snapshot
        self.profile = profile
        # The default profile leaves the choice to the inventory, which may be first fit.
        self._preference = None if profile is DEFAULT else profile.devices
        self._fits: dict[PodShape, Fit] = {}
        self._devices: dict[tuple[ClaimSpec, ...], DeviceFit] = {}
        self._counts = snapshot.shared(ClassCounts)
        self._evictions: dict[tuple[PodShape, int], Evictions] = {}
        # Pods that count as placed although they only wait for room on a node.
        self.nominated: tuple[Key, ...] = ()

    def place(self, pod: Pod, within: Mask | None = None) -> Placement | None:
        """Put the pod on its best node and give its claims their devices; None if it fits nowhere.

        Of equals the first by name is taken, in whatever order nodes became known. ``within``
        limits the nodes (a gang's topology domain).
        """
        placement, _ = (
            self._found_of_each(pod, within) if pod.variants else self._found(pod, within)
        )
        if placement is not None:
            self.apply(placement)
        return placement

    def _found_of_each(self, pod: Pod, within: Mask | None) -> tuple[Placement | None, int]:
        """The best of what is found for each variant, each of which has nodes of its own."""
        best: tuple[Placement | None, int] = (None, -1)
        for one in pod.variants:
            placement, score = self._found(one, within)
            if placement is None:
                continue
            if pod.nominated_node == placement.node:
                return placement, score
            known = best[0]
            if known is None or (-score, placement.node) < (-best[1], known.node):
                best = placement, score
        return best

    def _found(self, pod: Pod, within: Mask | None) -> tuple[Placement | None, int]:
        """The pod on its best node, and the node's score; nothing is entered."""
        claims = claims_of(self.snapshot, pod)
        if claims.problem or (pod.volumes and problem_of(self.snapshot, pod, self.profile)):
            return None, -1
        try:
            return self._choose(pod, claims, within)
        except AllocationError:
            return None, -1

    def place_on(self, pod: Pod, row: int) -> Placement | None:
        """Put the pod on one node and give its claims their devices; None if it does not fit."""
        if pod.claims or pod.variants or pod.has_volumes or topology.concerns(self.snapshot, pod):
            only = np.zeros(self.snapshot.capacity, np.bool_)
            only[row] = True
            return self.place(pod, only)
        if not self.fit(pod.shape).takes(row):
            return None
        placement = Placement(pod, self._name(row))
        self.apply(placement)
        return placement

    def apply(self, placement: Placement) -> None:
        """Enter a placement in the snapshot."""
        for key, allocation in placement.allocations:
            self.snapshot.allocate(key, allocation)
        if placement.pod.volumes:
            assume(self.snapshot, placement.pod, placement.node)
        self.snapshot.place(placement.pod, placement.node)

    def fit(self, shape: PodShape) -> Fit:
        """The shape's row scores, made on first use."""
        found = self._fits.pop(shape, None) or Fit(
            self.snapshot, shape, self.profile, self._counts.of
        )
        self._fits[shape] = found
        if len(self._fits) > MAX_FITS:
            del self._fits[next(iter(self._fits))]
        return found

    def able(self, shape: PodShape, within: Mask | None) -> Mask:
        """The nodes that the shape may go to, room aside; ``within`` limits them."""
        fit = self.fit(shape)
        fit.refresh_static()
        return fit.static if within is None else fit.static & within

    def evictions(self, shape: PodShape, priority: int, evict: Evict) -> Evictions:
        """What pods of this shape and priority would evict, row by row."""
        key = (shape, priority)
        found = self._evictions.pop(key, None)
        if found is None:
            found = Evictions(self.snapshot, shape, priority, evict)
        self._evictions[key] = found
        if len(self._evictions) > MAX_FITS:
            del self._evictions[next(iter(self._evictions))]
        return found.refresh()

    def device_fit(self, claims: ClaimsOf) -> DeviceFit | None:
        """The nodes' answers for the pod's pending claims, brought up to date; None without any."""
        if not claims.pending:
            return None
        specs = tuple(claim.spec for claim in claims.pending)
        found = self._devices.pop(specs, None) or DeviceFit(
            self.snapshot,
            specs,
            self._preference,
            self.profile.weights.DynamicResources,
        )
        self._devices[specs] = found
        if len(self._devices) > MAX_FITS:
            del self._devices[next(iter(self._devices))]
        found.name_claims([claim.key for claim in claims.pending])
        found.refresh()
        return found

    def _choose(
        self, pod: Pod, claims: ClaimsOf, within: Mask | None
    ) -> tuple[Placement | None, int]:
        snapshot = self.snapshot
        near = topology.concerns(snapshot, pod)
        pin = filters.pinned_to(pod.shape)
        alone = not near and not pod.claims and not pod.has_volumes and within is None
        if pin and alone and self.profile is DEFAULT:
            # The only candidate: scores do not matter, and no columns are made for the shape.
            row = snapshot.rows.get(pin)
            fits = row is not None and filters.row_passes(snapshot, pod.shape, row)
            return (Placement(pod, pin), 0) if fits else (None, -1)
        total, devices = self._totals(pod, claims, within, near)
        nominated = snapshot.rows.get(pod.nominated_node) if pod.nominated_node else None
        if nominated is not None and total[nominated] >= 0:
            # Room was made for the pod there: upstream looks no further if it passes.
            only = np.full_like(total, -1)
            only[nominated] = total[nominated]
            found = self._best(pod, claims, only, devices)
            if found[0] is not None:
                return found
        return self._best(pod, claims, total, devices)

    def _surroundings(self, pod: Pod) -> topology.Surroundings:
        """What other pods forbid; with those that are only nominated just on their own nodes.

        They may never come there, so a pod must not go where it only fits beside them either
        (upstream: RunFilterPluginsWithNominatedPods).
        """
        snapshot = self.snapshot
        if not self.nominated:
            return topology.surroundings(snapshot, pod, self.profile)
        by_node: dict[str, list[Pod]] = {}
        for key in self.nominated:
            coming = snapshot.placed(key)
            if coming is not None:
                by_node.setdefault(snapshot.node_of(key) or "", []).append(coming)
        together = len(by_node) > PROMISED_APART
        found = topology.Surroundings()
        if together:
            found.masks += self._beside(pod, [n for n in by_node if n in snapshot.rows])
        mark = snapshot.checkpoint()
        for key in self.nominated:
            snapshot.displace(key)
        for name, pods in by_node.items() if not together else ():
            if name in snapshot.rows:
                inner = snapshot.checkpoint()
                for coming in pods:
                    snapshot.place(coming, name)
                found.masks += self._beside(pod, [name])
                snapshot.rollback(inner)
        found.masks += topology.surroundings(snapshot, pod, self.profile).masks
        snapshot.rollback(mark)
        return found

    def _beside(self, pod: Pod, nodes: list[str]) -> list[tuple[str, Mask]]:
        """What other pods forbid on these nodes."""
        elsewhere = ~filters.among(self.snapshot, nodes)
        found = topology.surroundings(self.snapshot, pod, self.profile)
        return [(reason, mask | elsewhere) for reason, mask in found.masks]

    def _volumes(self, pod: Pod) -> Iterator[Group]:
        return volume_filters(self.snapshot, pod, self.profile, self.nominated)

    def scores(self, pod: Pod) -> Scores:
        """The score of each row where the pod fits, devices aside; -1 elsewhere."""
        claims = claims_of(self.snapshot, pod)
        return self._totals(pod, claims, None, topology.concerns(self.snapshot, pod))[0]

    def _totals(
        self, pod: Pod, claims: ClaimsOf, within: Mask | None, near: bool
    ) -> tuple[Scores, DeviceFit | None]:
        fit = self.fit(pod.shape)
        total = fit.refresh()
        devices = self.device_fit(claims)
        narrowed = near or bool(claims.held or pod.has_volumes)
        if narrowed or (devices and devices.prioritised):
            total = self._narrowed(pod, claims, within, fit, devices, near)
        elif within is not None and fit.has_relative:
            total = fit.with_relative((fit.total >= 0) & within)
        elif within is not None:
            total = np.where(within, total, -1)
        return total, devices

    def _narrowed(
        self,
        pod: Pod,
        claims: ClaimsOf,
        within: Mask | None,
        fit: Fit,
        devices: DeviceFit | None,
        near: bool,
    ) -> Scores:
        """Scores over the nodes that pass every filter, relative scores taken among those."""
        snapshot = self.snapshot
        feasible: Mask = fit.total >= 0
        if within is not None:
            feasible &= within
        if claims.held:
            feasible &= held_mask(snapshot, claims.held)
        for group in self._volumes(pod) if pod.has_volumes else ():
            for _, mask in group:
                feasible &= mask
        if near:
            feasible &= self._surroundings(pod).mask(snapshot.capacity)
        if devices is not None and devices.prioritised:
            feasible &= devices.mask(feasible)
        total = fit.with_relative(feasible)
        if near:
            total += topology.score(snapshot, pod, feasible, self.profile)
        storage = volume_score(snapshot, pod, feasible, self.profile) if pod.volumes else None
        if storage is not None:
            total += storage
        if devices is not None and devices.prioritised:
            points = devices.scores(feasible, claims.liked)
            total += self.profile.weights.DynamicResources * points
        total[~feasible] = -1
        return total

    def _best(
        self, pod: Pod, claims: ClaimsOf, total: Scores, devices: DeviceFit | None
    ) -> tuple[Placement | None, int]:
        weighs = bool(pod.claims) and self.snapshot.inventory.has_node_resources
        if devices is None and not weighs:
            row = self.snapshot.best_row(total)
            score = total.item(row)
            return (Placement(pod, self._name(row)), score) if score >= 0 else (None, -1)
        total = total.copy() if devices is None else devices.ranked(total)
        while True:
            row = self.snapshot.best_row(total)
            score = total.item(row)
            if score < 0:
                return None, -1
            answer = () if devices is None else devices.on(row)
            if not isinstance(answer, str):
                placement = self._placement(pod, claims, row, answer)
                if not weighs or not self._lacking(placement, row):
                    return placement, score
            total[row] = -1
            if devices is not None:
                total[devices.blocked] = -1

    def _placement(
        self, pod: Pod, claims: ClaimsOf, row: int, answer: tuple[Allocation, ...]
    ) -> Placement:
        """The pod on the row, its requests with what its claims take of the node (KEP-5517)."""
        given = tuple(zip((claim.key for claim in claims.pending), answer, strict=True))
        if not self.snapshot.inventory.has_node_resources:
            return Placement(pod, self._name(row), given)
        held = [(claim.key, allocation) for claim, allocation in claims.held]
        shares = shares_of(self.snapshot.inventory, pod, (*held, *given))
        return Placement(charged(pod, shares), self._name(row), given, shares)

    def _lacking(self, placement: Placement, row: int) -> tuple[str, ...]:
        return lacking(self.snapshot, placement.pod, placement.shares, row)

    def _name(self, row: int) -> str:
        node = self.snapshot.nodes[row]
        assert node is not None
        return node.name

    # The account

    def account(self, pod: Pod, within: Mask | None = None) -> Verdict:
        """Why the pod fits no node: each node under the first filter that it fails.

        Where there are no nodes nothing is asked.
        """
        snapshot = self.snapshot
        total = snapshot.node_count()
        if not total:
            return Verdict(pod.key, total)
        if pod.variants:
            return self._account_of_each(pod, within)
        claims = claims_of(snapshot, pod)
        problem = self._problem(pod, claims)
        if problem:
            return Verdict(pod.key, total, everywhere=problem)
        try:
            book = self._first_failures(pod, claims, within)
        except AllocationError as error:
            return Verdict(pod.key, total, everywhere=str(error), failed="DynamicResources")
        by_node = NodeReasons(snapshot.rows, book.codes, list(book.sets), snapshot.alive)
        counts = by_node.counts()
        return Verdict(
            pod.key, total, counts, by_node=by_node, detail=_missing_classes(snapshot, pod, counts)
        )

    def lacking_on(self, pod: Pod, row: int) -> tuple[str, ...]:
        """What :meth:`account` says of one row, without an account of the others."""
        snapshot = self.snapshot
        within = np.zeros(snapshot.capacity, np.bool_)
        within[row] = True
        for one in pod.each:
            if pod.variants and not filters.served_as(snapshot, one.shape)[row]:
                continue
            claims = claims_of(snapshot, one)
            problem = self._problem(one, claims)
            if problem:
                return (problem,)
            try:
                return self._first_failures(one, claims, within).on(row)
            except AllocationError as error:
                return (str(error),)
        return ()

    def _problem(self, pod: Pod, claims: ClaimsOf) -> str:
        """What keeps the pod from all nodes, whatever they are."""
        if self._named(pod) == frozenset():
            return reasons.AFFINITY_CONFLICT
        return claims.problem or problem_of(self.snapshot, pod, self.profile)

    def _account_of_each(self, pod: Pod, within: Mask | None) -> Verdict:
        """Each node under what it lacks for the variant that is meant for it."""
        snapshot, total = self.snapshot, self.snapshot.node_count()
        merged = _Failures(snapshot.alive.copy())
        problems: list[str] = []
        for one in pod.variants:
            mine = filters.served_as(snapshot, one.shape)
            claims = claims_of(snapshot, one)
            problem = self._problem(one, claims)
            problems.append(problem)
            if problem:
                merged.codes[mine] = merged.code((problem,))
                continue
            try:
                book = self._first_failures(one, claims, within)
            except AllocationError as error:
                return Verdict(pod.key, total, everywhere=str(error), failed="DynamicResources")
            for why, code in book.sets.items():
                merged.codes[mine & (book.codes == code)] = merged.code(why)
        if len(set(problems)) == 1 and problems[0]:
            return Verdict(pod.key, total, everywhere=problems[0])
        by_node = NodeReasons(snapshot.rows, merged.codes, list(merged.sets), snapshot.alive)
        return Verdict(pod.key, total, by_node.counts(), by_node=by_node)

    def _first_failures(self, pod: Pod, claims: ClaimsOf, within: Mask | None) -> _Failures:
        """The reasons of each row; several only for several resources, none where it fits."""
        book = _Failures(self.snapshot.alive.copy())
        for reason, mask in self._cheap_filters(pod, within):
            book.enter(reason, mask)
        book.enter_all(list(filters.resources_fit(self.snapshot, pod.shape, self.profile)))
        for group in self._volumes(pod):
            book.enter_all(group)
        if topology.concerns(self.snapshot, pod):
            for reason, mask in self._surroundings(pod).masks:
                book.enter(reason, mask)
        devices = self.device_fit(claims)
        weighs = bool(pod.claims) and self.snapshot.inventory.has_node_resources
        if devices is not None:
            for reason, refused in devices.refusals(book.left):
                book.codes[refused] = book.code((reason,))
                book.left &= ~refused
        if claims.held:  # after the others, as upstream
            book.enter(reasons.CLAIM_ELSEWHERE, held_mask(self.snapshot, claims.held))
        for row in np.flatnonzero(book.left).tolist() if weighs else ():
            why, _ = self.beside_claims(pod, claims, devices, row)
            book.codes[row] = book.code(why)
            book.left[row] = not why
        for reason, mask in filters.last_filters(self.snapshot, pod.shape, self.profile):
            book.enter(reason, mask)
        return book

    def beside_claims(
        self, pod: Pod, claims: ClaimsOf, devices: DeviceFit | None, row: int
    ) -> tuple[tuple[str, ...], Pod]:
        """(what the row lacks, the pod) once its claims' devices take their part of the node."""
        answer = devices.on(row) if devices else ()
        if isinstance(answer, str):
            return (), pod
        placement = self._placement(pod, claims, row, answer)
        return self._lacking(placement, row), placement.pod

    def _cheap_filters(self, pod: Pod, within: Mask | None) -> Iterator[tuple[str, Mask]]:
        snapshot, shape = self.snapshot, pod.shape
        if within is not None:
            yield reasons.PLACEMENT_OUTSIDE, within
        named = self._named(pod)
        if named is not None:
            yield reasons.NOT_NAMED, filters.among(snapshot, named)
        yield from filters.static_filters(snapshot, shape, self.profile)
        if shape.ports and self.profile.filters("NodePorts"):
            yield reasons.HOST_PORTS, filters.ports_free(snapshot, shape.ports)

    def _named(self, pod: Pod) -> frozenset[str] | None:
        """The only nodes that the pod's affinity names, if that is looked at; None: any."""
        if not self.profile.prepares("NodeAffinity"):
            return None
        return filters.named_by_affinity(pod.shape)


class _Failures:
    """Reasons by row while filters are asked one after the other."""

    def __init__(self, left: Mask) -> None:
        self.left = left
        self.sets: dict[tuple[str, ...], int] = {(): 0}
        self.codes = np.zeros(len(left), np.int32)

    def code(self, why: tuple[str, ...]) -> int:
        return self.sets.setdefault(why, len(self.sets))

    def on(self, row: int) -> tuple[str, ...]:
        return list(self.sets)[int(self.codes[row])]

    def enter(self, reason: str, mask: Mask) -> None:
        """Rows still left that the filter turns away."""
        failing = self.left & ~mask
        if failing.any():
            self.codes[failing] = self.code((reason,))
            self.left &= mask

    def enter_all(self, lacking: list[tuple[str, Mask]]) -> None:
        """Filters that are all asked, so that a row may have several reasons."""
        groups: list[tuple[tuple[str, ...], Mask]] = [((), self.left)]  # rows with equal reasons
        for reason, mask in reversed(lacking):
            divided: list[tuple[tuple[str, ...], Mask]] = []
            for why, rows in groups:
                failing = rows & ~mask
                if not failing.any():
                    divided.append((why, rows))
                    continue
                passing = rows & mask
                if not why or passing.any():
                    divided.append((why, passing))
                divided.append(((reason, *why), failing))
            groups = divided
        (_, self.left), *failed = groups
        for why, rows in failed:
            self.codes[rows] = self.code(why)


def _missing_classes(snapshot: Snapshot, pod: Pod, counts: Mapping[str, int]) -> tuple[str, ...]:
    """A sentence for each resource that nodes lack since it names a class that does not exist."""
    return tuple(
        reasons.implicit_class_missing(name)
        for name, _ in pod.shape.requests
        if name.startswith(reasons.IMPLICIT_PREFIX)
        and reasons.insufficient(name) in counts
        and name.removeprefix(reasons.IMPLICIT_PREFIX) not in snapshot.inventory.classes
    )
