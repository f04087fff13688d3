"""New statuses of Workloads for what is decided about them. Documents given in stay unchanged.

Conditions, reasons and messages are Kueue's (``pkg/workload``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.queueing.plan import Admission, Verdict
from kubarium.engine.queueing.workload import AssignedPodSet, Workload
from kubarium.view.queueing.documents import (
    ADMITTED,
    BLOCKED_ON_PREEMPTION_GATES,
    DEACTIVATION_TARGET,
    EVICTED,
    FINISHED,
    PODS_READY,
    PREEMPTED,
    QUOTA_RESERVED,
    REQUEUED,
)

MAX_MESSAGE = 32768
"""Longest message of a condition (apimachinery's validation of metav1.Condition)."""

EVICTED_BY_PREEMPTION = "Preempted"
EVICTED_BY_CLUSTER_QUEUE = "ClusterQueueStopped"
EVICTED_BY_LOCAL_QUEUE = "LocalQueueStopped"
EVICTED_BY_ADMISSION_CHECK = "AdmissionCheck"
EVICTED_BY_DEACTIVATION = "Deactivated"
EVICTED_BY_NODE_FAILURES = "NodeFailures"


class StatusDraft:
    """A copy of a Workload's status on which changes are made; ``changed`` tells if any was."""

    def __init__(self, document: Document, now: float) -> None:
        self._generation = document["metadata"].get("generation")
        self._now = now
        self._before = document.get("status") or {}
        self.status: Document = dict(self._before)
        self.status["conditions"] = list(self.status.get("conditions") or ())

    @property
    def changed(self) -> bool:
        before = {"conditions": [], **self._before}
        return before != self.status

    def find(self, type_: str) -> Document | None:
        for condition in self.status["conditions"]:
            if condition.get("type") == type_:
                return dict(condition)
        return None

    def is_true(self, type_: str) -> bool:
        found = self.find(type_)
        return found is not None and found.get("status") == "True"

    def set(self, type_: str, status: bool, reason: str, message: str) -> None:
        """Set a condition; its transition time moves only when its status does."""
        old = self.find(type_)
        text = "True" if status else "False"
        new: Document = {
            "type": type_,
            "status": text,
            "lastTransitionTime": rfc3339(self._now),
            "reason": reason,
            "message": message[:MAX_MESSAGE],
        }
        if self._generation is not None:
            new["observedGeneration"] = self._generation
        conditions = self.status["conditions"]
        if old is None:
            conditions.append(new)
            return
        if old.get("status") == text:
            new["lastTransitionTime"] = old.get("lastTransitionTime", new["lastTransitionTime"])
        conditions[:] = [new if c.get("type") == type_ else c for c in conditions]

    def remove(self, type_: str) -> None:
        self.status["conditions"] = [c for c in self.status["conditions"] if c.get("type") != type_]

    def reset(self, type_: str, reason: str) -> None:
        """Turn a condition that holds to False, keeping what it said."""
        old = self.find(type_)
        if old is not None and old.get("status") == "True":
            self.set(type_, False, reason, f"Previously: {old.get('message', '')}")

    def sync_admitted(self) -> None:
        """Admitted follows from the reservation and the admission checks."""
        admitted = self.find(ADMITTED)
        if self.find(QUOTA_RESERVED) is None and admitted is None:
            return
        was_admitted = admitted is not None and admitted.get("status") == "True"
        if not self.is_true(QUOTA_RESERVED):
            status, reason, message = False, "NoReservation", "The workload has no reservation"
        elif not self._checks_ready():
            status, reason = False, "UnsatisfiedAdmissionChecks"
            message = "The workload has not all checks ready"
        else:
            status, reason, message = True, "Admitted", "The workload is admitted"
        if was_admitted and not status and admitted is not None:
            ran = self._now - parse_rfc3339(admitted["lastTransitionTime"])
            past = self.status.get("accumulatedPastExecutionTimeSeconds", 0)
            self.status["accumulatedPastExecutionTimeSeconds"] = past + max(0, int(ran))
        self.set(ADMITTED, status, reason, message)

    def _checks_ready(self) -> bool:
        return all(c.get("state") == "Ready" for c in self.status.get("admissionChecks") or ())

    def reserve(self, admission: Admission) -> None:
        """Quota is reserved; Admitted follows unless checks are still to be met."""
        queue = admission.workload.cluster_queue
        self.status["admission"] = admission_document(queue, admission.pod_sets)
        self.status.pop("resourceRequests", None)
        self.set(QUOTA_RESERVED, True, "QuotaReserved", f"Quota reserved in ClusterQueue {queue}")
        for type_ in (EVICTED, PREEMPTED, BLOCKED_ON_PREEMPTION_GATES):
            self.reset(type_, "QuotaReserved")
        self.sync_admitted()

    def unreserve(self, reason: str, message: str) -> None:
        """No quota is reserved (any longer), and why."""
        self.status.pop("admission", None)
        self.set(QUOTA_RESERVED, False, reason, message)
        self.sync_admitted()

    def wait(self, verdict: Verdict) -> None:
        """The scheduler looked and could not admit."""
        self.unreserve(verdict.reason, verdict.message)
        self.status["resourceRequests"] = resource_requests(verdict.workload)
        if verdict.gated:
            self.set(BLOCKED_ON_PREEMPTION_GATES, True, "PreemptionGated", verdict.message)

    def evict(self, reason: str, message: str, cause: str = "") -> None:
        """Ask the job to stop; quota is given back once it has.

        ``cause`` is the underlying cause of a deactivation; it becomes part of the reason.
        """
        self.set(EVICTED, True, reason_with_cause(reason, cause), message)
        self._reset_checks()
        blocked = self.find(BLOCKED_ON_PREEMPTION_GATES)
        if blocked is not None and blocked.get("status") == "True":
            self.set(BLOCKED_ON_PREEMPTION_GATES, False, reason, message)
        gates = self.status.get("preemptionGates") or ()
        if gates:
            closed = {"position": "Closed", "lastTransitionTime": rfc3339(self._now)}
            self.status["preemptionGates"] = [{**gate, **closed} for gate in gates]
        self._count_eviction(reason, cause)

    def preempt(self, reason: str, message: str) -> None:
        self.set(PREEMPTED, True, reason, message)
        self.evict(EVICTED_BY_PREEMPTION, message)

    def requeue(self, reason: str, message: str, at_once: bool) -> None:
        """Whether the workload may queue up again by itself."""
        self.set(REQUEUED, at_once, reason, message)

    def sync_pods_ready(self, ready: bool) -> None:
        """PodsReady while the workload is admitted: did its pods start, fail, recover?"""
        old = self.find(PODS_READY) or {}
        recovering = ("WaitForRecovery", "Recovered")
        if self.is_true(ADMITTED) and ready:
            reason = "Recovered" if old.get("reason") in recovering else "Started"
            message = "All pods reached readiness and the workload is running"
            self.set(PODS_READY, True, reason, message)
        elif self.is_true(ADMITTED) and (
            old.get("status") == "True" or old.get("reason") == "WaitForRecovery"
        ):
            message = "At least one pod has failed, waiting for recovery"
            self.set(PODS_READY, False, "WaitForRecovery", message)
        else:
            message = "Not all pods are ready or succeeded"
            self.set(PODS_READY, False, "WaitForStart", message)

    def finish(self, reason: str, message: str) -> None:
        self.set(FINISHED, True, reason, message)

    def deactivate(self, reason: str, message: str) -> None:
        self.set(DEACTIVATION_TARGET, True, reason, message)

    def sync_checks(self, names: Iterable[str]) -> None:
        """One entry for each admission check asked for; new ones are Pending."""
        wanted = sorted(set(names))
        known = {c["name"]: c for c in self.status.get("admissionChecks") or ()}
        if sorted(known) == wanted:
            return
        pending = {
            "state": "Pending",
            "message": "",
            "lastTransitionTime": rfc3339(self._now),
        }
        checks = [known.get(name) or {"name": name, **pending} for name in wanted]
        if checks:
            self.status["admissionChecks"] = checks
        else:
            self.status.pop("admissionChecks", None)

    def _reset_checks(self) -> None:
        checks = self.status.get("admissionChecks")
        if checks:
            self.status["admissionChecks"] = [self._reset_check(check) for check in checks]

    def _reset_check(self, check: Document) -> Document:
        state = check.get("state")
        if state == "Pending":
            return check
        new: Document = {
            "name": check["name"],
            "state": "Pending",
            "message": f"Reset to Pending after eviction. Previously: {state}",
            "lastTransitionTime": rfc3339(self._now),
        }
        if "requeueAfterSeconds" in check:
            new["requeueAfterSeconds"] = check["requeueAfterSeconds"]
        if state == "Retry":
            new["retryCount"] = check.get("retryCount", 0) + 1
        return new

    def _count_eviction(self, reason: str, cause: str) -> None:
        stats = dict(self.status.get("schedulingStats") or {})
        evictions = [dict(entry) for entry in stats.get("evictions") or ()]
        for entry in evictions:
            if entry["reason"] == reason and entry.get("underlyingCause", "") == cause:
                entry["count"] += 1
                break
        else:
            evictions.append({"reason": reason, "underlyingCause": cause, "count": 1})
        stats["evictions"] = evictions
        self.status["schedulingStats"] = stats


def reason_with_cause(reason: str, cause: str) -> str:
    """``EvictedDueToPreempted``: how Kueue joins a reason and what caused it."""
    return f"{reason}DueTo{cause}" if cause else reason


def admission_document(cluster_queue: str, pod_sets: Iterable[AssignedPodSet]) -> Document:
    """``status.admission``."""
    return {
        "clusterQueue": cluster_queue,
        "podSetAssignments": [
            {
                "name": ps.name,
                "flavors": dict(ps.flavors),
                "resourceUsage": shown_amounts(ps.requests),
                "count": ps.count,
            }
            for ps in pod_sets
        ],
    }


def resource_requests(workload: Workload) -> list[Document]:
    """``status.resourceRequests``: what the pending workload asks for."""
    return [
        {"name": ps.name, "resources": shown_amounts(ps.requests(ps.count))}
        for ps in workload.pod_sets
    ]


def shown_amounts(amounts: Mapping[str, int]) -> dict[str, Any]:
    return {resource: show_amount(resource, amount) for resource, amount in amounts.items()}
