"""One sentence behind ``cannot allocate all claims``: what the claims of waiting pods lack."""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.engine import reasons
from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.explain.survey import RequestSurvey, survey
from kubarium.engine.model import Pod
from kubarium.engine.plan import Decision
from kubarium.view.cluster import ClusterView
from kubarium.view.placement import clauses_of

# Seconds for which a sentence is repeated: a crowd of pods that are tried again and again must not
# have the devices counted each time, nor write a new condition for each claim that comes or goes.
REPEATED_S = 10.0

# The same once slices or classes have changed since: an old sentence may be wrong then.
REPEATED_AFTER_CHANGES_S = 1.0

# Specs remembered.
MAX_SPECS = 256


class ClaimHints:
    """Sentences by claim spec, renewed now and then, and when slices or classes change."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        # By spec and number of claims: when it was found out, after how many changes, and what.
        self._told: dict[tuple[ClaimSpec, int], tuple[float, int, str]] = {}

    def of(self, decision: Decision, now: float) -> str:
        """What is to follow the scheduler's message; "" if claims are not what is in the way.

        ``now`` is in monotonic seconds.
        """
        inventory = self._view.snapshot.inventory
        changes = inventory.slice_epoch + inventory.class_epoch
        pods = [pod for pod, verdict in decision.unplaced if reasons.CLAIMS in verdict.counts]
        for spec, count in self._pending(pods).items():
            known = self._told.pop((spec, count), None)
            since_s = REPEATED_S if known and known[1] == changes else REPEATED_AFTER_CHANGES_S
            if known is None or now - known[0] >= since_s:
                found = survey(self._view.snapshot, spec, count, clauses_of)
                known = (now, changes, next(filter(None, map(sentence, found)), ""))
            self._told[spec, count] = known
            if len(self._told) > MAX_SPECS:
                del self._told[next(iter(self._told))]
            if known[2]:
                return f" {known[2]}."
        return ""

    def _pending(self, pods: Iterable[Pod]) -> dict[ClaimSpec, int]:
        snapshot = self._view.snapshot
        specs: dict[ClaimSpec, int] = {}
        for key in dict.fromkeys(key for pod in pods for key in pod.claims):
            claim = snapshot.claims.get(key)
            if claim is not None and key not in snapshot.allocations:
                specs[claim.spec] = specs.get(claim.spec, 0) + 1
        return specs


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
    if found.free < found.needed:
        counts = f"{found.needed} devices needed, {found.matching} match, {found.free} free"
        return f"{head}: {counts}{_tainted(found)}{_unusable(found)}"
    return ""


def _tainted(found: RequestSurvey) -> str:
    """How many of the devices that match are tainted, and with what most of them."""
    taints = {why: count for why, count in found.failed.items() if why.startswith("taint ")}
    if not taints:
        return ""
    text = min(taints, key=lambda why: (-taints[why], why)).removeprefix("taint ")
    return f", {sum(taints.values())} tainted ({text})"


def _unusable(found: RequestSurvey) -> str:
    """The pool with most devices of those that give none, and why."""
    pools = {why: count for why, count in found.failed.items() if why.startswith("pool ")}
    if not pools:
        return ""
    more = f", and {len(pools) - 1} more pools give none" if len(pools) > 1 else ""
    return f"; {min(pools, key=lambda why: (-pools[why], why))}{more}"
