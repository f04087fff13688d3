"""Why does it not run? Computed from documents alone, so for any cluster that can be listed.

``explain`` follows owners down to the pods that wait, and asks the engine about those: the same
filters, allocator and gang decision that schedule. The snapshot it asks holds what the documents
hold, not what a scheduler has in mind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from difflib import get_close_matches

from kubarium.api.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    JOB_SETS,
    JOBS,
    NODES,
    POD_GROUPS,
    PODS,
    REPLICA_SETS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_QUOTAS,
    RESOURCE_SLICES,
    TRAIN_JOBS,
    WORKLOADS,
)
from kubarium.api.resource import Document, Resource
from kubarium.engine import reasons
from kubarium.engine.model import Gang, Key
from kubarium.engine.placement.resting import laid_by
from kubarium.engine.verdict import Suggestion
from kubarium.view.accounts import claim_account, node_account
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView, key_of
from kubarium.view.elastic import gang_lines
from kubarium.view.evidence import Evidence
from kubarium.view.explanation import Explanation
from kubarium.view.forest import disagreement
from kubarium.view.hierarchy import composite_account, held_by_gates
from kubarium.view.local_models import LOCAL_MODEL_NODE_GROUPS
from kubarium.view.missing import NAMED, missing_claim, no_such
from kubarium.view.placement import commands_of
from kubarium.view.pods import gang_key, is_finished, is_gated, node_of
from kubarium.view.profiles import CONFIG_NAME, CONFIG_NAMESPACE, scheduler_name
from kubarium.view.queueing import why as queueing
from kubarium.view.readiness import unready_devices
from kubarium.view.resize_advice import with_resize
from kubarium.view.resting import rests_of
from kubarium.view.said import (
    STUCK,
    by_conditions,
    endings,
    on_its_node,
    outcome_of,
    refusal,
    title_of,
)
from kubarium.view.unplaced import Unplaced
from kubarium.view.warnings import with_warnings

# Every resource that explain may look at; a resource that the cluster does not serve may be absent.
RESOURCES_NEEDED: tuple[Resource, ...] = tuple(
    dict.fromkeys(
        (
            *SNAPSHOT_RESOURCES,
            DEPLOYMENTS,
            REPLICA_SETS,
            JOBS,
            JOB_SETS,
            TRAIN_JOBS,
            RESOURCE_CLAIM_TEMPLATES,
            RESOURCE_QUOTAS,
            EVENTS,
            LOCAL_MODEL_NODE_GROUPS,
            *queueing.RESOURCES_NEEDED,
        )
    )
)

# Without these nothing can be said; of the others it is told if they may not be read.
RESOURCES_INDISPENSABLE = (NODES, PODS)

# And single objects: (resource, namespace, name).
OBJECTS_NEEDED = ((CONFIG_MAPS, CONFIG_NAMESPACE, CONFIG_NAME),)

_OWNED_BY: dict[str, tuple[Resource, ...]] = {
    "Deployment": (REPLICA_SETS,),
    "JobSet": (JOBS,),
    "TrainJob": (JOB_SETS,),
    "ReplicaSet": (PODS,),
    "Job": (PODS,),
    "StatefulSet": (PODS,),
    "DaemonSet": (PODS,),
}


def explain(
    documents: Mapping[Resource, list[Document]],
    subject: Document,
    view: ClusterView | None = None,
    node: str = "",
    now: float = math.inf,
    withheld: Sequence[Resource] = (),
) -> Explanation:
    """Why ``subject`` is not running (or what it holds), with the smallest changes that help.

    ``documents`` has the lists of RESOURCES_NEEDED, and OBJECTS_NEEDED as far as they are there.
    Kinds: Pod, PodGroup, CompositePodGroup, Job, JobSet, TrainJob, Deployment, ReplicaSet,
    Workload, Node, ResourceClaim; of others, what their conditions say.
    ``view`` is one that already follows the same documents: with it, thousands of nodes need not be
    read again for each question. It is as before afterwards. With ``node``, the account of a pod or
    group speaks of that node alone, and of all that it fails. ``now`` is in seconds since the
    epoch; without it no device counts as one that the scheduler leaves alone for a while.
    ``withheld`` are resources that whoever asks may not list.
    """
    evidence = Evidence(documents, view, node)
    rests = rests_of(documents.get(EVENTS, ()), documents.get(RESOURCE_SLICES, ()), now)
    with laid_by(evidence.view.snapshot, rests) if rests else nullcontext():
        told = _Why(evidence).of(subject)
    if withheld:
        names = ", ".join(resource.qualified for resource in withheld)
        line = f"you may not list {names}: what they say is left out"
        told = replace(told, reasons=(*told.reasons, line))
    return with_warnings(told, documents.get(EVENTS, ()), documents)


class _Why:
    """The way from the object asked about, through what it owns, to what waits."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._unplaced = Unplaced(self._evidence)
        self._by_kind: dict[str, Callable[[Document], Explanation]] = {
            "Pod": self._pod,
            "PodGroup": self._pod_group,
            "CompositePodGroup": self._composite,
            "Workload": self._workload,
            "Node": self._node,
            "ResourceClaim": self._claim,
        }

    def of(self, subject: Document) -> Explanation:
        told, left_out = self._told(subject), self._evidence.unreadable()
        return replace(told, reasons=(*told.reasons, *left_out)) if left_out else told

    def _told(self, subject: Document) -> Explanation:
        kind = subject.get("kind", "")
        if kind in self._by_kind:
            return self._by_kind[kind](subject)
        if kind in _OWNED_BY:
            return self._owner(subject)
        return by_conditions(subject)

    # Pods

    def _pod(self, pod: Document) -> Explanation:
        title, spec = title_of(pod), pod.get("spec") or {}
        if is_finished(pod):
            phase = pod["status"]["phase"]
            return Explanation(title, "Finished", f"the pod has ended: {phase}", endings(pod))
        if "deletionTimestamp" in pod["metadata"]:
            return Explanation(title, "Terminating", "the pod is being deleted")
        if spec.get("nodeName"):
            return with_resize(on_its_node(pod), self._evidence, pod)
        if is_gated(pod):
            return self._gated(pod)
        if preparing := self._preparing(pod):
            text = "the pod has its devices and is bound once they are ready"
            return Explanation(title, "Pending", text, preparing)
        name = scheduler_name(pod)
        if name not in self._evidence.profiles.names and not refusal(pod):
            return self._of_nobody(pod, name)
        group = gang_key(pod)
        if group is not None:
            return self._in_group(pod, group)
        return self._unplaced.of_pod(pod)

    def _preparing(self, pod: Document) -> tuple[str, ...]:
        """Devices that are being made ready for the pod: its claims are reserved for it already."""
        uid, namespace = pod["metadata"].get("uid"), pod["metadata"].get("namespace")
        own = [
            claim
            for claim in self._evidence.list(RESOURCE_CLAIMS)
            if claim["metadata"].get("namespace") == namespace
            and any(
                r.get("uid") == uid for r in (claim.get("status") or {}).get("reservedFor") or ()
            )
        ]
        return tuple(
            f"claim {claim['metadata']['name']}: device {device} is not {' and not '.join(missing)}"
            for claim in own
            for device, missing in unready_devices(claim)
        )

    def _gated(self, pod: Document) -> Explanation:
        gates = [g.get("name", "") for g in pod["spec"]["schedulingGates"]]
        children = tuple(self._workload(w) for w in self._workloads_of(self._ancestors(pod)))
        text = "Scheduling is blocked due to non-empty scheduling gates"
        listed = tuple(f"scheduling gate {gate}" for gate in gates)
        told = Explanation(title_of(pod), "Gated", text, listed, children=children)
        if children or gang_key(pod) is not None:  # whose gates go once all of it may start
            return told
        if besides := self._unplaced.besides(pod, scheduler_name(pod)):
            return replace(told, reasons=(*listed, *besides))
        removal = f"remove the scheduling gate {' and '.join(gates)}: the pod fits now"
        suggestion = Suggestion("remove-gate", removal, ",".join(gates))
        return replace(
            told,
            suggestions=(suggestion,),
            commands=commands_of(self._evidence.view, (suggestion,), pod),
        )

    def _of_nobody(self, pod: Document, name: str) -> Explanation:
        """A pod that no scheduler has spoken of: whether another one could place it."""
        text = f"the pod asks for the scheduler {name}, which has not spoken of it"
        told = Explanation(title_of(pod), "Pending", text, self._schedulers(name))
        if missing_claim(pod, self._evidence.view.snapshot.claims) or gang_key(pod) is not None:
            return told
        names = self._evidence.profiles.names
        for other in dict.fromkeys((*get_close_matches(name, names, 1, 0.6), names[0])):
            besides = self._unplaced.besides(pod, other)
            if not besides:
                text = f"name the scheduler {other} instead: the pod fits now"
                suggestion = Suggestion("change-scheduler", text, other)
                return replace(told, suggestions=(suggestion,))
        return replace(told, reasons=(*told.reasons, *besides))

    def _schedulers(self, name: str) -> tuple[str, ...]:
        """Which schedulers this cluster has, if it says so."""
        if self._evidence.profiles.config.given is None:
            return ()
        return (no_such("scheduler", name, list(self._evidence.profiles.names), NAMED),)

    def _in_group(self, pod: Document, key: Key) -> Explanation:
        document = self._evidence.view.group_documents.get(key)
        if document is None:
            text = reasons.pod_group_missing(key[1])
            known = [name for where, name in self._evidence.view.group_documents if where == key[0]]
            line = no_such("PodGroup", key[1], known, NAMED)
            return Explanation(title_of(pod), "Pending", text, (line,))
        found = self._pod_group({"kind": "PodGroup", **document})
        if found.state not in ("Pending", "Gated"):
            return self._unplaced.of_pod(pod)
        gang = self._evidence.view.gang(key)
        if gang is not None and gang.scheduled_count >= gang.min_count:
            how = "runs" if gang.min_count else "has no minimum"
            text = f"the pod joins its pod group {key[1]}, which {how}, once there is room"
        else:
            text = f"the pod starts together with its pod group {key[1]}, or not at all"
        return Explanation(title_of(pod), "Pending", text, children=(found,))

    # Groups

    def _pod_group(self, group: Document) -> Explanation:
        told = self._group(group)
        if "deletionTimestamp" not in group["metadata"]:
            return told
        members = [p for p in self._evidence.list(PODS) if gang_key(p) == key_of(group)]
        left = len([p for p in members if not is_finished(p)])
        noun = "1 pod that names it has" if left == 1 else f"{left} pods that name it have"
        line = f"the group is being deleted: it goes once {noun} ended"
        return replace(told, reasons=(line, *told.reasons)) if left else told

    def _group(self, group: Document) -> Explanation:
        key, title = key_of(group), title_of(group)
        gang = self._evidence.view.gang(key)
        if gang is None:
            return Explanation(title, "Unknown", "the pod group is not among the documents given")
        members = [
            p for p in self._evidence.list(PODS) if gang_key(p) == key and not is_finished(p)
        ]
        waiting = [p for p in members if not node_of(p)]
        running = len(members) - len(waiting)
        if not waiting and running:
            text = f"all {running} pods of the group have a node"
            if gang.scheduled_count < gang.min_count:
                text = f"{text}; its minCount is {gang.min_count}, but there are no more pods"
            return Explanation(title, "Scheduled", text)
        gated = [p for p in waiting if is_gated(p)]
        waiting = [p for p in waiting if not is_gated(p)]
        if gated and (not waiting or len(waiting) + gang.scheduled_count < gang.min_count):
            child = (self._gated(gated[0]),)
            return Explanation(title, "Gated", held_by_gates(gated), children=child)
        told = self._waiting_group(title, gang, waiting)
        if not gated:
            return told
        return replace(told, reasons=(held_by_gates(gated), *told.reasons))

    def _waiting_group(self, title: str, gang: Gang, waiting: list[Document]) -> Explanation:
        """Of a group of which these pods wait, and nothing but the scheduler decides them."""
        rows = tuple(self._evidence.view.pod(p) for p in waiting)
        names = [scheduler_name(p) for p in waiting]
        if conflict := disagreement(rows, names, (gang,)):
            return Explanation(title, "Pending", conflict)
        if len(waiting) + gang.scheduled_count < gang.min_count:
            have = len(waiting) + gang.scheduled_count
            text = f"{reasons.GANG_WAITING}: {have} of {gang.min_count} exist"
            fewer = self._unplaced.fewer(replace(gang, min_count=have), rows, names)
            return Explanation(title, "Pending", text, suggestions=fewer)
        if not waiting:
            ended = bool(gang.scheduled_count)
            text = "the pods of the group have ended" if ended else "no pod of the group exists"
            return Explanation(title, "Finished" if ended else "Pending", text)
        if gang.parent is not None:
            text = f"the group starts together with composite pod group {gang.parent[1]}"
            told = self._hierarchy(gang.parent, f"compositepodgroup {'/'.join(gang.parent)}")
            return Explanation(title, "Pending", text, children=(told,))
        told = self._unplaced.of_gang(title, gang, rows, names[0])
        if gang.scheduled_count < max(gang.min_count, 1):
            return told
        return replace(told, reasons=(_beyond_minimum(gang, len(rows)), *told.reasons))

    def _composite(self, composite: Document) -> Explanation:
        return self._hierarchy(key_of(composite), title_of(composite))

    def _hierarchy(self, key: Key, title: str) -> Explanation:
        return composite_account(self._evidence, key, title)

    # Owners

    def _owner(self, owner: Document) -> Explanation:
        title = title_of(owner)
        finished = outcome_of(owner)
        if finished:
            return Explanation(title, "Finished", finished)
        if (owner.get("spec") or {}).get("suspend"):
            children = tuple(self._workload(w) for w in self._workloads_of([owner]))
            text = "suspended by its queue" if children else "suspended: spec.suspend is true"
            return Explanation(title, "Suspended", text, children=children)
        owned = list(self._owned(owner))
        accounts = [self.of(child) for child in owned]
        waiting = [a for a in accounts if a.state in ("Pending", "Gated", "Suspended", "Unknown")]
        stuck = [a for a in accounts if a not in waiting and (a.children or STUCK in a.facts)]
        counts: dict[str, int] = {}
        for account in accounts:
            counts[account.state] = counts.get(account.state, 0) + 1
        if not owned:
            said = by_conditions(owner)
            if said.state != "Unknown":
                return said
            return replace(said, state="Pending", summary="nothing has been made for it yet")
        shown = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
        state = "Pending" if waiting else "Running"
        kinds = " and ".join(dict.fromkeys(_plural(child) for child in owned))
        told = tuple(line for each in (owner, *owned) for line in gang_lines(each))
        children = _distinct([*waiting, *stuck])
        return Explanation(title, state, f"its {kinds}: {shown}", told, children=children)

    def _owned(self, owner: Document) -> Iterator[Document]:
        uid = owner["metadata"].get("uid", "")
        for resource in _OWNED_BY[owner["kind"]]:
            for document in self._evidence.list(resource):
                refs = document["metadata"].get("ownerReferences") or ()
                if any(ref.get("uid") == uid for ref in refs):
                    yield document

    def _ancestors(self, document: Document) -> list[Document]:
        """Owners and owners' owners, nearest first."""
        found: list[Document] = []
        uids = {r.get("uid") for r in document["metadata"].get("ownerReferences") or ()}
        for resource in (REPLICA_SETS, JOBS, JOB_SETS, TRAIN_JOBS, DEPLOYMENTS):
            for candidate in self._evidence.list(resource):
                if candidate["metadata"].get("uid") in uids:
                    found.append(candidate)
                    refs = candidate["metadata"].get("ownerReferences") or ()
                    uids |= {r.get("uid") for r in refs}
        return [*found, document]

    # Queues

    def _workloads_of(self, owners: Iterable[Document]) -> list[Document]:
        """Kueue Workloads that stand for one of the owners, or for an owner's owner."""
        uids = {o["metadata"].get("uid") for o in owners}
        for owner in owners:
            uids |= {r.get("uid") for r in owner["metadata"].get("ownerReferences") or ()}
        return [
            workload
            for workload in self._evidence.list(WORKLOADS)
            if any(r.get("uid") in uids for r in workload["metadata"].get("ownerReferences") or ())
        ]

    def _workload(self, workload: Document) -> Explanation:
        if workload.get("apiVersion", "").startswith("scheduling.k8s.io"):
            return self._gang_workload(workload)
        if not workload.get("apiVersion", "").startswith("kueue.x-k8s.io"):
            return by_conditions(workload)
        told = queueing.explain(self._evidence.documents, workload)
        # The first line repeats message and state; the list of changes is shown as suggestions.
        between = [line for line in told.lines()[1:] if not line.startswith(("- ", "Any one"))]
        return Explanation(
            title_of(workload),
            told.state,
            told.message or told.reason,
            tuple(between),
            tuple(
                Suggestion(change.kind, change.text, ", ".join(change.workloads))
                for change in told.changes
            ),
            {"position": told.position, "waiting": told.waiting, "path": told.path},
        )

    def _gang_workload(self, workload: Document) -> Explanation:
        """A scheduling.k8s.io Workload: its pod groups, those of a composite through that."""
        name = workload["metadata"]["name"]
        groups = [
            self._pod_group(g)
            for g in self._evidence.list(POD_GROUPS)
            if ((g.get("spec") or {}).get("workloadRef") or {}).get("workloadName") == name
            and g["metadata"].get("namespace") == workload["metadata"].get("namespace")
        ]
        waiting = [g for g in groups if g.state == "Pending"]
        state = "Pending" if waiting or not groups else "Scheduled"
        text = f"{len(groups)} pod groups, {len(waiting)} waiting"
        return Explanation(title_of(workload), state, text, children=_distinct(waiting))

    # What is held

    def _node(self, node: Document) -> Explanation:
        return node_account(self._evidence.view, node)

    def _claim(self, claim: Document) -> Explanation:
        title = title_of(claim)
        if (claim.get("status") or {}).get("allocation"):
            return claim_account(claim, title, self._evidence.view.snapshot.inventory)
        users = [
            p
            for p in self._evidence.list(PODS)
            if key_of(claim) in self._evidence.view.pod(p).claims
        ]
        waiting = [p for p in users if not is_finished(p)]
        if not waiting:
            return self._unplaced.of_claim(claim, title)
        pod = self._pod(waiting[0])
        text = f"not allocated: its {pod.subject} is {pod.state}"
        return Explanation(title, "Pending", text, children=(pod,))


def _beyond_minimum(gang: Gang, waiting: int) -> str:
    """What a group that has started, or has no minimum, still waits for."""
    noun = "pod has" if gang.scheduled_count == 1 else "pods have"
    least = f", its minCount is {gang.min_count}" if gang.min_count else ""
    more = "1 more waits" if waiting == 1 else f"{waiting} more wait"
    return f"{gang.scheduled_count} {noun} a node{least}; {more}"


def _plural(document: Document) -> str:
    return f"{document.get('kind', 'object').lower()}s"


def _distinct(accounts: Iterable[Explanation]) -> tuple[Explanation, ...]:
    """One account for each different story, with the number of others that tell the same."""
    first: dict[object, Explanation] = {}
    count: dict[object, int] = {}
    for account in accounts:
        owns = account.state in ("Pending", "Running") and account.children
        told = account.children[0] if owns else account
        # What is said of a stuck container names its pod.
        story = told.facts.get(STUCK) or (told.state, told.summary, told.reasons)
        first.setdefault(story, told)
        count[story] = count.get(story, 0) + 1
    return tuple(
        account
        if count[story] == 1
        else replace(account, facts={**account.facts, "same_for": count[story]})
        for story, account in first.items()
    )
