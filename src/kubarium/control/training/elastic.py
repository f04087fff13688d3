"""Elastic gangs: ranks that are lost, spares that take them, and attempts smaller or larger.

The Job's controller makes the pods; this one gives them ranks (annotation ``kubarium.dev/world``),
attempt by attempt, as :mod:`kubarium.engine.training.gang` decides. The record of the present
attempt is kept on the Job and written before the pods hear of it, so that whatever crashes in
between, the next reconcile carries on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.kinds import JOBS, NODES, PODS
from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.control.training.ranks import Warnings
from kubarium.control.training.status import finished_type
from kubarium.engine.training import gang
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view import elastic
from kubarium.view.elastic import ElasticPolicy, Report
from kubarium.view.memory import awaits_memory, container_named, learned, memory_limit

TRACKING = "batch.kubernetes.io/job-tracking"
_PODS_OF_JOB, _PODS_OF_NODE = "elastic-by-job", "elastic-by-node"
# Attempts that a gang's record remembers.
HISTORY = 20
# Ranks that do not tell their step are believed to train after so long.
SILENT_S = 3.0


@dataclass(slots=True)
class Memory:
    """What is known of a Job's gang beside its documents; only durations and wording hang on it.

    Since when its attempt is broken, and how pods (by uid) were lost.
    """

    broken_since: float | None = None
    lost: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Gang:
    """One Job's pods as they are now."""

    job: Document
    policy: ElasticPolicy
    memory: Memory
    live: list[Document] = field(default_factory=list)
    spares: list[Document] = field(default_factory=list)
    leaving: list[Document] = field(default_factory=list)

    @property
    def completions(self) -> int:
        return int(self.job["spec"].get("completions") or 0)

    @property
    def sizes(self) -> gang.Sizes:
        most = self.policy.max_ranks
        wanted = self.completions if most is None else min(self.completions, most)
        least = wanted if self.policy.min_ranks is None else min(self.policy.min_ranks, wanted)
        return gang.Sizes(wanted, least, self.policy.wait_s, self.policy.max_restarts)

    @property
    def missing(self) -> list[int]:
        """Indexes that no live pod has."""
        held = {elastic.index_of(pod) for pod in self.live}
        return [index for index in range(self.completions) if index not in held]

    @property
    def by_uid(self) -> dict[str, Document]:
        """The live pods."""
        return {pod["metadata"]["uid"]: pod for pod in self.live}


