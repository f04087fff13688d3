"""Why pods, gangs and claims find no place: what the engine answers, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kubarium.api.kinds import EVENTS, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.explain.ends import fewer_users
from kubarium.engine.explain.obstacles import near_miss
from kubarium.engine.model import Gang, Key, Pod, PodShape
from kubarium.engine.placement.devices import MAX_RESERVED, claims_of
from kubarium.engine.placement.gang import min_resources_left, resource_gap
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.volumes import problem_of
from kubarium.engine.plan import Decision, QueueItem
from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.selectors import Requirement
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion
from kubarium.view.claim_quotas import ClaimQuotas
from kubarium.view.cluster import key_of
from kubarium.view.evidence import Evidence
from kubarium.view.explanation import Explanation
from kubarium.view.local_models import data_lines
from kubarium.view.missing import about_claims, missing_claim
from kubarium.view.placement import account_of, commands_of, missing_classes, with_rules
from kubarium.view.pods import gang_key, is_finished, node_of
from kubarium.view.preempting import PreemptionAccount, decided, preemption_account, promised
from kubarium.view.profiles import scheduler_name
from kubarium.view.said import refusal, title_of
from kubarium.view.unbound import unbound
from kubarium.view.warnings import about

# The scheduler's event about a group for which it keeps room (backfilling).
RESERVED = "Reserved"

# Users of a claim that are named of many.
USERS_NAMED = 3


class Unplaced:
    """Asks the engine about what waits, and puts its answers into words."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def besides(self, pod: Document, scheduler: str) -> tuple[str, ...]:
        """What else is in the way of a pod that something else holds, by a scheduler's rules."""
        subject = Subject((self._evidence.view.pod(pod),))
        with promised(self._evidence.view, self._evidence.list(PODS), subject.pods):
            return self._besides(self._evidence.placer(scheduler), subject)

    def of_pod(self, pod: Document) -> Explanation:
        """Of a pod that its scheduler has not placed."""
        subject = Subject((self._evidence.view.pod(pod),))
        with promised(self._evidence.view, self._evidence.list(PODS), subject.pods) as others:
            return self._without_room(pod, subject, others)

    def _without_room(
        self, pod: Document, subject: Subject, others: tuple[tuple[Pod, str], ...]
    ) -> Explanation:
        placer = self._evidence.placer(scheduler_name(pod))
        placer.nominated = tuple(other.key for other, _ in others)
        title = title_of(pod)
        missing = missing_claim(pod, self._evidence.view.snapshot.claims)
        if missing:
            return self._without_claims(pod, Explanation(title, "Pending", missing), placer)
        if Explainer(placer).fits(subject):
            return self._fitting(pod)
        verdict = placer.account(subject.pods[0])
        facts: dict[str, object] = {"nodes": verdict.nodes, "counts": dict(verdict.counts)}
        told = Explanation(title, "Pending", verdict.message(), facts=facts)
        if verdict.everywhere and not _is_searched(self._evidence.view.snapshot, subject):
            return self._unaccounted(told, placer, subject)
        told = self._accounted(told, placer, subject)
        told = _preempting(told, preemption_account(placer, QueueItem(subject.pods), others))
        return self._by_profile(told, scheduler_name(pod))

    def _by_profile(self, told: Explanation, scheduler: str) -> Explanation:
        """With the rules by which it was judged, if these are not the usual ones."""
        return replace(told, reasons=(*told.reasons, *self._evidence.profiles.about(scheduler)))

    def _fitting(self, pod: Document) -> Explanation:
        """A pod that fits by what can be listed."""
        title = title_of(pod)
        name = scheduler_name(pod)
        if name not in self._evidence.profiles.names:
            line = f"by the rules of the default profile it fits now; {name} may have others"
            return Explanation(title, "Pending", refusal(pod), (line,))
        text = "the pod fits now; the scheduler has not placed it yet"
        kept = tuple(self._reservations(pod)) if refusal(pod) else ()
        return Explanation(title, "Pending", refusal(pod) if kept else text, kept)

    def _reservations(self, pod: Document) -> Iterator[str]:
        """Groups that still wait and for which the scheduler has said that it keeps room."""
        waiting: set[Key] = set()
        for other in self._evidence.list(PODS):
            placed = node_of(other) or is_finished(other)
            own = gang_key(other) if not placed else None
            if own is not None:
                waiting |= {own, *self._composites_of(own)}
        told: dict[str, str] = {}
        for event in self._evidence.documents.get(EVENTS, ()):
            regarding = about(event)
            key = (regarding.get("namespace", ""), regarding.get("name", ""))
            if event.get("reason") == RESERVED and key in waiting and key != gang_key(pod):
                kind = str(regarding.get("kind", "")).lower()
                told[f"{kind} {'/'.join(key)}"] = str(event.get("message") or "")
        for group, message in told.items():
            yield f"it would fit but for what is kept for {group}: {message}"

    def _composites_of(self, group: Key) -> Iterator[Key]:
        """The composites above a pod group."""
        gang = self._evidence.view.gang(group)
        if gang is not None and gang.parent is not None:
            yield self._evidence.view.forest.root_of_composite(gang.parent)

    def _missing(self, pod: Document) -> tuple[str, ...]:
        """What to do about the claims that a pod names in vain."""
        templates: list[Key] | None = None
        if RESOURCE_CLAIM_TEMPLATES in self._evidence.documents:
            templates = [
                key_of(document) for document in self._evidence.list(RESOURCE_CLAIM_TEMPLATES)
            ]
        return tuple(about_claims(pod, self._evidence.view.snapshot.claims, templates))

    def _without_claims(self, pod: Document, told: Explanation, placer: Placer) -> Explanation:
        """Of a pod that names claims which it cannot use."""
        quotas = ClaimQuotas(self._evidence, [pod])
        if not quotas.exceeded:
            besides = self._besides(placer, Subject((self._evidence.view.pod(pod),)))
            return replace(told, reasons=(*self._missing(pod), *besides))
        with quotas.made() as complete:
            subject = Subject((self._evidence.view.pod(complete[0]),))
            fits = Explainer(placer).fits(subject)
            refused = "" if fits else placer.account(subject.pods[0]).message()
        return self._without_quota(replace(told, reasons=self._missing(pod)), quotas, refused)

    def _without_quota(self, told: Explanation, quotas: ClaimQuotas, refused: str) -> Explanation:
        """With the quotas that keep claims away; ``refused`` is what else is in the way."""
        lines = (*told.reasons, *(excess.line for excess in quotas.exceeded))
        if refused:
            return replace(told, reasons=(*lines, f"and besides that: {refused}"))
        raising = quotas.raising()
        commands = {raising: quotas.command()}
        return replace(told, reasons=lines, suggestions=(raising,), commands=commands)

    def _besides(self, placer: Placer, subject: Subject) -> tuple[str, ...]:
        """What is in the way of a single pod besides the claims and volumes that it cannot use."""
        if subject.is_gang:
            return ()
        snapshot, [pod] = self._evidence.view.snapshot, subject.pods
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
            *missing_classes(self._evidence.view.snapshot, subject.pods),
            *unbound(self._evidence.view.volumes, keys, self._ephemeral(subject)),
            *self._unusable_claims(subject),
            *self._besides(placer, subject),
        )
        return replace(
            told,
            reasons=lines,
            suggestions=suggestions,
            commands=commands_of(self._evidence.view, suggestions),
        )

    def _ephemeral(self, subject: Subject) -> set[str]:
        """The names of the volume claims that are made for the pods' own volumes."""
        keys = {pod.key for pod in subject.pods}
        return {
            f"{pod['metadata']['name']}-{volume['name']}"
            for pod in self._evidence.list(PODS)
            if key_of(pod) in keys
            for volume in (pod.get("spec") or {}).get("volumes") or ()
            if volume.get("ephemeral")
        }

    def _unusable_claims(self, subject: Subject) -> Iterator[str]:
        """ResourceClaims that are being deleted or have as many users as they can have."""
        keys = dict.fromkeys(key for pod in subject.pods for key in pod.claims)
        for document in self._evidence.list(RESOURCE_CLAIMS):
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
        found = account_of(
            self._evidence.view, placer, subject, decision, self._evidence.about_node
        )
        said = data_lines(self._evidence.documents, placer.snapshot, subject.pods)
        return replace(
            told,
            tightest=found.tightest,
            reasons=(*found.lines, *said),
            suggestions=found.suggestions,
            nodes=found.nodes,
            devices=found.devices,
            commands=found.commands,
        )

    def of_gang(self, title: str, gang: Gang, pods: tuple[Pod, ...], scheduler: str) -> Explanation:
        """Of a gang whose waiting pods are enough and have no place."""
        return self._by_profile(self._unstarted(title, gang, pods, scheduler), scheduler)

    def fewer(
        self, gang: Gang, pods: tuple[Pod, ...], schedulers: Sequence[str]
    ) -> tuple[Suggestion, ...]:
        """That the gang starts with the pods that exist, its minimum lowered, if they fit."""
        if not pods or gang.parent is not None:
            return ()
        subject = Subject(pods, gang)
        with promised(self._evidence.view, self._evidence.list(PODS), pods):
            if not Explainer(self._evidence.placer(schedulers[0])).fits(subject):
                return ()
        name, count = gang.key[1], gang.min_count
        text = f"lower minCount of pod group {name} to {count}: the pods that exist fit now"
        return (Suggestion("lower-min-count", text, name, amount=count),)

    def _unstarted(
        self, title: str, gang: Gang, pods: tuple[Pod, ...], scheduler: str
    ) -> Explanation:
        snapshot = self._evidence.view.snapshot
        keys = {p.key for p in pods if any(c not in snapshot.claims for c in p.claims)}
        lacking = [pod for pod in self._evidence.list(PODS) if key_of(pod) in keys] if keys else ()
        for pod in lacking:
            if text := missing_claim(pod, snapshot.claims):
                told = Explanation(title, "Pending", text, self._missing(pod))
                return self._gang_without_claims(told, Subject(pods, gang), lacking, scheduler)
        with promised(self._evidence.view, self._evidence.list(PODS), pods) as others:
            placer = self._evidence.placer(scheduler)
            placer.nominated = tuple(other.key for other, _ in others)
            return self._undecided(title, placer, QueueItem(pods, gang), others)

    def _gang_without_claims(
        self, told: Explanation, subject: Subject, lacking: Sequence[Document], scheduler: str
    ) -> Explanation:
        """Of a gang some of whose pods name claims that they cannot use."""
        quotas = ClaimQuotas(self._evidence, lacking, "the group")
        if not quotas.exceeded:
            return told
        placer = self._evidence.placer(scheduler)
        with quotas.made() as complete:
            whole = {key_of(pod): self._evidence.view.pod(pod) for pod in complete}
            pods = tuple(whole.get(pod.key, pod) for pod in subject.pods)
            decision = decided(placer, QueueItem(pods, subject.gang))
        verdict = decision.gang_verdict
        refused = decision.unplaced[0][1].message() if decision.unplaced else ""
        return self._without_quota(told, quotas, verdict.message() if verdict else refused)

    def _undecided(
        self, title: str, placer: Placer, item: QueueItem, others: tuple[tuple[Pod, str], ...]
    ) -> Explanation:
        snapshot, pods, gang = self._evidence.view.snapshot, item.pods, item.gang
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
        if account is None and resource_gap(snapshot, gang):
            return self._without_min_resources(told, placer, subject)
        if account is None and gang.required_keys:  # no node carries one of the labels
            hints = (near_miss(snapshot, Requirement(k, "Exists"))[0] for k in gang.required_keys)
            lines = tuple(hint.strip(" ()") for hint in hints if hint)
            suggestions = Explainer(placer).suggest(subject)
            return replace(told, reasons=lines, suggestions=suggestions)
        if account is None or (account.everywhere and not _is_searched(snapshot, subject)):
            return self._unaccounted(told, placer, subject)
        told = self._accounted(told, placer, subject, decision)
        return _preempting(told, preemption_account(placer, item, others, decision))

    def _without_min_resources(
        self, told: Explanation, placer: Placer, subject: Subject
    ) -> Explanation:
        """Of a coscheduling group for whose minResources the nodes have too little left."""
        gang, snapshot = subject.gang, placer.snapshot
        assert gang is not None
        left = list(min_resources_left(snapshot, gang))
        short = {name: have for name, wanted, have in left if have < wanted}
        lines = tuple(
            f"minResources ask for {show_amount(name, wanted)} {name} at once,"
            f" the nodes have {show_amount(name, have)} left"
            for name, wanted, have in left
            if have < wanted
        )
        lower = replace(
            gang, min_resources=tuple((n, short.get(n, wanted)) for n, wanted in gang.min_resources)
        )
        found: list[Suggestion] = []
        if Explainer(placer).fits(replace(subject, gang=lower)):
            amounts = " and ".join(f"{n} to {show_amount(n, have)}" for n, have in short.items())
            text = f"lower minResources of pod group {gang.key[1]}: {amounts}"
            found.append(Suggestion("lower-min-resources", text, ",".join(short)))
        advice = with_rules(self._evidence.view, Explainer(placer).suggest(subject))
        suggestions = (*found, *advice)
        return replace(
            told,
            reasons=lines,
            suggestions=suggestions,
            commands=commands_of(self._evidence.view, suggestions),
        )

    def of_claim(self, claim: Document, title: str) -> Explanation:
        """A claim that no pod uses: whether a pod that asks for nothing else could have it now."""
        key = key_of(claim)
        if key not in self._evidence.view.snapshot.claims:
            return Explanation(title, "Unknown", "the claim is not among the documents given")
        text = "not allocated: that happens together with the first pod that uses it"
        subject = Subject((Pod(key, PodShape(), claims=(key,)),))
        placer = self._evidence.placer()
        if Explainer(placer).fits(subject):
            return Explanation(title, "Free", f"{text}; there are devices for it now")
        verdict = placer.account(subject.pods[0])
        text = f"{text}; there would be no devices for it: {verdict.message()}"
        told = Explanation(title, "Free", text, facts={"counts": dict(verdict.counts)})
        if verdict.everywhere and not _is_searched(self._evidence.view.snapshot, subject):
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
