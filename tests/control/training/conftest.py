"""Stories of JobSets in words: the JobSet controller alone, the test plays the Jobs."""

from dataclasses import dataclass, field

import pytest

from kubarium.api.admission import jobset as admission
from kubarium.api.kinds import JOB_SETS, JOBS
from kubarium.api.resource import copy_document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.jobset import JobSetController

LABEL = "jobset.sigs.k8s.io/"


def entry(name, replicas=1, pods=1, **rest):
    """A replicated job. ``job`` adds to the Job's spec, ``pod`` to its pod's."""
    job, pod = rest.pop("job", {}), rest.pop("pod", {})
    container = {"name": "main", "image": "busybox"}
    return {
        "name": name,
        "replicas": replicas,
        "template": {
            "spec": {
                "parallelism": pods,
                "completions": pods,
                "template": {"spec": {"restartPolicy": "Never", "containers": [container], **pod}},
                **job,
            }
        },
        **rest,
    }


def one_and_three(**spec):
    """Replicated job a with one Job, b with three, as most of upstream's cases have it."""
    return document(entry("a"), entry("b", replicas=3), **spec)


def document(*entries, name="js", **spec):
    made = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, **spec.pop("metadata", {})},
        "spec": {"replicatedJobs": list(entries), **spec},
    }
    admission.default(made)
    return made


@dataclass(frozen=True)
class Case:
    """``story``: what to do, and what must hold then, in turn. See :class:`Play`."""

    name: str
    jobset: dict
    story: tuple[object, ...] = field(default=())


class Play:
    """Carries out the words of a story.

    Done: "complete a-0", "fail b-1 PodFailurePolicy its message", "ready b", "active b", "suspend",
    "resume", "wait 60"; a Job's name without its index means all its Jobs, * all Jobs.
    Held: a mapping; ``jobs``, ``suspended``, ``restarts``, ``counted``, ``attempts``, ``own`` (job
    restarts), ``own_counted``, ``conditions``, ``rows`` (ready, succeeded, failed, active,
    suspended), ``event``, ``state``.
    """

    def __init__(self, world, name="js"):
        self.world, self.name = world, name

    async def go_through(self, story):
        """Each step: words to act on, what must hold, or what to call."""
        for step in story:
            if isinstance(step, str):
                await self.act(step)
            elif isinstance(step, dict):
                await self.check(step)
            else:
                await step(self)

    async def act(self, text):
        verb, _, rest = text.partition(" ")
        if verb == "wait":
            await self.world.settle(float(rest))
        elif verb in ("suspend", "resume"):
            await self.patch({"spec": {"suspend": verb == "suspend"}})
        else:
            target, _, rest = rest.partition(" ")
            reason, _, message = rest.partition(" ")
            for name in await self.named(target):
                await self.set_job(name, verb, reason, message)
        await self.world.settle(3)

    async def patch(self, change):
        await self.world.client.patch(JOB_SETS, self.name, change, "default")

    async def named(self, target):
        names = await self.world.names(JOBS)
        wanted = f"{self.name}-{target}"
        found = [
            name
            for name in names
            if target == "*" or name == wanted or name.rpartition("-")[0] == wanted
        ]
        assert found, f"no Job {target} among {names}"
        return found

    async def set_job(self, name, verb, reason, message):
        job = await self.world.get(JOBS, name)
        now = rfc3339(self.world.clock.now())
        pods = job["spec"]["parallelism"]
        status = {"startTime": job.get("status", {}).get("startTime", now)}
        if verb in ("ready", "active"):
            status |= {"active": pods, "ready": pods if verb == "ready" else 0}
        elif verb == "complete":
            status |= {"succeeded": pods, "completionTime": now}
            status["conditions"] = [
                condition("SuccessCriteriaMet", "CompletionsReached", "", now),
                condition("Complete", "CompletionsReached", "", now),
            ]
        else:
            assert verb == "fail", verb
            reason = reason or "BackoffLimitExceeded"
            status["conditions"] = [
                condition("FailureTarget", reason, message, now),
                condition("Failed", reason, message, now),
            ]
        if job["spec"]["completionMode"] == "Indexed" and verb == "complete":
            status["completedIndexes"] = "0" if pods == 1 else f"0-{pods - 1}"
        changed = {**job, "status": status}
        await self.world.client.update(JOBS, changed, "default", subresource="status")

    async def check(self, expected):
        jobset = await self.world.get(JOB_SETS, self.name)
        seen = {key: await getattr(self, f"_{key}")(jobset) for key in expected}
        assert seen == expected

    async def _jobs(self, _):
        return " ".join(name.removeprefix(f"{self.name}-") for name in await self._names())

    async def _names(self, keep=lambda job: True):
        return [job["metadata"]["name"] for job in await self.world.find(JOBS) if keep(job)]

    async def _suspended(self, _):
        names = await self._names(lambda job: job["spec"].get("suspend"))
        return " ".join(name.removeprefix(f"{self.name}-") for name in names)

    async def _restarts(self, jobset):
        return jobset["status"].get("restarts", 0)

    async def _counted(self, jobset):
        return jobset["status"].get("restartsCountTowardsMax", 0)

    async def _attempts(self, _):
        """By Job: attempt of the JobSet and of the Job."""
        labels = [job["metadata"]["labels"] for job in await self.world.find(JOBS)]
        return " ".join(
            f"{item[LABEL + 'restart-attempt']}.{item[LABEL + 'job-restart-attempt']}"
            for item in labels
        )

    async def _own(self, jobset):
        return self._counters(jobset, "jobRestarts")

    async def _own_counted(self, jobset):
        return self._counters(jobset, "jobRestartsCountTowardsMax")

    def _counters(self, jobset, field):
        rows = jobset["status"]["replicatedJobsStatus"]
        return {row["name"]: row[field] for row in rows if row.get(field)}

    async def _conditions(self, jobset):
        return {
            item["type"]: f"{item['status']} {item['reason']}"
            for item in jobset["status"].get("conditions", ())
        }

    async def _rows(self, jobset):
        fields = ("ready", "succeeded", "failed", "active", "suspended")
        return {
            row["name"]: " ".join(str(row[field]) for field in fields)
            for row in jobset["status"]["replicatedJobsStatus"]
        }

    async def _event(self, _):
        return " ".join(sorted({event["reason"] for event in await self.world.events()}))

    async def _state(self, jobset):
        return jobset["status"].get("terminalState", "")


def condition(type_, reason, message, now):
    return {
        "type": type_,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }


async def only_jobsets(world):
    await world.install("jobset.x-k8s.io")
    served = ServedResources(world.context)
    await world.start(JobSetController(world.context), GarbageCollector(world.context, served))


@pytest.fixture
def tell(world_run):
    """Runs a :class:`Case`."""

    def run(case):
        async def story(world):
            await only_jobsets(world)
            made = await world.create(JOB_SETS, copy_document(case.jobset))
            play = Play(world, made["metadata"]["name"])
            await world.settle(3)
            await play.go_through(case.story)

        world_run(story)

    return run


@pytest.fixture
def refused(world_run):
    """The server's complaints about a JobSet, or about a change of one that was accepted."""

    def run(made, change=None):
        async def story(world):
            await world.install("jobset.x-k8s.io")
            await world.start()
            try:
                held = await world.create(JOB_SETS, copy_document(made))
                if change is not None:
                    changed = copy_document(held)
                    change(changed)
                    await world.client.update(JOB_SETS, changed, "default")
            except ApiError as error:
                return error.message
            return ""

        return world_run(story)

    return run