class ElasticController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "elastic-controller")
        self.controller = Controller("elastic-controller", context, self._reconcile, workers=4)
        self._jobs = self.controller.watches(JOBS, _asking)
        self._pods = self.controller.watches(PODS, _job_of)
        self._pods.add_index(_PODS_OF_JOB, _job_index)
        self._pods.add_index(_PODS_OF_NODE, _node_of)
        self._nodes = self.controller.watches(NODES, self._jobs_on)
        self._warnings = Warnings(self._recorder, self._jobs)
        self._memories: dict[str, Memory] = {}
        self._jobs.on_change(self._job_changed)

    def _job_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is None:
            self._memories.pop(old["metadata"]["uid"], None)

    def _jobs_on(self, node: Document) -> Iterable[Key]:
        """Gangs with a pod on a node that is not well."""
        if _is_lost(node):
            for pod in self._pods.by_index(_PODS_OF_NODE, node["metadata"]["name"]):
                yield from _job_of(pod)

    async def _reconcile(self, key: Key) -> float | None:
        job = self._jobs.get(key[1], key[0])
        if job is None:
            return None
        if writes.is_terminating(job) or finished_type(job):
            self._memories.pop(job["metadata"]["uid"], None)
            return None
        policy = elastic.policy_of(job)
        if policy is None:
            self._warn(job)
            return None
        world = self._look(key, job, policy)
        record = elastic.record_of(job)
        if any(elastic.ending_of(job)):
            return None
        if record.get("done"):
            await self._finish(world, record)
            return None
        if await self._give_up_sick(world):
            return None
        if await self._promote(world, record):
            return None  # the pods' change brings us back
        return await self._advance(world, record)

    def _warn(self, job: Document) -> None:
        """A template that got past admission (it was changed in place, or came without)."""
        found = elastic.problem_of(job["spec"])
        if found is None:
            return
        path, value, why = found
        self._warnings.tell(job, "InvalidElasticPolicy", f"spec.{path}: {value!r} {why}")

    def _look(self, key: Key, job: Document, policy: ElasticPolicy) -> Gang:
        uid = job["metadata"]["uid"]
        found = Gang(job, policy, self._memories.setdefault(uid, Memory()))
        for pod in self._pods.by_index(_PODS_OF_JOB, "/".join(key)):
            owner = writes.controller_of(pod)
            if owner is None or owner["uid"] != uid:
                continue
            phase = (pod.get("status") or {}).get("phase")
            index = elastic.index_of(pod)
            if phase in ("Succeeded", "Failed") or writes.is_terminating(pod):
                if index >= 0:
                    text = f"pod {pod['metadata']['name']} {_why(pod)}"
                    found.memory.lost.setdefault(pod["metadata"]["uid"], text)
                if phase not in ("Succeeded", "Failed"):
                    found.leaving.append(pod)
                continue
            (found.spares if elastic.is_spare(pod) else found.live).append(pod)
        found.live.sort(key=lambda pod: (elastic.index_of(pod), str(pod["metadata"]["name"])))
        found.spares.sort(key=_readiness)
        return found

    # Ranks that are lost without having ended

    async def _give_up_sick(self, world: Gang) -> bool:
        """Delete pods that cannot go on, at once: their node is lost, or a device is unhealthy."""
        given_up = False
        # Where no node is well there is nothing to gain elsewhere, and perhaps only we cannot see.
        hopeful = any(not _is_lost(node) for node in self._nodes.items())
        for pod in [*world.live, *world.spares]:
            node = self._nodes.get(pod["spec"].get("nodeName", "")) if hopeful else None
            why = _sickness(pod, node)
            if not why:
                continue
            index = elastic.index_of(pod)
            who = f"rank {index}" if index >= 0 else "a spare"
            text = f"{who} (pod {pod['metadata']['name']}) is given up: {why}"
            self._recorder.event(world.job, "Warning", "RankLost", text)
            if index >= 0:
                about = f"pod {pod['metadata']['name']}: {why}"
                world.memory.lost[pod["metadata"]["uid"]] = about
            await writes.delete(self._context, PODS, pod, grace_period_s=0)
            given_up = True
        return given_up

    async def _promote(self, world: Gang, record: dict[str, Any]) -> bool:
        """Give spares the indexes that are missing."""
        if not record or world.job["spec"].get("suspend"):
            return False
        await self._replace_fallen(world)
        pairs = list(zip(world.missing, world.spares, strict=False))
        for index, spare in pairs:
            hostname = f"{world.job['metadata']['name']}-{index}"
            held = spare["metadata"].get("finalizers") or []
            change = {
                "uid": spare["metadata"]["uid"],
                "resourceVersion": spare["metadata"]["resourceVersion"],
                "labels": {COMPLETION_INDEX: str(index), elastic.SPARE: None},
                "annotations": {COMPLETION_INDEX: str(index), elastic.HOSTNAME: hostname},
                "finalizers": list(dict.fromkeys([*held, TRACKING])),
            }
            await writes.patch(self._context, PODS, spare, {"metadata": change})
        return bool(pairs)

    async def _replace_fallen(self, world: Gang) -> None:
        """A rank whose container has ended and waits to be started again: with a spare that is up,
        its pod is given up."""
        ready = sum(1 for pod in world.spares if elastic.report_of(pod) is not None)
        kept = []
        for pod in world.live:
            if ready and _has_fallen(pod):
                ready -= 1
                text = f"pod {pod['metadata']['name']} {_why(pod)}"
                world.memory.lost[pod["metadata"]["uid"]] = text
                await writes.delete(self._context, PODS, pod, grace_period_s=0)
            else:
                kept.append(pod)
        world.live = kept

    # Attempts

    async def _advance(self, world: Gang, record: dict[str, Any]) -> float | None:
        now, memory = self._context.clock.now(), world.memory
        members = list(_members(world.live))
        if world.job["spec"].get("suspend") or not members:
            memory.broken_since = None
            return None
        if memory.broken_since is None:
            memory.broken_since = now
        up = {member.uid for member in members}
        absent = [pod for pod in world.live if pod["metadata"]["uid"] not in up]
        scene = gang.Scene(
            members,
            frozenset(p["metadata"]["uid"] for p in world.leaving if _may_save(p)),
            sum(1 for pod in absent if pod["spec"].get("nodeName")),
            bool(absent) and all(_is_unschedulable(pod) for pod in absent),
            now - memory.broken_since,
            any(awaits_memory(pod) for pod in world.live) or self._lacks_memory(world),
        )
        attempt = _attempt(record)
        decision = gang.decide(attempt, scene, world.sizes)
        if decision.what == gang.WAIT and not decision.is_broken:
            memory.broken_since = None
            await self._hand_out(world, record)
            return await self._tell(world, record)
        if decision.what == gang.WAIT:
            return decision.look_in_s
        memory.broken_since = None
        if decision.what == gang.DONE:
            record = {**record, "done": True}
            world.job = await self._keep(world.job, record)
            await self._hand_out(world, record)
            return None
        if decision.what == gang.GIVE_UP:
            await self._abandon(world, record, decision)
            return None
        record = self._next(world, record, decision, now)
        world.job = await self._keep(world.job, record)
        await self._hand_out(world, record)
        return SILENT_S

    def _lacks_memory(self, world: Gang) -> bool:
        """Whether a spare that has taken a rank is yet to be given what that rank needs."""
        sizes = learned(world.job)
        return any(
            elastic.HOSTNAME in (pod["metadata"].get("annotations") or {})
            and size > (memory_limit(container_named(pod, name)[1]) or size)
            for pod in world.live
            for name, size in sizes.get(str(elastic.index_of(pod)), {}).items()
        )

    def _next(
        self, world: Gang, record: dict[str, Any], decision: gang.Decision, now: float
    ) -> dict[str, Any]:
        """The record of the attempt that begins, with what is to be told once it trains."""
        before = record.get("ranks") or []
        by_uid = world.by_uid
        chosen = [by_uid[uid] for uid in decision.ranks]
        known, world.memory.lost = world.memory.lost, {}
        gone = [before[rank] for rank in decision.lost]
        lost = {int(e["index"]): known.get(e["uid"], f"pod {e['pod']}") for e in gone}
        names = {pod["metadata"]["name"]: rank for rank, pod in enumerate(chosen)}
        # Those of an attempt that was over before it trained are still to be told.
        spares = [
            {**entry, "rank": names[entry["pod"]]}
            for entry in (record.get("spares") or () if record.get("untold") else ())
            if entry["pod"] in names
        ]
        for rank, pod in enumerate(chosen):
            is_new = pod["metadata"]["uid"] not in {entry["uid"] for entry in before}
            if before and is_new and elastic.HOSTNAME in (pod["metadata"].get("annotations") or {}):
                index = elastic.index_of(pod)
                name = pod["metadata"]["name"]
                spares.append({"pod": name, "rank": rank, "for": lost.get(index, "a lost pod")})
        ranks = [
            {
                "uid": pod["metadata"]["uid"],
                "pod": pod["metadata"]["name"],
                "index": elastic.index_of(pod),
                "starts": _starts(pod),
            }
            for pod in chosen
        ]
        failed = [(before[rank], by_uid.get(before[rank]["uid"])) for rank in decision.failed]
        number = int(record.get("attempt", 0)) + 1
        why = _reason(len(before), len(chosen), decision, failed, lost)
        past = [*(record.get("history") or []), _line(record)] if record else []
        return {
            "attempt": number,
            "ranks": ranks,
            "failures": decision.failures,
            "saved": decision.saved,
            "gentle": decision.gentle,
            "at": round(now, 3),
            "why": why,
            "spares": spares,
            "untold": True,
            "history": past[-HISTORY:],
        }

    async def _keep(self, job: Document, record: dict[str, Any]) -> Document:
        return await self._annotate(job, {elastic.GANG: elastic.as_text(record)})

    async def _hand_out(self, world: Gang, record: dict[str, Any]) -> None:
        """Every pod of the attempt is told its rank."""
        by_uid = world.by_uid
        ranks = record.get("ranks") or []
        if not ranks:
            return
        first = by_uid.get(ranks[0]["uid"])
        if first is None:
            return  # rank 0 is lost: the next reconcile finds so
        wanted: dict[str, Any] = {
            "attempt": record["attempt"],
            "world": len(ranks),
            "master": (first.get("status") or {}).get("podIP", ""),
        }
        if record.get("gentle"):
            wanted["gentle"] = True
        if record.get("done"):
            wanted["done"] = True
        for rank, entry in enumerate(ranks):
            pod = by_uid.get(entry["uid"])
            if pod is None:
                continue
            mine = {**wanted, "rank": rank}
            name = (pod["metadata"].get("annotations") or {}).get(elastic.HOSTNAME)
            if name:
                mine["hostname"] = name
            if elastic.world_of(pod) != mine:
                change = {
                    "uid": pod["metadata"]["uid"],
                    "annotations": {elastic.WORLD: elastic.as_text(mine)},
                }
                await writes.patch(self._context, PODS, pod, {"metadata": change})

    async def _tell(self, world: Gang, record: dict[str, Any]) -> float | None:
        """Once the attempt trains: from which step, how many ranks, and which spares among them."""
        if not record.get("untold"):
            return None
        by_uid = world.by_uid
        reports = [
            elastic.report_of(by_uid[e["uid"]]) for e in record["ranks"] if e["uid"] in by_uid
        ]
        number = record["attempt"]
        running = [r for r in reports if r is not None and r.attempt == number]
        if len(running) < len(record["ranks"]):
            return None
        steps = [r.step for r in running if r.step >= 0]
        left_s: float = record["at"] + SILENT_S - self._context.clock.now()
        if not steps and left_s > 0:
            return left_s
        size = len(record["ranks"])
        where = f"from step {max(steps)}" if steps else "from their last checkpoint"
        if number > 1:
            for spare in record.get("spares") or ():
                text = (
                    f"spare {spare['pod']} has taken rank {spare['rank']} of {spare['for']}; "
                    f"{size} ranks go on {where}"
                )
                self._recorder.event(world.job, "Normal", "SparePromoted", text)
            text = f"attempt {number}: {record['why']}; {size} ranks go on {where}"
            self._recorder.event(world.job, "Normal", _event(record), text)
        step = max(steps, default=-1)
        await self._keep(world.job, {**record, "untold": False, "step": step})
        return None

    # The end

    async def _finish(self, world: Gang, record: dict[str, Any]) -> None:
        """All ranks have succeeded: let them go, and the Job end with as many as there are."""
        await self._hand_out(world, record)
        uids = {entry["uid"] for entry in record["ranks"]}
        if uids & world.by_uid.keys():
            return
        if len(uids) < world.completions:
            await self._annotate(world.job, {elastic.COMPLETED: str(len(uids))})

    async def _abandon(self, world: Gang, record: dict[str, Any], found: gang.Decision) -> None:
        by_uid = world.by_uid
        before = record.get("ranks") or []
        failed = [(before[rank], by_uid.get(before[rank]["uid"])) for rank in found.failed]
        why = _reason(len(before), len(before), found, failed, {})
        text = f"{why}; that was failure {found.failures} in a row without a new checkpoint, "
        text += f"{elastic.MAX_RESTARTS} allows {world.sizes.restarts}"
        self._recorder.event(world.job, "Warning", "GangGivenUp", text)
        await self._annotate(world.job, {elastic.GIVEN_UP: text})

    async def _annotate(self, job: Document, annotations: dict[str, str]) -> Document:
        change = {"uid": job["metadata"]["uid"], "annotations": annotations}
        return await writes.patch(self._context, JOBS, job, {"metadata": change})


