"""Why does it not run? Computed from documents alone, so for any cluster that can be listed.

``explain`` follows owners down to the pods that wait, and asks the engine about those: the same
filters, allocator and gang decision that schedule. The snapshot it asks holds what the documents
hold, not what a scheduler has in mind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from kubarium.api.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    JOB_SETS,
    JOBS,
    POD_GROUPS,
    PODS,
    REPLICA_SETS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    TRAIN_JOBS,
    WORKLOADS,
)
from kubarium.api.resource import Document, Resource
from kubarium.engine import reasons
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.explain.ends import fewer_users
from kubarium.engine.explain.obstacles import near_miss
from kubarium.engine.model import Gang, Key, Pod, PodShape
from kubarium.engine.placement.devices import MAX_RESERVED, claims_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT_SCHEDULER
from kubarium.engine.placement.volumes import problem_of
from kubarium.engine.plan import Decision, QueueItem
from kubarium.engine.selectors import Requirement
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion
from kubarium.view.accounts import claim_account, node_account
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView, key_of
from kubarium.view.elastic import gang_lines, rank_lines
from kubarium.view.explanation import Explanation
from kubarium.view.forest import disagreement
from kubarium.view.hierarchy import composite_account
from kubarium.view.missing import NAMED, about_claims, missing_claim, no_such
from kubarium.view.placement import account_of, commands_of, missing_classes
from kubarium.view.pods import gang_key, is_finished, is_gated, node_of
from kubarium.view.preempting import PreemptionAccount, decided, preemption_account, promised
from kubarium.view.profiles import CONFIG_NAME, CONFIG_NAMESPACE, Profiles, scheduler_name
from kubarium.view.queueing import why as queueing
from kubarium.view.readiness import unready_devices
from kubarium.view.unbound import unbound
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
            EVENTS,
            *queueing.RESOURCES_NEEDED,
        )
    )
)

# And single objects: (resource, namespace, name).
OBJECTS_NEEDED = ((CONFIG_MAPS, CONFIG_NAMESPACE, CONFIG_NAME),)

# The scheduler's event about a group for which it keeps room (backfilling).
RESERVED = "Reserved"

# Users of a claim that are named of many.
USERS_NAMED = 3

_OWNED_BY: dict[str, tuple[Resource, ...]] = {
    "Deployment": (REPLICA_SETS,),
    "JobSet": (JOBS,),
    "TrainJob": (JOB_SETS,),
    "ReplicaSet": (PODS,),
    "Job": (PODS,),
    "StatefulSet": (PODS,),
    "DaemonSet": (PODS,),
}
# A pod's fact: what its containers wait for, other than their turn.
_STUCK = "stuck"
_ON_ITS_WAY = ("ContainerCreating", "PodInitializing")


def explain(
    documents: Mapping[Resource, list[Document]],
    subject: Document,
    view: ClusterView | None = None,
    node: str = "",
) -> Explanation:
    """Why ``subject`` is not running (or what it holds), with the smallest changes that help.

    ``documents`` has the lists of RESOURCES_NEEDED, and OBJECTS_NEEDED as far as they are there.
    Kinds: Pod, PodGroup, CompositePodGroup, Job, JobSet, TrainJob, Deployment, ReplicaSet,
    Workload, Node, ResourceClaim; of others, what their conditions say.
    ``view`` is one that already follows the same documents: with it, thousands of nodes need not be
    read again for each question. It is as before afterwards. With ``node``, the account of a pod or
    group speaks of that node alone, and of all that it fails.
    """
    told = _Why(documents, view, node).of(subject)
    return with_warnings(told, documents.get(EVENTS, ()), documents)


class _Why:
    """One question's worth of state: the snapshot is filled on first use."""

    def __init__(
        self,
        documents: Mapping[Resource, list[Document]],
        view: ClusterView | None = None,
        node: str = "",
    ) -> None:
        self._documents = documents
        self._about_node = node
        self._view = view
        self._profiles = Profiles(documents.get(CONFIG_MAPS, ()))
        self._by_kind: dict[str, Callable[[Document], Explanation]] = {
            "Pod": self._pod,
            "PodGroup": self._pod_group,
            "CompositePodGroup": self._composite,
            "Workload": self._workload,
            "Node": self._node,
            "ResourceClaim": self._claim,
        }

    def of(self, subject: Document) -> Explanation:
        told = self._told(subject)
        left_out = self._view.unreadable if self._view is not None else {}
        lines = tuple(f"{name} cannot be read and is left out: {e}" for name, e in left_out.items())
        return replace(told, reasons=(*told.reasons, *lines)) if lines else told

    def _told(self, subject: Document) -> Explanation:
        kind = subject.get("kind", "")
        if kind in self._by_kind:
            return self._by_kind[kind](subject)
        if kind in _OWNED_BY:
            return self._owner(subject)
        return _by_conditions(subject)

    @property
    def view(self) -> ClusterView:
        if self._view is None:
            self._view = ClusterView.of(self._documents, self._profiles.config.spread_defaults)
        return self._view

    def _placer(self, scheduler: str = DEFAULT_SCHEDULER) -> Placer:
        """By the rules of a scheduler."""
        return Placer(self.view.snapshot, self._profiles.of(scheduler))

    def _list(self, resource: Resource) -> Iterable[Document]:
        """The documents of a resource with their kind, which items of a list may lack."""
        for document in self._documents.get(resource, ()):
            if document.get("kind"):
                yield document
            else:
                yield {"apiVersion": resource.api_version, "kind": resource.kind, **document}

    # Pods

    def _pod(self, pod: Document) -> Explanation:
        title, spec = _title(pod), pod.get("spec") or {}
        if is_finished(pod):
            phase = pod["status"]["phase"]
            return Explanation(title, "Finished", f"the pod has ended: {phase}", _endings(pod))
        if "deletionTimestamp" in pod["metadata"]:
            return Explanation(title, "Terminating", "the pod is being deleted")
        if spec.get("nodeName"):
            return _on_its_node(pod)
        if is_gated(pod):
            return self._gated(pod)
        if preparing := self._preparing(pod):
            text = "the pod has its devices and is bound once they are ready"
            return Explanation(title, "Pending", text, preparing)
        name = scheduler_name(pod)
        if name not in self._profiles.names and not _refusal(pod):
            return self._of_nobody(pod, name)
        group = gang_key(pod)
        if group is not None:
            return self._in_group(pod, group)
        return self._unplaced(pod, Subject((self.view.pod(pod),)))

    def _preparing(self, pod: Document) -> tuple[str, ...]:
        """Devices that are being made ready for the pod: its claims are reserved for it already."""
        uid, namespace = pod["metadata"].get("uid"), pod["metadata"].get("namespace")
        own = [
            claim
            for claim in self._list(RESOURCE_CLAIMS)
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
        told = Explanation(_title(pod), "Gated", text, listed, children=children)
        if children or gang_key(pod) is not None:  # whose gates go once all of it may start
            return told
        subject = Subject((self.view.pod(pod),))
        with promised(self.view, self._list(PODS), subject.pods):
            besides = self._besides(self._placer(scheduler_name(pod)), subject)
        if besides:
            return replace(told, reasons=(*listed, *besides))
        removal = f"remove the scheduling gate {' and '.join(gates)}: the pod fits now"
        suggestion = Suggestion("remove-gate", removal, ",".join(gates))
        return replace(
            told,
            suggestions=(suggestion,),
            commands=commands_of(self.view, (suggestion,), pod),
        )

    def _of_nobody(self, pod: Document, name: str) -> Explanation:
        """A pod that no scheduler has spoken of: whether another one could place it."""
        text = f"the pod asks for the scheduler {name}, which has not spoken of it"
        told = Explanation(_title(pod), "Pending", text, self._schedulers(name))
        subject = Subject((self.view.pod(pod),))
        if missing_claim(pod, self.view.snapshot.claims) or gang_key(pod) is not None:
            return told
        other = self._profiles.names[0]
        with promised(self.view, self._list(PODS), subject.pods):
            besides = self._besides(self._placer(other), subject)
        if besides:
            return replace(told, reasons=(*told.reasons, *besides))
        text = f"name the scheduler {other} instead: the pod fits now"
        suggestion = Suggestion("change-scheduler", text, other)
        return replace(told, suggestions=(suggestion,))

    def _schedulers(self, name: str) -> tuple[str, ...]:
        """Which schedulers this cluster has, if it says so."""
        if self._profiles.config.given is None:
            return ()
        return (no_such("scheduler", name, list(self._profiles.names), NAMED),)

    def _in_group(self, pod: Document, key: Key) -> Explanation:
        document = self.view.group_documents.get(key)
        if document is None:
            text = reasons.pod_group_missing(key[1])
            known = [name for where, name in self.view.group_documents if where == key[0]]
            line = no_such("PodGroup", key[1], known, NAMED)
            return Explanation(_title(pod), "Pending", text, (line,))
        found = self._pod_group({"kind": "PodGroup", **document})
        if found.state != "Pending":
            return self._unplaced(pod, Subject((self.view.pod(pod),)))
        text = f"the pod starts together with its pod group {key[1]}, or not at all"
        return Explanation(_title(pod), "Pending", text, children=(found,))

    def _unplaced(self, pod: Document, subject: Subject) -> Explanation:
        with promised(self.view, self._list(PODS), subject.pods) as others:
            return self._without_room(pod, subject, others)

    def _without_room(
        self, pod: Document, subject: Subject, others: tuple[tuple[Pod, str], ...]
    ) -> Explanation:
        placer = self._placer(scheduler_name(pod))
        placer.nominated = tuple(other.key for other, _ in others)
        title = _title(pod)
        missing = missing_claim(pod, self.view.snapshot.claims)
        if missing:
            told = Explanation(title, "Pending", missing)
            return replace(told, reasons=(*self._missing(pod), *self._besides(placer, subject)))
        if Explainer(placer).fits(subject):
            return self._fitting(pod)
        verdict = placer.account(subject.pods[0])
        facts: dict[str, object] = {"nodes": verdict.nodes, "counts": dict(verdict.counts)}
        told = Explanation(title, "Pending", verdict.message(), facts=facts)
        if verdict.everywhere and not _is_searched(self.view.snapshot, subject):
            return self._unaccounted(told, placer, subject)
        told = self._accounted(told, placer, subject)
        told = _preempting(told, preemption_account(placer, QueueItem(subject.pods), others))
        return self._by_profile(told, scheduler_name(pod))

    def _by_profile(self, told: Explanation, scheduler: str) -> Explanation:
        """With the rules by which it was judged, if these are not the usual ones."""
        return replace(told, reasons=(*told.reasons, *self._profiles.about(scheduler)))

    def _fitting(self, pod: Document) -> Explanation:
        """A pod that fits by what can be listed."""
        title = _title(pod)
        name = scheduler_name(pod)
        if name not in self._profiles.names:
            line = f"by the rules of the default profile it fits now; {name} may have others"
            return Explanation(title, "Pending", _refusal(pod), (line,))
        text = "the pod fits now; the scheduler has not placed it yet"
        kept = tuple(self._reservations(pod)) if _refusal(pod) else ()
        return Explanation(title, "Pending", _refusal(pod) if kept else text, kept)

    def _reservations(self, pod: Document) -> Iterator[str]:
        """Groups that still wait and for which the scheduler has said that it keeps room."""
        waiting: set[Key] = set()
        for other in self._list(PODS):
            placed = node_of(other) or is_finished(other)
            own = gang_key(other) if not placed else None
            if own is not None:
                waiting |= {own, *self._composites_of(own)}
        told: dict[str, str] = {}
        for event in self._documents.get(EVENTS, ()):
            about = event.get("involvedObject") or event.get("regarding") or {}
            key = (about.get("namespace", ""), about.get("name", ""))
            if event.get("reason") == RESERVED and key in waiting and key != gang_key(pod):
                kind = str(about.get("kind", "")).lower()
                told[f"{kind} {'/'.join(key)}"] = str(event.get("message") or "")
        for group, message in told.items():
            yield f"it would fit but for what is kept for {group}: {message}"

    def _composites_of(self, group: Key) -> Iterator[Key]:
        """The composites above a pod group."""
        gang = self.view.gang(group)
        if gang is not None and gang.parent is not None:
            yield self.view.forest.root_of_composite(gang.parent)

    def _missing(self, pod: Document) -> tuple[str, ...]:
        """What to do about the claims that a pod names in vain."""
        templates: list[Key] | None = None
        if RESOURCE_CLAIM_TEMPLATES in self._documents:
            templates = [key_of(document) for document in self._list(RESOURCE_CLAIM_TEMPLATES)]
        return tuple(about_claims(pod, self.view.snapshot.claims, templates))

    def _besides(self, placer: Placer, subject: Subject) -> tuple[str, ...]:
        """What is in the way of a single pod besides the claims and volumes that it cannot use."""
        if subject.is_gang:
            return ()
        snapshot, [pod] = self.view.snapshot, subject.pods
        claims = tuple(
            key
            for key in pod.claims
            if not claims_of(snapshot, replace(pod, claims=(key,))).problem
        )
        volumes = tuple(
            key for key in pod.volumes if not problem_of(snapshot, replace(pod, volumes=(key,)))
        )
        left = replace(pod, claims=claims, volumes=volumes, variants=())
        if Explainer(placer).fits(Subject((left,))):
            return ()
        return (f"and besides that: {placer.account(left).message()}",)

    def _unaccounted(self, told: Explanation, placer: Placer, subject: Subject) -> Explanation:
        """No node is to blame: perhaps a name is misspelt."""
        keys = tuple(dict.fromkeys(key for pod in subject.pods for key in pod.volumes))
        ending = fewer_users(placer, subject)
        suggestions = (ending,) if ending is not None else ()
        lines = (
            *missing_classes(self.view.snapshot, subject.pods),
            *unbound(self.view.volumes, keys, self._ephemeral(subject)),
            *self._unusable_claims(subject),
            *self._besides(placer, subject),
        )
        return replace(
            told,
            reasons=lines,
            suggestions=suggestions,
            commands=commands_of(self.view, suggestions),
        )

    def _ephemeral(self, subject: Subject) -> set[str]:
        """The names of the volume claims that are made for the pods' own volumes."""
        keys = {pod.key for pod in subject.pods}
        return {
            f"{pod['metadata']['name']}-{volume['name']}"
            for pod in self._list(PODS)
            if key_of(pod) in keys
            for volume in (pod.get("spec") or {}).get("volumes") or ()
            if volume.get("ephemeral")
        }

    def _unusable_claims(self, subject: Subject) -> Iterator[str]:
        """ResourceClaims that are being deleted or have as many users as they can have."""
        keys = dict.fromkeys(key for pod in subject.pods for key in pod.claims)
        for document in self._list(RESOURCE_CLAIMS):
            metadata, status = document["metadata"], document.get("status") or {}
            if key_of(document) not in keys:
                continue
            users = [str(user.get("name")) for user in status.get("reservedFor") or ()]
            shown = f"{', '.join(users[:USERS_NAMED])}{' …' if len(users) > USERS_NAMED else ''}"
            if "deletionTimestamp" in metadata:
                until = f"once {shown} no longer use it" if users else "once its finalizers are"
                yield f"claim {metadata['name']} is being deleted, and gone {until}"
            elif len(users) >= MAX_RESERVED:
                text = f"claim {metadata['name']} has {len(users)} users"
                yield f"{text}, the most that it can have: {shown}"

    def _accounted(
        self,
        told: Explanation,
        placer: Placer,
        subject: Subject,
        decision: Decision | None = None,
    ) -> Explanation:
        """With the account of nodes and devices, and with what would help."""
        found = account_of(self.view, placer, subject, decision, self._about_node)
        return replace(
            told,
            tightest=found.tightest,
            reasons=found.lines,
            suggestions=found.suggestions,
            nodes=found.nodes,
            devices=found.devices,
            commands=found.commands,
        )

    # Groups

    def _pod_group(self, group: Document) -> Explanation:
        key, title = key_of(group), _title(group)
        gang = self.view.gang(key)
        if gang is None:
            return Explanation(title, "Unknown", "the pod group is not among the documents given")
        members = [p for p in self._list(PODS) if gang_key(p) == key and not is_finished(p)]
        waiting = [p for p in members if not node_of(p)]
        running = len(members) - len(waiting)
        if not waiting and running:
            return Explanation(title, "Scheduled", f"all {running} pods of the group have a node")
        gated = [p for p in waiting if is_gated(p)]
        if gated:
            child = (self._gated(gated[0]),)
            text = f"{len(gated)} of the group's pods are held by scheduling gates"
            return Explanation(title, "Gated", text, children=child)
        rows = tuple(self.view.pod(p) for p in waiting)
        names = [scheduler_name(p) for p in waiting]
        if conflict := disagreement(rows, names, (gang,)):
            return Explanation(title, "Pending", conflict)
        if len(waiting) + gang.scheduled_count < gang.min_count:
            have = len(waiting) + gang.scheduled_count
            text = f"{reasons.GANG_WAITING}: {have} of {gang.min_count} exist"
            return Explanation(title, "Pending", text)
        if not waiting:
            ended = bool(gang.scheduled_count)
            text = "the pods of the group have ended" if ended else "no pod of the group exists"
            return Explanation(title, "Finished" if ended else "Pending", text)
        if gang.parent is not None:
            text = f"the group starts together with composite pod group {gang.parent[1]}"
            told = self._hierarchy(gang.parent, f"compositepodgroup {'/'.join(gang.parent)}")
            return Explanation(title, "Pending", text, children=(told,))
        return self._by_profile(self._unstarted(title, gang, rows, names[0]), names[0])

    def _composite(self, composite: Document) -> Explanation:
        return self._hierarchy(key_of(composite), _title(composite))

    def _hierarchy(self, key: Key, title: str) -> Explanation:
        return composite_account(self.view, self._profiles, self._list(PODS), key, title)

    def _unstarted(
        self, title: str, gang: Gang, pods: tuple[Pod, ...], scheduler: str
    ) -> Explanation:
        snapshot = self.view.snapshot
        keys = {p.key for p in pods if any(c not in snapshot.claims for c in p.claims)}
        for pod in self._list(PODS) if keys else ():
            if key_of(pod) in keys and (text := missing_claim(pod, snapshot.claims)):
                return Explanation(title, "Pending", text, self._missing(pod))
        with promised(self.view, self._list(PODS), pods) as others:
            placer = self._placer(scheduler)
            placer.nominated = tuple(other.key for other, _ in others)
            return self._undecided(title, placer, QueueItem(pods, gang), others)

    def _undecided(
        self, title: str, placer: Placer, item: QueueItem, others: tuple[tuple[Pod, str], ...]
    ) -> Explanation:
        snapshot, pods, gang = self.view.snapshot, item.pods, item.gang
        assert gang is not None
        decision = decided(placer, item)
        if decision.placements and not decision.unplaced:
            text = "the group fits now; the scheduler has not placed it yet"
            return Explanation(title, "Pending", text)
        verdict = decision.gang_verdict
        account = decision.unplaced[0][1] if decision.unplaced else None
        if account is None and verdict is not None:
            account = verdict.first_failure
        facts: dict[str, object] = {"needed": gang.min_count, "waiting": len(pods)}
        if verdict is not None:
            facts |= {"found_room": verdict.placed, "proven": verdict.exact}
            if verdict.domain:
                facts["domain"] = verdict.domain
        if account is not None:
            facts["counts"] = dict(account.counts)
        text = verdict.message() if verdict else (account.message() if account else "")
        told = Explanation(title, "Pending", text, facts=facts)
        subject = Subject(pods, gang)
        if account is None and gang.required_keys:  # no node carries one of the labels
            hints = (near_miss(snapshot, Requirement(k, "Exists"))[0] for k in gang.required_keys)
            lines = tuple(hint.strip(" ()") for hint in hints if hint)
            suggestions = Explainer(placer).suggest(subject)
            return replace(told, reasons=lines, suggestions=suggestions)
        if account is None or (account.everywhere and not _is_searched(snapshot, subject)):
            return self._unaccounted(told, placer, subject)
        told = self._accounted(told, placer, subject, decision)
        return _preempting(told, preemption_account(placer, item, others, decision))

    # Owners

    def _owner(self, owner: Document) -> Explanation:
        title = _title(owner)
        finished = _finished(owner)
        if finished:
            return Explanation(title, "Finished", finished)
        if (owner.get("spec") or {}).get("suspend"):
            children = tuple(self._workload(w) for w in self._workloads_of([owner]))
            text = "suspended by its queue" if children else "suspended: spec.suspend is true"
            return Explanation(title, "Suspended", text, children=children)
        owned = list(self._owned(owner))
        accounts = [self.of(child) for child in owned]
        waiting = [a for a in accounts if a.state in ("Pending", "Gated", "Suspended", "Unknown")]
        stuck = [a for a in accounts if a not in waiting and (a.children or _STUCK in a.facts)]
        counts: dict[str, int] = {}
        for account in accounts:
            counts[account.state] = counts.get(account.state, 0) + 1
        if not owned:
            said = _by_conditions(owner)
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
            for document in self._list(resource):
                refs = document["metadata"].get("ownerReferences") or ()
                if any(ref.get("uid") == uid for ref in refs):
                    yield document

    def _ancestors(self, document: Document) -> list[Document]:
        """Owners and owners' owners, nearest first."""
        found: list[Document] = []
        uids = {r.get("uid") for r in document["metadata"].get("ownerReferences") or ()}
        for resource in (REPLICA_SETS, JOBS, JOB_SETS, TRAIN_JOBS, DEPLOYMENTS):
            for candidate in self._list(resource):
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
            for workload in self._list(WORKLOADS)
            if any(r.get("uid") in uids for r in workload["metadata"].get("ownerReferences") or ())
        ]

    def _workload(self, workload: Document) -> Explanation:
        if workload.get("apiVersion", "").startswith("scheduling.k8s.io"):
            return self._gang_workload(workload)
        if not workload.get("apiVersion", "").startswith("kueue.x-k8s.io"):
            return _by_conditions(workload)
        told = queueing.explain(self._documents, workload)
        # The first line repeats message and state; the list of changes is shown as suggestions.
        between = [line for line in told.lines()[1:] if not line.startswith(("- ", "Any one"))]
        return Explanation(
            _title(workload),
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
            for g in self._list(POD_GROUPS)
            if ((g.get("spec") or {}).get("workloadRef") or {}).get("workloadName") == name
            and g["metadata"].get("namespace") == workload["metadata"].get("namespace")
        ]
        waiting = [g for g in groups if g.state == "Pending"]
        state = "Pending" if waiting or not groups else "Scheduled"
        text = f"{len(groups)} pod groups, {len(waiting)} waiting"
        return Explanation(_title(workload), state, text, children=_distinct(waiting))

    # What is held

    def _node(self, node: Document) -> Explanation:
        return node_account(self.view, node)

    def _claim(self, claim: Document) -> Explanation:
        title = _title(claim)
        if (claim.get("status") or {}).get("allocation"):
            return claim_account(claim, title)
        users = [p for p in self._list(PODS) if key_of(claim) in self.view.pod(p).claims]
        waiting = [p for p in users if not is_finished(p)]
        if not waiting:
            return self._unused(claim, title)
        pod = self._pod(waiting[0])
        text = f"not allocated: its {pod.subject} is {pod.state}"
        return Explanation(title, "Pending", text, children=(pod,))

    def _unused(self, claim: Document, title: str) -> Explanation:
        """A claim that no pod uses: whether a pod that asks for nothing else could have it now."""
        key = key_of(claim)
        if key not in self.view.snapshot.claims:
            return Explanation(title, "Unknown", "the claim is not among the documents given")
        text = "not allocated: that happens together with the first pod that uses it"
        subject = Subject((Pod(key, PodShape(), claims=(key,)),))
        placer = self._placer()
        if Explainer(placer).fits(subject):
            return Explanation(title, "Free", f"{text}; there are devices for it now")
        verdict = placer.account(subject.pods[0])
        text = f"{text}; there would be no devices for it: {verdict.message()}"
        told = Explanation(title, "Free", text, facts={"counts": dict(verdict.counts)})
        if verdict.everywhere and not _is_searched(self.view.snapshot, subject):
            return self._unaccounted(told, placer, subject)
        return self._accounted(told, placer, subject)


