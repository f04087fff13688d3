"""The DaemonSet controller: one pod on every node that fits the template.

Source: upstream ``pkg/controller/daemon``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from kubarium.api.kinds import NODES, PODS
from kubarium.api.resource import Document, Resource
from kubarium.api.selectors import label_selector, selects
from kubarium.base.errors import ApiError
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.daemonset.placement import Placement, make_pod, target_node
from kubarium.control.workloads.daemonset.rollout import (
    is_updated,
    limits_of,
    next_step,
    rolls,
)
from kubarium.control.workloads.deployment.history import same_template
from kubarium.control.workloads.pods import ORPHANS, PodControl
from kubarium.control.workloads.statefulset.identity import make_revision, template_of
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key

DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", True)
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision", True)
# Pods created or deleted in one reconcile (upstream BurstReplicas).
BURST = 250
# A pod that fails on a node is replaced after a pause that doubles with each failure.
FAILED_BACKOFF_S, FAILED_BACKOFF_MAX_S = 1.0, 900.0
_HASH = "controller.kubernetes.io/hash"


@dataclass(slots=True)
class _Backoff:
    """Of failed pods of one set on one node."""

    delay_s: float
    until: float


@dataclass(slots=True)
class _Plan:
    """What a look at all nodes found."""

    create: list[str]
    delete: list[Document]
    wait_s: float | None = None

    def wait(self, seconds: float) -> None:
        self.wait_s = seconds if self.wait_s is None else min(self.wait_s, seconds)


class DaemonSetController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "daemonset-controller")
        self._pod_control = PodControl(context, self._recorder)
        self.controller = Controller("daemonset-controller", context, self._reconcile, workers=2)
        self._sets = self.controller.watches(DAEMON_SETS)
        self._pods = self.controller.watches(PODS, self._sets_of)
        self._pods.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods.add_index(ORPHANS, podlib.orphan_namespace_index)
        self._revisions = self.controller.reads(CONTROLLER_REVISIONS)
        self._revisions.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._nodes = self.controller.reads(NODES)
        self._nodes.on_change(self._node_changed)
        self._failures: dict[tuple[str, str], _Backoff] = {}

    @of_metadata
    def _sets_of(self, pod: Document) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        reference = writes.controller_of(pod)
        if reference is not None:
            return [(namespace, reference["name"])] if reference["kind"] == "DaemonSet" else []
        labels = pod["metadata"].get("labels") or {}
        return [
            (namespace, item["metadata"]["name"])
            for item in self._sets.items(namespace)
            if labels and selects(item["spec"].get("selector"), labels)
        ]

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        """Heartbeats come often; only what placement looks at counts."""
        if _placement_of(old) == _placement_of(new):
            return
        for item in self._sets.items():
            self.controller.enqueue((item["metadata"]["namespace"], item["metadata"]["name"]))

    async def _reconcile(self, key: Key) -> float | None:
        daemon_set = self._sets.get(key[1], key[0])
        if daemon_set is None or writes.is_terminating(daemon_set):
            return None
        selector = label_selector(daemon_set["spec"].get("selector"))
        await podlib.claim(self._context, self._pods, daemon_set, selector)
        revision_hash = await self._ensure_revision(daemon_set)
        wanted = self._decide(daemon_set)
        plan = self._plan(daemon_set, wanted, revision_hash)
        error: ApiError | None = None
        try:
            await self._carry_out(daemon_set, plan, revision_hash)
        except ApiError as caught:  # the status must be told even when pods cannot be made
            error = caught
        await self._trim_revisions(daemon_set, revision_hash)
        waits_s = [plan.wait_s, await self._write_status(daemon_set, wanted, revision_hash)]
        if error is not None:
            raise error
        return min((wait for wait in waits_s if wait is not None), default=None)

    # nodes and pods

    def _decide(self, daemon_set: Document) -> dict[str, tuple[bool, bool]]:
        """(should run, may stay) by node, in order of names."""
        placement = Placement.of(daemon_set)
        nodes = sorted(self._nodes.items(), key=lambda node: str(node["metadata"]["name"]))
        return {node["metadata"]["name"]: placement.decide(node) for node in nodes}

    def _by_node(self, daemon_set: Document) -> dict[str, list[Document]]:
        found: defaultdict[str, list[Document]] = defaultdict(list)
        owned = self._pods.by_index(writes.CONTROLLER_UID, daemon_set["metadata"]["uid"])
        for pod in sorted(owned, key=lambda pod: str(pod["metadata"]["name"])):
            found[target_node(pod)].append(pod)
        return found

    def _plan(
        self, daemon_set: Document, wanted: dict[str, tuple[bool, bool]], revision_hash: str
    ) -> _Plan:
        by_node = self._by_node(daemon_set)
        plan = _Plan([], [])
        for node, (should_run, may_stay) in wanted.items():
            self._plan_node(daemon_set, node, by_node.get(node, []), should_run, may_stay, plan)
        for node, pods in by_node.items():
            if node not in wanted:  # the node has gone; what ran there is the pod collector's
                plan.delete += [p for p in pods if not p["spec"].get("nodeName") and _lives(p)]
        if not plan.create and not plan.delete and rolls(daemon_set):
            runs = {node: decision[0] for node, decision in wanted.items()}
            limits = limits_of(daemon_set, sum(runs.values()))
            min_ready_s = int(daemon_set["spec"].get("minReadySeconds", 0))
            now = self._context.clock.now()
            step = next_step(
                by_node,
                runs,
                limits,
                revision_hash,
                lambda pod: podlib.is_available(pod, min_ready_s, now),
            )
            plan.delete, plan.create = step.delete, step.create
        return plan

    def _plan_node(
        self,
        daemon_set: Document,
        node: str,
        pods: list[Document],
        should_run: bool,
        may_stay: bool,
        plan: _Plan,
    ) -> None:
        live = [pod for pod in pods if not writes.is_terminating(pod)]
        if not may_stay:
            plan.delete += live
            return
        running = [pod for pod in live if not podlib.is_terminal(pod)]
        for pod in live:
            if podlib.is_terminal(pod):
                self._end(daemon_set, node, pod, plan)
        if should_run and not pods:
            plan.create.append(node)
        strategy = limits_of(daemon_set, 1)
        if len(running) > 1 and not (rolls(daemon_set) and strategy.surge):
            running.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], _name(pod)))
            plan.delete += running[1:]

    def _end(self, daemon_set: Document, node: str, pod: Document, plan: _Plan) -> None:
        """A pod that has ended makes room for the next one; a failed one not too soon."""
        if podlib.phase(pod) == "Succeeded":
            where = f"{pod['metadata']['namespace']}/{_name(pod)} on node {node}"
            text = f"Found succeeded daemon pod {where}, will try to delete it"
            self._recorder.event(daemon_set, "Normal", "SucceededDaemonPod", text)
            plan.delete.append(pod)
            return
        now = self._context.clock.now()
        key = (daemon_set["metadata"]["uid"], node)
        backoff = self._failures.get(key)
        if backoff is not None and now < backoff.until:
            plan.wait(backoff.until - now)
            return
        longest = FAILED_BACKOFF_MAX_S
        if backoff is None or now > backoff.until + 2 * longest:
            backoff = self._failures[key] = _Backoff(FAILED_BACKOFF_S, 0.0)
        else:
            backoff.delay_s = min(backoff.delay_s * 2, longest)
        backoff.until = now + backoff.delay_s
        where = f"{pod['metadata']['namespace']}/{_name(pod)} on node {node}"
        text = f"Found failed daemon pod {where}, will try to kill it"
        self._recorder.event(daemon_set, "Warning", "FailedDaemonPod", text)
        plan.delete.append(pod)

    async def _carry_out(self, daemon_set: Document, plan: _Plan, revision_hash: str) -> None:
        for pod in plan.delete[:BURST]:
            await self._pod_control.delete(daemon_set, pod)
        nodes = plan.create[:BURST]

        async def create_one(number: int) -> None:
            pod = make_pod(daemon_set, nodes[number], revision_hash)
            await self._pod_control.create(daemon_set, pod)

        await podlib.slow_start(len(nodes), create_one)

    # revisions

    def _owned_revisions(self, daemon_set: Document) -> list[Document]:
        owned = self._revisions.by_index(writes.CONTROLLER_UID, daemon_set["metadata"]["uid"])
        return sorted(owned, key=lambda item: int(item["revision"]))

    async def _ensure_revision(self, daemon_set: Document) -> str:
        """The hash of the present template's revision, which is made if there is none."""
        owned = self._owned_revisions(daemon_set)
        newest = int(owned[-1]["revision"]) if owned else 0
        template = daemon_set["spec"]["template"]
        for item in owned:
            if same_template(template_of(item), template):
                if int(item["revision"]) < newest:
                    change = {"revision": newest + 1}
                    await writes.patch(self._context, CONTROLLER_REVISIONS, item, change)
                return str(item["metadata"]["labels"][_HASH])
        return await self._create_revision(daemon_set, newest + 1)

    async def _create_revision(self, daemon_set: Document, number: int) -> str:
        status = daemon_set.get("status") or {}
        collisions = int(status.get("collisionCount") or 0)
        document = make_revision(daemon_set, number, collisions)
        namespace = daemon_set["metadata"]["namespace"]
        try:
            await writes.create(self._context, CONTROLLER_REVISIONS, document, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = document["metadata"]["name"]
            held = await self._context.client.get(CONTROLLER_REVISIONS, name, namespace)
            if not same_template(template_of(held), daemon_set["spec"]["template"]):
                changed = {**_NO_COUNTS, **status, "collisionCount": collisions + 1}
                await writes.update_status(self._context, DAEMON_SETS, daemon_set, changed)
                raise
        return str(document["metadata"]["labels"][_HASH])

    async def _trim_revisions(self, daemon_set: Document, revision_hash: str) -> None:
        used = {revision_hash}
        for pod in self._pods.by_index(writes.CONTROLLER_UID, daemon_set["metadata"]["uid"]):
            used.add((pod["metadata"].get("labels") or {}).get("controller-revision-hash", ""))
        idle = [
            item
            for item in self._owned_revisions(daemon_set)
            if item["metadata"]["labels"].get(_HASH) not in used
        ]
        limit = int(daemon_set["spec"].get("revisionHistoryLimit", 10))
        for item in idle[: max(0, len(idle) - limit)]:
            await writes.delete(self._context, CONTROLLER_REVISIONS, item)

    # status

    async def _write_status(
        self, daemon_set: Document, wanted: dict[str, tuple[bool, bool]], revision_hash: str
    ) -> float | None:
        """Write the counts; seconds until a ready pod becomes available, if one is to."""
        now = self._context.clock.now()
        min_ready_s = int(daemon_set["spec"].get("minReadySeconds", 0))
        by_node = self._by_node(daemon_set)
        counts = dict.fromkeys(_NO_COUNTS, 0)
        updated = available = 0
        waits_s: list[float] = []
        for node, (should_run, _) in wanted.items():
            pod = _oldest(by_node.get(node, ()))
            if not should_run:
                counts["numberMisscheduled"] += pod is not None
                continue
            counts["desiredNumberScheduled"] += 1
            if pod is None:
                continue
            counts["currentNumberScheduled"] += 1
            updated += is_updated(pod, revision_hash)
            since = podlib.ready_since(pod)
            if since is not None:
                counts["numberReady"] += 1
                if podlib.is_available(pod, min_ready_s, now):
                    available += 1
                else:
                    waits_s.append(max(since + min_ready_s - now, 0.001))
        status: Document = {
            **counts,
            "observedGeneration": daemon_set["metadata"].get("generation", 0),
        }
        shown = {
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
            "numberUnavailable": counts["desiredNumberScheduled"] - available,
        }
        status |= {name: count for name, count in shown.items() if count}
        held = daemon_set.get("status") or {}
        status |= {k: held[k] for k in ("collisionCount", "conditions") if held.get(k)}
        await writes.update_status(self._context, DAEMON_SETS, daemon_set, status)
        return min(waits_s, default=None)


_NO_COUNTS = {
    "currentNumberScheduled": 0,
    "numberMisscheduled": 0,
    "desiredNumberScheduled": 0,
    "numberReady": 0,
}


def _name(pod: Document) -> str:
    return str(pod["metadata"]["name"])


def _lives(pod: Document) -> bool:
    return not writes.is_terminating(pod) and not podlib.is_terminal(pod)


def _oldest(pods: Iterable[Document]) -> Document | None:
    """The pod that counts for its node in the status: also one that is on its way out."""
    there = (p for p in pods if not (writes.is_terminating(p) and podlib.is_terminal(p)))
    return min(there, key=lambda p: (p["metadata"]["creationTimestamp"], _name(p)), default=None)


def _placement_of(node: Document | None) -> object:
    """What of a Node decides about daemons."""
    if node is None:
        return None
    return node["metadata"].get("labels"), (node.get("spec") or {}).get("taints")