# What documents say ------------------------------------------------------------------------------


def _asking(job: Document) -> Iterator[Key]:
    if elastic.asks(elastic.template_annotations(job)):
        yield job["metadata"]["namespace"], job["metadata"]["name"]


@of_metadata
def _job_of(pod: Document) -> tuple[Key, ...]:
    if not elastic.asks(pod["metadata"].get("annotations")):
        return ()
    owner = writes.controller_of(pod)
    if owner is None or owner["kind"] != "Job":
        return ()
    return ((pod["metadata"]["namespace"], owner["name"]),)


@of_metadata
def _job_index(pod: Document) -> tuple[str, ...]:
    return tuple("/".join(key) for key in _job_of(pod))


def _node_of(pod: Document) -> Iterable[str]:
    node = pod["spec"].get("nodeName")
    return (node,) if node and elastic.asks(pod["metadata"].get("annotations")) else ()


def _is_lost(node: Document) -> bool:
    """The node does not answer, or says that it is not ready."""
    ready = writes.find_condition(node.get("status") or {}, "Ready")
    return ready is not None and ready.get("status") != "True"


def _sickness(pod: Document, node: Document | None) -> str:
    """Why a pod cannot go on although it has not ended; "" if it can."""
    if node is not None and _is_lost(node):
        ready = writes.find_condition(node.get("status") or {}, "Ready") or {}
        return f"node {node['metadata']['name']} is not ready ({ready.get('reason', '')})"
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        for resource in status.get("allocatedResourcesStatus") or ():
            for device in resource.get("resources") or ():
                if device.get("health") == "Unhealthy":
                    return f"device {device.get('resourceID', '')} is unhealthy"
    return ""


