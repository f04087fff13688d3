"""The CronJob controller. Source: upstream ``pkg/controller/cronjob/cronjob_controllerv2.go``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kubarium.api.kinds import CRON_JOBS, JOBS
from kubarium.api.resource import Document, copy_document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.workloads.cronjob.schedule import Schedule, ScheduleError, parse
from kubarium.control.workloads.pods import is_namespace_terminating
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
# More missed times than this are reported (a clock that jumped, a long pause).
MOST_MISSED = 100


class CronJobController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "cronjob-controller")
        self.controller = Controller("cronjob-controller", context, self._reconcile)
        self._cron_jobs = self.controller.watches(CRON_JOBS)
        self._jobs = self.controller.watches(JOBS, _owning_cron_job)
        self._jobs.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)

    async def _reconcile(self, key: Key) -> float | None:
        cron_job = self._cron_jobs.get(key[1], key[0])
        if cron_job is None or writes.is_terminating(cron_job):
            return None
        jobs = self._jobs.by_index(writes.CONTROLLER_UID, cron_job["metadata"]["uid"])
        status = self._observe(cron_job, jobs)
        await self._trim(cron_job, jobs)
        wait_s: float | None = None
        if not cron_job["spec"].get("suspend"):
            wait_s = await self._start_due(cron_job, status, jobs)
        await writes.update_status(self._context, CRON_JOBS, cron_job, status)
        return wait_s

    def _observe(self, cron_job: Document, jobs: list[Document]) -> Document:
        """The status with what has become of the Jobs."""
        status = dict(cron_job.get("status") or {})
        finished = {job["metadata"]["uid"]: job for job in jobs if _finished(job)}
        present = {job["metadata"]["uid"] for job in jobs}
        for reference in status.get("active") or ():
            job = finished.get(reference["uid"])
            if job is not None:
                message = f"Saw completed job: {reference['name']}, condition: {_finished(job)}"
                self._recorder.event(cron_job, "Normal", "SawCompletedJob", message)
            elif reference["uid"] not in present:
                message = f"Active job went missing: {reference['name']}"
                self._recorder.event(cron_job, "Normal", "MissingJob", message)
        active = [_reference(job) for job in jobs if not _finished(job)]
        times = [
            str(job["status"]["completionTime"])
            for job in finished.values()
            if _finished(job) == "Complete" and job["status"].get("completionTime")
        ]
        if times:
            status["lastSuccessfulTime"] = max([*times, status.get("lastSuccessfulTime", "")])
        _set(status, "active", active)
        return status

    async def _trim(self, cron_job: Document, jobs: list[Document]) -> None:
        """Keep so many succeeded and failed Jobs."""
        for type_, field, default in (
            ("Complete", "successfulJobsHistoryLimit", 3),
            ("Failed", "failedJobsHistoryLimit", 1),
        ):
            ended = [
                job for job in jobs if _finished(job) == type_ and not writes.is_terminating(job)
            ]
            ended.sort(key=lambda job: str((job.get("status") or {}).get("startTime", "")))
            limit = int(cron_job["spec"].get(field, default))
            for job in ended[: max(0, len(ended) - limit)]:
                await self._delete(cron_job, job)

    async def _delete(self, cron_job: Document, job: Document) -> None:
        await writes.delete(self._context, JOBS, job, propagation_policy="Background")
        message = f"Deleted job {job['metadata']['name']}"
        self._recorder.event(cron_job, "Normal", "SuccessfulDelete", message)

    async def _start_due(
        self, cron_job: Document, status: Document, jobs: list[Document]
    ) -> float | None:
        """Start the Job that is due, if one is; seconds until the next time."""
        try:
            schedule = parse(cron_job["spec"]["schedule"])
            zone = _zone(cron_job)
        except ScheduleError as error:
            message = f"unparseable schedule: {cron_job['spec']['schedule']!r} : {error}"
            self._recorder.event(cron_job, "Warning", "UnparseableSchedule", message)
            return None
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"invalid timeZone: {cron_job['spec'].get('timeZone')!r} : {error}"
            self._recorder.event(cron_job, "Warning", "UnknownTimeZone", message)
            return None
        now = self._context.clock.now()
        due = self._due(cron_job, status, schedule, zone, now)
        if due is not None and self._may_start(cron_job, due, now, status):
            await self._start(cron_job, status, jobs, due)
        following = schedule.next_after(now, zone)
        return None if following is None else following - now

    def _due(
        self, cron_job: Document, status: Document, schedule: Schedule, zone: tzinfo, now: float
    ) -> float | None:
        """The latest scheduled time that has come and was not served."""
        since = parse_rfc3339(
            status.get("lastScheduleTime") or cron_job["metadata"]["creationTimestamp"]
        )
        limit_s = cron_job["spec"].get("startingDeadlineSeconds")
        if limit_s is not None:
            since = max(since, now - float(limit_s))
        due: float | None = None
        missed = 0
        moment = schedule.next_after(since, zone)
        while moment is not None and moment <= now:
            due = moment
            missed += 1
            if missed == MOST_MISSED:
                self._tell_missed(cron_job)
                moment = _near_the_end(schedule, zone, moment, now, (moment - since) / missed)
            moment = schedule.next_after(moment, zone)
        return due

    def _tell_missed(self, cron_job: Document) -> None:
        message = (
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check "
            "clock skew"
        )
        self._recorder.event(cron_job, "Warning", "TooManyMissedTimes", message)

    def _may_start(self, cron_job: Document, due: float, now: float, status: Document) -> bool:
        limit_s = cron_job["spec"].get("startingDeadlineSeconds")
        if limit_s is not None and due + float(limit_s) < now:
            message = f"Missed scheduled time to start a job: {rfc3339(due)}"
            self._recorder.event(cron_job, "Warning", "MissSchedule", message)
            return False
        if cron_job["spec"].get("concurrencyPolicy") == "Forbid" and status.get("active"):
            message = (
                "Not starting job because prior execution is running and concurrency policy is "
                "Forbid"
            )
            self._recorder.event(cron_job, "Normal", "JobAlreadyActive", message)
            return False
        return True

    async def _start(
        self, cron_job: Document, status: Document, jobs: list[Document], due: float
    ) -> None:
        if cron_job["spec"].get("concurrencyPolicy") == "Replace":
            for job in jobs:
                if not _finished(job) and not writes.is_terminating(job):
                    await self._delete(cron_job, job)
            status.pop("active", None)
        document = make_job(cron_job, due)
        try:
            job = await writes.create(
                self._context, JOBS, document, cron_job["metadata"]["namespace"]
            )
        except ApiError as error:
            if error.reason != "AlreadyExists":
                if not is_namespace_terminating(error):
                    message = f"Error creating job: {error}"
                    self._recorder.event(cron_job, "Warning", "FailedCreate", message)
                raise
        else:
            message = f"Created job {job['metadata']['name']}"
            self._recorder.event(cron_job, "Normal", "SuccessfulCreate", message)
            _set(status, "active", [*(status.get("active") or ()), _reference(job)])
        status["lastScheduleTime"] = rfc3339(due)


def _near_the_end(
    schedule: Schedule, zone: tzinfo, moment: float, now: float, interval_s: float
) -> float:
    """A moment shortly before the latest time up to ``now``: all earlier ones are lost anyway."""
    span_s = 2 * interval_s
    while now - span_s > moment:
        following = schedule.next_after(now - span_s, zone)
        if following is not None and following <= now:
            return now - span_s
        span_s *= 2
    return moment


def make_job(cron_job: Document, due: float) -> Document:
    """The Job of one scheduled time; its name follows from the minute, so it is made only once."""
    template = copy_document(cron_job["spec"]["jobTemplate"])
    metadata = template.get("metadata") or {}
    zone = cron_job["spec"].get("timeZone")
    stamp = _local(due, ZoneInfo(zone)) if zone else rfc3339(due)
    annotations = {**(metadata.get("annotations") or {}), SCHEDULED_AT: stamp}
    document: Document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{cron_job['metadata']['name']}-{int(due) // 60}",
            "namespace": cron_job["metadata"]["namespace"],
            "annotations": annotations,
            "ownerReferences": [writes.owner_reference(cron_job)],
        },
        "spec": template["spec"],
    }
    if metadata.get("labels"):
        document["metadata"]["labels"] = metadata["labels"]
    return document


def _local(moment: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(int(moment), zone).isoformat()


def _zone(cron_job: Document) -> tzinfo:
    name = cron_job["spec"].get("timeZone")
    return ZoneInfo(name) if name else UTC


def _finished(job: Document) -> str:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition.get("status") == "True":
            return str(condition["type"])
    return ""


def _reference(job: Document) -> Document:
    metadata = job["metadata"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


def _set(status: Document, name: str, value: list[Document]) -> None:
    if value:
        status[name] = value
    else:
        status.pop(name, None)


def _owning_cron_job(job: Document) -> Iterable[Key]:
    reference = writes.controller_of(job)
    if reference is not None and reference["kind"] == "CronJob":
        return ((job["metadata"]["namespace"], reference["name"]),)
    return ()
