"""The decisions about a Job: is it over, and which pods should there be. Pure.

Upstream: ``syncJob`` and ``manageJob`` in ``pkg/controller/job/job_controller.go``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.job.backoff import BackoffTimes, FailureRecord, finished_at
from kubarium.control.workloads.job.facts import JobFacts, index_of
from kubarium.control.workloads.job.indexes import IndexSet
from kubarium.control.workloads.job.policy import judge_failure, match_success
from kubarium.runtime import writes
from kubarium.view.elastic import ending_of

SUCCESS_CRITERIA_MET = "SuccessCriteriaMet"
FAILURE_TARGET = "FailureTarget"
# Pods created or deleted in one reconcile (upstream MaxPodCreateDeletePerSync).
MOST_PODS_PER_SYNC = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """The interim condition of a Job that is to end: FailureTarget or SuccessCriteriaMet."""

    type: str
    reason: str
    message: str

    @property
    def is_failure(self) -> bool:
        return self.type == FAILURE_TARGET


def _failure(reason: str, message: str) -> Outcome:
    return Outcome(FAILURE_TARGET, reason, message)


def decide_outcome(facts: JobFacts) -> Outcome | None:
    """Whether the Job is to end, before any pod is created or removed; None to carry on."""
    for type_ in (SUCCESS_CRITERIA_MET, FAILURE_TARGET):
        condition = writes.find_condition(facts.status, type_)
        if condition is not None and condition.get("status") == "True":
            return Outcome(type_, condition.get("reason", ""), condition.get("message", ""))
    return (
        _ended_by_gang(facts)
        or _failed_by_policy(facts)
        or _failed_by_limit(facts)
        or _failed_by_indexes(facts)
        or _succeeded_by_policy(facts)
    )


def _ended_by_gang(facts: JobFacts) -> Outcome | None:
    """An elastic gang ends with as many ranks as it has then, or is given up as a whole."""
    if facts.elastic is None:
        return None
    ranks, why = ending_of(facts.job)
    if why:
        return _failure("BackoffLimitExceeded", why)
    if ranks:
        return Outcome(SUCCESS_CRITERIA_MET, "SuccessPolicy", f"All {ranks} ranks have completed")
    return None


def _failed_by_policy(facts: JobFacts) -> Outcome | None:
    if facts.failure_policy is None:
        return None
    for pod in facts.pods:
        if facts.is_failed(pod) and podlib.phase(pod) != "Succeeded":
            verdict = judge_failure(facts.failure_policy, pod)
            if verdict.message:
                return _failure("PodFailurePolicy", verdict.message)
    return None


def _failed_by_limit(facts: JobFacts) -> Outcome | None:
    limit = int(facts.spec.get("backoffLimit", 6))
    if facts.failed > limit or _restarts_exceed(facts, limit):
        return _failure("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    remaining_s = deadline_in_s(facts)
    if remaining_s is not None and remaining_s <= 0:
        return _failure("DeadlineExceeded", "Job was active longer than specified deadline")
    return None


def _restarts_exceed(facts: JobFacts, limit: int) -> bool:
    """With restartPolicy OnFailure the node's restarts count as failures."""
    template = facts.spec["template"]["spec"]
    if template.get("restartPolicy") != "OnFailure" or facts.elastic is not None:
        return False
    total = sum(
        int(status.get("restartCount", 0))
        for pod in facts.pods
        if podlib.phase(pod) in ("Running", "Pending")
        for status in podlib.container_statuses(pod)
    )
    return total > 0 if limit == 0 else total >= limit


def deadline_in_s(facts: JobFacts) -> float | None:
    """Seconds until activeDeadlineSeconds strikes; None when it does not run."""
    limit = facts.spec.get("activeDeadlineSeconds")
    started = facts.status.get("startTime")
    if limit is None or not started or facts.is_suspended:
        return None
    return parse_rfc3339(started) + float(limit) - facts.now


def _failed_by_indexes(facts: JobFacts) -> Outcome | None:
    if facts.per_index_limit is None:
        return None
    failed = len(facts.failed_indexes)
    most = facts.spec.get("maxFailedIndexes")
    if most is not None and failed > most:
        return _failure(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        )
    if failed and failed + len(facts.succeeded_indexes) >= (facts.completions or 0):
        return _failure("FailedIndexes", "Job has failed indexes")
    return None


def _succeeded_by_policy(facts: JobFacts) -> Outcome | None:
    if not facts.is_indexed or not facts.spec.get("successPolicy"):
        return None
    message = match_success(
        facts.spec["successPolicy"], facts.completions or 0, facts.succeeded_indexes
    )
    return Outcome(SUCCESS_CRITERIA_MET, "SuccessPolicy", message) if message else None


def completed(facts: JobFacts, active: int) -> Outcome | None:
    """Success by count, once no pod is active any more."""
    if active:
        return None
    if facts.completions is None:
        done = facts.succeeded > 0
    else:
        done = facts.succeeded >= facts.completions
    if not done:
        return None
    return Outcome(
        SUCCESS_CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods"
    )


@dataclass(slots=True)
class PodPlan:
    """Pods to remove and pods to create; ``wait_s`` is when back-off lets more be created."""

    remove: list[Document] = field(default_factory=list)
    create: int = 0
    indexes: list[int] = field(default_factory=list)
    wait_s: float | None = None
    spares: int = 0


