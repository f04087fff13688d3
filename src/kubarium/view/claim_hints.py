"""One sentence behind ``cannot allocate all claims``: what the claims of waiting pods lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from kubarium.engine import reasons
from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.explain.case import resource_labels
from kubarium.engine.explain.survey import RequestSurvey, survey
from kubarium.engine.model import Claim, Key, Pod
from kubarium.engine.placement.filters import fitting, static_mask
from kubarium.engine.plan import Decision
from kubarium.view.cluster import ClusterView
from kubarium.view.placement import clauses_of

# Seconds for which a sentence is repeated: a crowd of pods that are tried again and again must not
# have the devices counted each time, nor write a new condition for each claim that comes or goes.
REPEATED_S = 10.0

# The same once slices or classes have changed since: an old sentence may be wrong then.
REPEATED_AFTER_CHANGES_S = 1.0

# Reasons behind which a sentence follows: they do not say which devices are meant.
_EXPLAINED = (reasons.CLAIMS, reasons.INVALID_POOLS)

# How the survey's reasons begin that are about amounts.
_AMOUNTS = ("capacity", "counter ", "compatibility group ")

# Questions remembered.
MAX_SPECS = 256


class _Asked(NamedTuple):
    """What equal claims ask for, and what says which nodes their pods may go to."""

    spec: ClaimSpec
    claims: int
    places: tuple[object, ...]

    @classmethod
    def by(cls, pod: Pod, spec: ClaimSpec, claims: int) -> _Asked:
        shape = pod.shape
        return cls(spec, claims, (shape.node_selector, shape.affinity, shape.tolerations))


class ClaimHints:
    """Sentences by claim spec, renewed now and then, and when slices or classes change."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        # By what is asked: when it was found out, after how many changes, and what.
        self._told: dict[_Asked, tuple[float, int, str]] = {}

    def of(self, decision: Decision, now: float) -> str:
        """What is to follow the scheduler's message; "" if claims are not what is in the way.

        ``now`` is in monotonic seconds.
        """
        inventory = self._view.snapshot.inventory
        changes = inventory.slice_epoch + inventory.class_epoch
        pods = [pod for pod, why in decision.unplaced if any(r in why.counts for r in _EXPLAINED)]
        for asked, (pod, claim) in self._pending(pods).items():
            known = self._told.pop(asked, None)
            since_s = REPEATED_S if known and known[1] == changes else REPEATED_AFTER_CHANGES_S
            if known is None or now - known[0] >= since_s:
                known = (now, changes, self._sentence(asked, pod, claim))
            self._told[asked] = known
            if len(self._told) > MAX_SPECS:
                del self._told[next(iter(self._told))]
            if known[2]:
                return f" {known[2]}."
        return ""

    def _sentence(self, asked: _Asked, pod: Pod, claim: Claim) -> str:
        snapshot, labels = self._view.snapshot, resource_labels(claim)
        usable = static_mask(snapshot, pod.shape) & fitting(snapshot, pod.shape)
        found = survey(snapshot, asked.spec, asked.claims, clauses_of, usable, labels)
        return next(filter(None, map(sentence, found)), "")

    def _pending(self, pods: Iterable[Pod]) -> dict[_Asked, tuple[Pod, Claim]]:
        """Each question once, with the first pod that asks it, by which claim."""
        snapshot = self._view.snapshot
        users: dict[Key, Pod] = {}
        for pod in pods:
            for key in pod.claims:
                users.setdefault(key, pod)
        counts: Counter[ClaimSpec] = Counter()
        askers: dict[ClaimSpec, tuple[Pod, Claim]] = {}
        for key, pod in users.items():
            claim = snapshot.claims.get(key)
            if claim is not None and key not in snapshot.allocations:
                counts[claim.spec] += 1
                askers.setdefault(claim.spec, (pod, claim))
        return {_Asked.by(askers[s][0], s, count): askers[s] for s, count in counts.items()}


def sentence(found: RequestSurvey) -> str:
    """Why the request has no devices, if counting them shows it; else ""."""
    head = found.label
    if not found.matching:
        killers = [c for c in found.clauses if c.alone and c.owner == "selector"]
        if killers:
            worst = max(killers, key=lambda clause: clause.alone)
            hint = f" ({worst.hint})" if worst.hint else ""
            return f"{head}: no device satisfies `{worst.text}`{hint}"
        return f"{head}: none of {found.devices} devices match{_unusable(found)}"
    if found.notes:
        return f"{head}: {found.notes[0]}"
    if found.missing > 0:
        counts = f"{_wanted(found)}, {found.matching} match, {found.free} free"
        if found.usable < found.free:
            counts = f"{counts}, {found.usable} of them on nodes that the pod could use"
        return (
            f"{head}: {counts}{_tainted(found)}{_used_up(found)}{_unusable(found)}{_resting(found)}"
        )
    return ""


def _wanted(found: RequestSurvey) -> str:
    if found.everything:
        return "all devices of a node wanted"
    return f"{found.needed} {'device' if found.needed == 1 else 'devices'} needed"


def _tainted(found: RequestSurvey) -> str:
    """How many of the devices that match are tainted, and with what most of them."""
    taints = {why: count for why, count in found.failed.items() if why.startswith("taint ")}
    if not taints:
        return ""
    text = min(taints, key=lambda why: (-taints[why], why)).removeprefix("taint ")
    return f", {sum(taints.values())} tainted ({text})"


def _used_up(found: RequestSurvey) -> str:
    """The capacity or counter that most of the devices lack which match."""
    short = {w: n for w, n in found.failed.items() if w.startswith(_AMOUNTS)}
    return f"; {min(short, key=lambda why: (-short[why], why))}" if short else ""


def _resting(found: RequestSurvey) -> str:
    """A device that the scheduler leaves alone for now."""
    return f"; device {found.resting[0].told}" if found.resting else ""


def _unusable(found: RequestSurvey) -> str:
    """The pool with most devices of those that give none, and why."""
    pools = {why: count for why, count in found.failed.items() if why.startswith("pool ")}
    if not pools:
        return ""
    others = len(pools) - 1
    more = f", and {others} more pools give none" if others > 1 else ""
    more = ", and 1 more pool gives none" if others == 1 else more
    return f"; {min(pools, key=lambda why: (-pools[why], why))}{more}"