def _first_status(pod: Document) -> Document:
    name = pod["spec"]["containers"][0]["name"]
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((s for s in statuses if s.get("name") == name), {})


def _starts(pod: Document) -> int:
    return int(_first_status(pod).get("restartCount") or 0)


def _has_fallen(pod: Document) -> bool:
    """Its first container has ended, and waits to be started again."""
    status = _first_status(pod)
    state = status.get("state") or {}
    return "terminated" in state or ("waiting" in state and bool(status.get("restartCount")))


def _is_unschedulable(pod: Document) -> bool:
    found = writes.find_condition(pod.get("status") or {}, "PodScheduled")
    return found is not None and (found.get("status"), found.get("reason")) == (
        "False",
        "Unschedulable",
    )


def _may_save(pod: Document) -> bool:
    return int(pod["metadata"].get("deletionGracePeriodSeconds") or 0) > 0


def _why(pod: Document) -> str:
    """How a rank's pod was lost, in words."""
    status, metadata = pod.get("status") or {}, pod["metadata"]
    target = writes.find_condition(status, "DisruptionTarget")
    if target is not None and target.get("status") == "True":
        return f"(disrupted: {target.get('reason', '')})"
    ended = _first_status(pod).get("state", {}).get("terminated")
    if writes.is_terminating(pod) and (ended is None or status.get("phase") != "Failed"):
        return "(deleted)"
    if ended is not None:
        said = ended.get("reason", "")
        return f"({said}, exit code {ended.get('exitCode', 0)})"
    return f"({status.get('reason') or status.get('phase') or metadata['name']})"


