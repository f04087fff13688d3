"""Writes ranks' histories to the API, where they outlive pods and Jobs: one RankHistory for a pod.

It belongs to the JobSet (else the Job) of its pod and goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.kinds import RANK_HISTORIES
from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.node.training.history import History
from kubarium.node.training.progress import RankProgress
from kubarium.runtime.protocol import Context
from kubarium.view.elastic import is_spare

# A history is written soon after it begins, with its first report, then this often while it
# changes, and at its end.
FIRST_WRITE_S = 1.0
WRITE_S = 10.0

JOB_NAME = "batch.kubernetes.io/job-name"
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
GLOBAL_INDEX = "jobset.sigs.k8s.io/job-global-index"


@dataclass(slots=True)
class Record:
    """What is known of one rank's pod, and what of it is written."""

    pod: Document
    history: History = field(default_factory=History)
    started_at: float = 0.0
    ended_at: float = 0.0
    outcome: str = ""
    written: tuple[int, str] | None = None
    rank: int | None = None
    due_at: float = 0.0
    heard: bool = False
    silent_version: int = 0


class Recorder:
    """See the module. ``progress`` says where a pod's rank stands."""

    def __init__(self, context: Context, progress: Callable[[str], RankProgress | None]) -> None:
        self._context = context
        self._progress = progress
        self._records: dict[str, Record] = {}

    def of(self, pod: Document) -> Record:
        """The pod's record, made on first use."""
        found = self._records.setdefault(pod["metadata"]["uid"], Record(pod))
        found.pod = pod
        return found

    def known(self, uid: str) -> Record | None:
        return self._records.get(uid)

    def started(self, pod: Document) -> None:
        """A container of the rank was started."""
        now = self._context.clock.now()
        record = self.of(pod)
        record.history.started(now)
        record.started_at = record.started_at or now
        record.ended_at, record.outcome = 0.0, ""
        record.due_at, record.heard = now + FIRST_WRITE_S, False
        record.silent_version = record.history.version

    async def ended(self, uid: str, outcome: str) -> None:
        """The rank's container has ended: its history is complete and is written."""
        record = self._records.get(uid)
        if record is None:
            return
        record.ended_at, record.outcome = self._context.clock.now(), outcome
        await self._write(uid, record)

    def drop(self, uid: str) -> None:
        self._records.pop(uid, None)

    async def look(self) -> None:
        """Write what has changed and is due."""
        now = self._context.clock.now()
        for uid, record in list(self._records.items()):
            if not record.heard and record.history.version > record.silent_version:
                record.heard, record.due_at = True, now
            if record.started_at and record.due_at <= now and not record.outcome:
                record.due_at = now + WRITE_S
                await self._write(uid, record)

    async def _write(self, uid: str, record: Record) -> None:
        state = (record.history.version, record.outcome)
        if record.written == state:
            return
        pod = record.pod["metadata"]
        document = history_document(record, self._progress(uid))
        client = self._context.client
        try:
            if record.written is None:
                await client.create(RANK_HISTORIES, document, pod["namespace"])
            elif record.rank is not None and record.rank != document["spec"]["rank"]:
                spec = {"spec": document["spec"]}  # a spare that has taken a rank
                await client.patch(RANK_HISTORIES, pod["name"], spec, pod["namespace"])
            record.rank = document["spec"]["rank"]
            status = {"status": document["status"]}
            await client.patch(
                RANK_HISTORIES, pod["name"], status, pod["namespace"], subresource="status"
            )
        except ApiError as error:
            # The owner may be gone, or the server away: the next look tries again.
            if error.reason == "AlreadyExists":
                record.written = (-1, "")
            elif error.reason == "NotFound":
                record.written = None
            return
        record.written = state


def history_document(record: Record, progress: RankProgress | None) -> Document:
    """The RankHistory of a pod."""
    pod = record.pod["metadata"]
    labels = pod.get("labels") or {}
    rank = (
        labels.get(GLOBAL_INDEX, "0")
        if COMPLETION_INDEX not in labels
        else labels[COMPLETION_INDEX]
    )
    spec = {
        "rank": -1 if is_spare(record.pod) else int(rank),
        "podName": pod["name"],
        "podUID": pod["uid"],
        "nodeName": record.pod["spec"].get("nodeName", ""),
        "jobName": labels.get(JOB_NAME, ""),
        "jobSetName": labels.get(JOBSET_NAME, ""),
    }
    status: dict[str, Any] = {
        "createdAt": parse_rfc3339(pod["creationTimestamp"]),
        "scheduledAt": _scheduled_at(record.pod),
        "startedAt": record.started_at,
        "spans": record.history.documents(),
    }
    if record.outcome:
        status |= {"endedAt": record.ended_at, "outcome": record.outcome}
    if progress is not None:
        status |= {
            "step": progress.step,
            "savedStep": progress.saved_step,
            "resumedFrom": progress.resumed_from,
            "worldSize": progress.world,
        }
    return {
        "apiVersion": RANK_HISTORIES.api_version,
        "kind": RANK_HISTORIES.kind,
        "metadata": {
            "name": pod["name"],
            "namespace": pod["namespace"],
            "labels": {
                k: labels[k] for k in (JOB_NAME, JOBSET_NAME, COMPLETION_INDEX) if k in labels
            },
            "ownerReferences": _owners(record.pod),
        },
        "spec": spec,
        "status": status,
    }


def _owners(pod: Document) -> list[Document]:
    labels = pod["metadata"].get("labels") or {}
    if JOBSET_UID in labels:
        return [
            {
                "apiVersion": "jobset.x-k8s.io/v1alpha2",
                "kind": "JobSet",
                "name": labels[JOBSET_NAME],
                "uid": labels[JOBSET_UID],
            }
        ]
    owners = pod["metadata"].get("ownerReferences") or ()
    return [
        {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
        for owner in owners
        if owner.get("controller")
    ]


def _scheduled_at(pod: Document) -> float:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "True":
            return parse_rfc3339(condition["lastTransitionTime"])
    return parse_rfc3339(pod["metadata"]["creationTimestamp"])