def _preempting(told: Explanation, found: PreemptionAccount) -> Explanation:
    """The account with what preemption has to say."""
    facts = {**told.facts, "preemption": found.text} if found.text else told.facts
    return replace(
        told,
        reasons=(*told.reasons, *found.lines),
        suggestions=(*told.suggestions, *found.suggestions),
        facts=facts,
    )


def _is_searched(snapshot: Snapshot, subject: Subject) -> bool:
    """Whether devices are looked for at all: all that the pods name is there."""
    return not any(
        claims_of(snapshot, pod).problem or problem_of(snapshot, pod) for pod in subject.pods
    )


def _title(document: Document) -> str:
    """``pod default/web``; kinds are written as kubectl takes them."""
    metadata = document["metadata"]
    namespace = metadata.get("namespace", "")
    name = f"{namespace}/{metadata['name']}" if namespace else metadata["name"]
    return f"{document.get('kind', 'object').lower()} {name}"


def _refusal(pod: Document) -> str:
    """What a scheduler has said of a pod for which it found no node; "" if none has."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


def _users_of(claim: Document) -> Iterable[Document]:
    return (claim.get("status") or {}).get("reservedFor") or ()


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
        story = told.facts.get(_STUCK) or (told.state, told.summary, told.reasons)
        first.setdefault(story, told)
        count[story] = count.get(story, 0) + 1
    return tuple(
        account
        if count[story] == 1
        else replace(account, facts={**account.facts, "same_for": count[story]})
        for story, account in first.items()
    )


def _endings(pod: Document) -> tuple[str, ...]:
    lines: list[str] = []
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (status.get("state") or {}).get("terminated")
        if ended:
            reason = ended.get("reason", "")
            code = ended.get("exitCode")
            lines.append(f"container {status.get('name')}: exit code {code} {reason}".rstrip())
    return tuple(lines)


def _on_its_node(pod: Document) -> Explanation:
    """A pod with a node: what its containers wait for, if anything."""
    status, node = pod.get("status") or {}, pod["spec"]["nodeName"]
    lines: list[str] = []
    stuck: list[str] = []
    for kind in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(kind) or ():
            waiting = (entry.get("state") or {}).get("waiting")
            if waiting:
                text = f"container {entry.get('name')}: {waiting.get('reason', 'waiting')}"
                message = waiting.get("message")
                lines.append(f"{text}: {message}" if message else text)
                if waiting.get("reason") not in _ON_ITS_WAY:
                    stuck.append(text)
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("Ready", "Initialized") and condition.get("status") == "False":
            message = condition.get("message") or condition.get("reason") or ""
            lines.append(f"not {condition['type']}: {message}")
        elif condition.get("type") == "PodResizePending" and condition.get("status") == "True":
            lines.append(f"resize {condition.get('reason')}: {condition.get('message', '')}")
    lines += rank_lines(pod)
    state = "Running" if status.get("phase") == "Running" else "Scheduled"
    facts = {_STUCK: tuple(stuck)} if stuck else {}
    return Explanation(_title(pod), state, f"the pod is on node {node}", tuple(lines), facts=facts)


def _finished(owner: Document) -> str:
    for condition in (owner.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Completed", "Failed") and (
            condition.get("status") == "True"
        ):
            message = condition.get("message") or condition.get("reason") or ""
            return f"{condition['type']}: {message}".rstrip(": ")
    return ""


def _by_conditions(document: Document) -> Explanation:
    """What an object says of itself."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    lines = tuple(
        f"{c.get('type')} is {c.get('status')}: {c.get('message') or c.get('reason') or ''}".rstrip(
            ": "
        )
        for c in conditions
    )
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    state = next(
        (s for s in ("Finished", "Admitted", "Ready", "Available", "Active") if s in true),
        "Pending" if conditions else "Unknown",
    )
    text = "" if lines else "the object has no conditions that say more"
    return Explanation(_title(document), state, text, lines)