def _readiness(pod: Document) -> tuple[int, str]:
    """Spares that wait at the rendezvous first, then those with a node."""
    up = elastic.report_of(pod) is not None
    return (0 if up else 1 if pod["spec"].get("nodeName") else 2, str(pod["metadata"]["name"]))


def _members(pods: Iterable[Document]) -> Iterator[gang.Member]:
    for pod in pods:
        report = elastic.report_of(pod)
        if report is None or _has_fallen(pod) or not (pod.get("status") or {}).get("podIP"):
            continue
        yield gang.Member(
            pod["metadata"]["uid"],
            elastic.index_of(pod),
            _starts(pod),
            report.state,
            report.attempt,
            report.code,
            report.saved,
        )


def _attempt(record: dict[str, Any]) -> gang.Attempt:
    ranks = tuple((str(e["uid"]), int(e["starts"])) for e in record.get("ranks") or ())
    return gang.Attempt(
        int(record.get("attempt", 0)),
        ranks,
        int(record.get("failures", 0)),
        int(record.get("saved", -1)),
    )


def _reason(
    before: int,
    after: int,
    decision: gang.Decision,
    failed: Sequence[tuple[dict[str, Any], Document | None]],
    lost: dict[int, str],
) -> str:
    """Why an attempt is over, naming the rank that is to blame where one is."""
    if not before:
        return "all ranks are there" if not decision.lost else "begun"
    if decision.lost:
        named = [f"rank {index} ({what})" for index, what in sorted(lost.items())]
        which = ", ".join(named) or f"rank {', '.join(map(str, decision.lost))}"
        return f"{which} lost" + (f", {before} ranks become {after}" if after != before else "")
    if failed:
        reports: list[tuple[dict[str, Any], Report]] = [
            (entry, report)
            for entry, pod in failed
            if pod is not None and (report := elastic.report_of(pod)) is not None
        ]
        if reports:
            # Those that lost a peer end with an ordinary error; a signal is the one that began it.
            entry, report = max(reports, key=lambda pair: pair[1].code)
            return f"rank {entry['index']} (pod {entry['pod']}) ended with exit code {report.code}"
        return "ranks failed"
    if after > before:
        return f"room for more: {before} ranks become {after}"
    return "all ranks stopped at a common step"


def _line(record: dict[str, Any]) -> dict[str, Any]:
    """What is remembered of an attempt that is over."""
    return {
        "attempt": record["attempt"],
        "ranks": len(record["ranks"]),
        "at": record["at"],
        "step": record.get("step", -1),
        "why": record["why"],
        "spares": [entry["pod"] for entry in record.get("spares") or ()],
    }


def _event(record: dict[str, Any]) -> str:
    past = record.get("history") or []
    before, now = (past[-1]["ranks"] if past else 0), len(record["ranks"])
    if now < before:
        return "GangShrunk"
    return "GangGrown" if now > before else "GangRestarted"