def plan_pods(facts: JobFacts, backoff: FailureRecord, times: BackoffTimes) -> PodPlan:
    """Which pods a Job that carries on should lose or gain."""
    if facts.is_suspended:
        all_ = [*_removal(facts, len(facts.active)), *filter(podlib.is_active, facts.spares)]
        return PodPlan(remove=all_[:MOST_PODS_PER_SYNC])
    wanted = _wanted_active(facts)
    surplus = max(0, len(facts.active) - wanted)
    remove = _removal(facts, surplus)
    if remove:  # deletions first: an index may be free for its successor afterwards
        return PodPlan(remove=remove[:MOST_PODS_PER_SYNC])
    terminating = len(facts.terminating) if facts.replaces_only_failed else 0
    missing = min(wanted - terminating - len(facts.active), MOST_PODS_PER_SYNC)
    spares = [pod for pod in facts.spares if podlib.is_active(pod)]
    if missing <= 0:
        return _plan_spares(facts, spares, times)
    if facts.elastic is not None and facts.has_begun:
        missing -= len(spares)  # the gang's controller gives them the ranks that are missing
        if missing <= 0:
            return PodPlan()
    if facts.per_index_limit is not None:
        return _plan_independent_indexes(facts, missing, times)
    wait_s = backoff.remaining_s(times, facts.now)
    if wait_s > 0:
        return PodPlan(wait_s=wait_s)
    if not facts.is_indexed:
        return PodPlan(create=missing)
    indexes = _busy_indexes(facts).first_missing(missing, facts.completions or 0)
    return PodPlan(create=len(indexes), indexes=indexes)


def _plan_spares(facts: JobFacts, spares: list[Document], times: BackoffTimes) -> PodPlan:
    """As many spares as asked for, once every rank has a node: none takes the place of a rank.
    Spares that end by themselves are made again with the back-off of failed pods."""
    wanted = facts.elastic.spares if facts.elastic is not None else 0
    if facts.elastic is not None and any(ending_of(facts.job)):
        wanted = 0
    if len(spares) > wanted:
        spares.sort(key=lambda pod: podlib.removal_order(pod, facts.now))
        return PodPlan(remove=spares[: len(spares) - wanted])
    if not all(pod["spec"].get("nodeName") for pod in facts.active):
        return PodPlan()
    ended = [pod for pod in facts.spares if podlib.is_terminal(pod)]
    wait_s = FailureRecord().with_finished((), ended).remaining_s(times, facts.now)
    if wait_s > 0 and len(spares) < wanted:
        return PodPlan(wait_s=wait_s)
    return PodPlan(spares=wanted - len(spares))


def _wanted_active(facts: JobFacts) -> int:
    if facts.completions is None:
        # A work queue: after the first success no pod is replaced.
        return len(facts.active) if facts.succeeded > 0 else facts.parallelism
    return max(0, min(facts.completions - facts.succeeded, facts.parallelism))


def _busy_indexes(facts: JobFacts) -> IndexSet:
    busy = facts.succeeded_indexes | IndexSet.of(
        index_of(pod) for pod in facts.active if facts.has_valid_index(pod)
    )
    if facts.replaces_only_failed:
        busy |= IndexSet.of(
            index_of(pod) for pod in facts.terminating if facts.has_valid_index(pod)
        )
    return busy


def _plan_independent_indexes(facts: JobFacts, missing: int, times: BackoffTimes) -> PodPlan:
    """Every index has its own back-off (KEP-3850)."""
    busy = _busy_indexes(facts) | facts.failed_indexes
    ready: list[int] = []
    waits: list[float] = []
    for index in busy.first_missing(facts.completions or 0, facts.completions or 0):
        wait_s = _index_wait_s(facts, index, times)
        if wait_s > 0:
            waits.append(wait_s)
        elif len(ready) < missing:
            ready.append(index)
    return PodPlan(create=len(ready), indexes=ready, wait_s=min(waits, default=None))


def _index_wait_s(facts: JobFacts, index: int, times: BackoffTimes) -> float:
    pod = facts.held_back.get(index)
    if pod is None:
        return 0.0
    return max(
        0.0, finished_at(pod) + times.after(sum(facts.failure_counts_for(index))) - facts.now
    )


def _removal(facts: JobFacts, at_least: int) -> list[Document]:
    """Pods whose index is double or gone, then so many of the rest that ``at_least`` go."""
    remove: list[Document] = []
    left = list(facts.active)
    if facts.is_indexed:
        remove, left = _misplaced(facts)
    if len(remove) < at_least:
        left.sort(key=lambda pod: podlib.removal_order(pod, facts.now))
        remove += left[: at_least - len(remove)]
    return remove


def _misplaced(facts: JobFacts) -> tuple[list[Document], list[Document]]:
    """(pods of a double or vanished index, the others); of doubles the best one stays."""
    by_index: dict[int, list[Document]] = {}
    remove: list[Document] = []
    for pod in facts.active:
        if facts.has_valid_index(pod):
            by_index.setdefault(index_of(pod), []).append(pod)
        else:
            remove.append(pod)
    left: list[Document] = []
    for pods in by_index.values():
        if len(pods) > 1:
            pods.sort(key=lambda pod: podlib.removal_order(pod, facts.now))
            remove += pods[:-1]
        left.append(pods[-1])
    return remove, left
