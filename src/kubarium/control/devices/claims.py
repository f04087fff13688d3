"""The ResourceClaim controllers: claims from templates, and giving back what nobody uses.

Source: kube-controller-manager ``pkg/controller/resourceclaim``. A pod's entry with a template
gets its own claim, ``<pod>-<entry>-<random>``, recorded in the pod's status. An entry that its
PodGroup has too is the group's claim, made once for all of its pods (KEP-5729; groups.py). A
consumer that is gone or finished leaves ``reservedFor``; a claim without consumers loses its
allocation and the finalizer; a generated claim goes with its pod.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from kubarium.api.kinds import POD_GROUPS, PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from kubarium.api.resource import Document, Resource, copy_document
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata, of_spec
from kubarium.runtime.protocol import Context, Informer, Key
from kubarium.view.consumers import (
    group_claims,
    group_name,
    is_group_consumer,
    is_pod_consumer,
    is_shared,
    maker_of,
)
from kubarium.view.extended import CLAIM_FINALIZER

POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"
COMPONENT = "resource_claim"

# Pods come faster than one worker makes their claims, a turn of the event loop for each; upstream
# has 50.
WORKERS = 16

# Leaves space for five random characters in a name of 63.
_MAX_PREFIX = 57

# Index of pods by the claims that they use, as namespace/name: :func:`pods_by_claim`.
PODS_BY_CLAIM = "pods-by-claim"

# Index of claims by whom they were made for: :func:`owner_uids`.
BY_OWNER = "resourceclaims-by-owner-uid"
_BY_GROUP = "pods-by-group"

# Pods and groups that are known to be gone; of others this is asked (upstream: maxUIDCacheEntries).
MAX_GONE = 500


def claim_names(pod: Document) -> list[str]:
    """The names of the pod's claims that exist as far as its spec and status say."""
    entries = (pod.get("spec") or {}).get("resourceClaims")
    status = pod.get("status") or {}
    extended = status.get("extendedResourceClaimStatus")
    if not entries and not extended:
        return []
    names = [e["resourceClaimName"] for e in entries or () if e.get("resourceClaimName")]
    statuses = [*(status.get("resourceClaimStatuses") or ()), extended or {}]
    return names + [s["resourceClaimName"] for s in statuses if s.get("resourceClaimName")]


def pods_by_claim(pod: Document) -> Iterable[str]:
    """Index function for ``PODS_BY_CLAIM``."""
    names = claim_names(pod)
    if not names:
        return ()
    namespace = pod["metadata"]["namespace"]
    return dict.fromkeys(f"{namespace}/{name}" for name in names)


def is_done(pod: Document) -> bool:
    """Whether the pod will not use its claims any more."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    return writes.is_terminating(pod) and not pod.get("spec", {}).get("nodeName")


@of_metadata
def owner_uids(claim: Document) -> Iterable[str]:
    """Index function for ``BY_OWNER``: the uid of the pod or group that a claim was made for."""
    uid = maker_of(claim)[2]
    return (uid,) if uid else ()


@of_spec
def _group_names(pod: Document) -> Iterable[str]:
    name = group_name(pod)
    return (f"{pod['metadata']['namespace']}/{name}",) if name else ()


def name_prefix(owner: str, entry: str) -> str:
    """What the generated name of a claim begins with; long names lose some of both parts.

    >>> name_prefix("trainer-0", "gpu")
    'trainer-0-gpu-'
    """
    whole = f"{owner}-{entry}-"
    if len(whole) <= _MAX_PREFIX:
        return whole
    parts = [part[: len(part) * _MAX_PREFIX // len(whole)] for part in (owner, entry)]
    return "-".join(part.rstrip("-.") for part in parts)


def claim_from(template: Document, owner: Document, entry: str) -> Document:
    """The ResourceClaim to create from a template for one entry of its owner, a pod or a group.

    It blocks nobody's deletion: a pod that goes in the foreground would wait for its claim, and the
    claim for the pod. It has the finalizer from the start: upstream's scheduler adds it by a write
    of its own as it allocates.
    """
    spec = template["spec"]
    metadata = spec.get("metadata") or {}
    labels = metadata.get("labels")
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "generateName": name_prefix(owner["metadata"]["name"], entry),
            "namespace": owner["metadata"]["namespace"],
            **({"labels": dict(labels)} if labels else {}),
            "annotations": {**(metadata.get("annotations") or {}), POD_CLAIM_NAME: entry},
            "ownerReferences": [writes.owner_reference(owner, block_owner_deletion=False)],
            "finalizers": [CLAIM_FINALIZER],
        },
        "spec": copy_document(spec.get("spec") or {}),
    }


class ClaimMaker:
    """Finds or makes the claim for an entry with a template, of a pod or of a group."""

    def __init__(self, context: Context, controller: Controller, entry_kind: str) -> None:
        """``entry_kind`` is how events call an entry."""
        self._context = context
        self._entry_kind = entry_kind
        self._events = EventRecorder(context, COMPONENT)
        self._claims = controller.reads(RESOURCE_CLAIMS)
        self._claims.add_index(BY_OWNER, owner_uids)
        self._templates = controller.reads(RESOURCE_CLAIM_TEMPLATES)

    async def claim_for(self, owner: Document, entry: Document) -> Document | None:
        """The entry's claim; None when that cannot be made, which an event tells."""
        return self._existing(owner, entry["name"]) or await self._make(owner, entry)

    def _existing(self, owner: Document, entry: str) -> Document | None:
        """The claim that the owner's status names, or one that it does not name yet."""
        named = {s["name"]: s.get("resourceClaimName") for s in _claim_statuses(owner)}.get(entry)
        namespace = owner["metadata"]["namespace"]
        found = [
            claim
            for claim in self._claims.by_index(BY_OWNER, owner["metadata"]["uid"])
            if claim["metadata"]["namespace"] == namespace
            and (
                claim["metadata"]["name"] == named
                or (claim["metadata"].get("annotations") or {}).get(POD_CLAIM_NAME) == entry
            )
        ]
        found.sort(key=lambda claim: claim["metadata"]["name"] != named)
        return found[0] if found else None

    async def _make(self, owner: Document, entry: Document) -> Document | None:
        namespace = owner["metadata"]["namespace"]
        template_name = entry["resourceClaimTemplateName"]
        template = self._templates.get(template_name, namespace)
        if template is None:
            missing = f'resourceclaimtemplate.resource.k8s.io "{template_name}" not found'
            text = f'resource claim template "{template_name}": {missing}'
            self._failed(owner, entry["name"], text)
            return None
        claim = claim_from(template, owner, entry["name"])
        try:
            return await writes.create(self._context, RESOURCE_CLAIMS, claim, namespace, fresh=True)
        except ApiError as error:
            self._failed(owner, entry["name"], f"create ResourceClaim : {error}")
            raise

    def _failed(self, owner: Document, entry: str, why: str) -> None:
        text = f"{self._entry_kind} {entry}: {why}"
        self._events.event(owner, "Warning", "FailedResourceClaimCreation", text)


def _claim_statuses(pod: Document) -> list[Document]:
    statuses: list[Document] = (pod.get("status") or {}).get("resourceClaimStatuses") or []
    return statuses


def _has_the_same(old: Document, new: Document) -> bool:
    """Whether both are one pod, which still has the claims that it had."""
    return old["metadata"]["uid"] == new["metadata"]["uid"] and _claim_statuses(
        old
    ) == _claim_statuses(new)


class ClaimGenerator:
    """Makes the claims that pods' templates ask for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("resourceclaim-generator", context, self.reconcile, WORKERS)
        self._pods = self.controller.reads(PODS)
        self._pods.on_change(self._pod_changed)
        self._maker = ClaimMaker(context, self.controller, "PodResourceClaim")
        self.controller.reads(RESOURCE_CLAIMS).on_change(self._claim_changed)
        self.controller.watches(RESOURCE_CLAIM_TEMPLATES, self._of_template)
        self._groups = self.controller.watches(POD_GROUPS, self._of_group)
        self._pods.add_index(_BY_GROUP, _group_names)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """A pod is of interest when it comes, and when what is said of its claims changes."""
        if new is None or (old is not None and _claim_statuses(old) == _claim_statuses(new)):
            return
        entries = (new.get("spec") or {}).get("resourceClaims") or ()
        if any(e.get("resourceClaimTemplateName") for e in entries):
            self.controller.enqueue((new["metadata"]["namespace"], new["metadata"]["name"]))

    def _claim_changed(self, old: Document | None, new: Document | None) -> None:
        """A claim is of interest when it comes or goes, not while it is allocated and used."""
        claim = new or old
        if claim is None or (old is not None and new is not None):
            return
        kind, name, _ = maker_of(claim)
        if kind == PODS.kind:
            self.controller.enqueue((claim["metadata"]["namespace"], name))

    def _of_template(self, template: Document) -> list[Key]:
        namespace, name = template["metadata"]["namespace"], template["metadata"]["name"]
        return [
            (namespace, pod["metadata"]["name"])
            for pod in self._pods.items(namespace)
            for entry in pod.get("spec", {}).get("resourceClaims") or ()
            if entry.get("resourceClaimTemplateName") == name
        ]

    def _of_group(self, group: Document) -> list[Key]:
        if not group.get("spec", {}).get("resourceClaims"):
            return []
        namespace = group["metadata"]["namespace"]
        return [
            (namespace, pod["metadata"]["name"])
            for pod in self._pods.by_index(_BY_GROUP, f"{namespace}/{group['metadata']['name']}")
        ]

    async def reconcile(self, key: Key) -> float | None:
        """Every entry with a template has its claim, and the pod's status names it."""
        namespace, name = key
        pod = self._pods.get(name, namespace)
        if pod is None or is_done(pod) or writes.is_terminating(pod):
            return None
        named = group_name(pod)
        group = self._groups.get(named, namespace) if named else None
        statuses: list[Document] = []
        for entry in (pod.get("spec") or {}).get("resourceClaims") or ():
            if not entry.get("resourceClaimTemplateName"):
                continue
            if named and group is None:
                return None  # whose claim it is cannot be told yet
            if is_shared(entry, group):
                claim_name = group_claims(group).get(entry["name"], "")
            else:
                claim = await self._maker.claim_for(pod, entry)
                if claim is None:
                    return None
                claim_name = claim["metadata"]["name"]
            if claim_name:  # the group's may come later, and the pod's own need not wait for it
                statuses.append({"name": entry["name"], "resourceClaimName": claim_name})
        known = (pod.get("status") or {}).get("resourceClaimStatuses") or []
        if sorted(known, key=str) != sorted(statuses, key=str):
            said: Document = {"resourceClaimStatuses": statuses}
            await writes.add_to_status(self._context, PODS, pod, said)
        return None


class ClaimCleaner:
    """Keeps ``reservedFor`` to those who still use the claim, and frees what nobody does."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("resourceclaim-cleaner", context, self.reconcile)
        self._claims = self.controller.watches(RESOURCE_CLAIMS)
        self._pods = self.controller.reads(PODS)
        self._pods.on_change(self._pod_changed)
        self._groups = self.controller.watches(POD_GROUPS, self._of_group)
        self._groups.on_change(self._note_gone)
        self._claims.add_index(BY_OWNER, owner_uids)
        self._gone: OrderedDict[str, None] = OrderedDict()

    def _note_gone(self, old: Document | None, new: Document | None) -> None:
        """Remember whom nobody has to be asked about."""
        if old is None or (new is not None and old["metadata"]["uid"] == new["metadata"]["uid"]):
            return
        if (old.get("spec") or {}).get("resourceClaims") or claim_names(old):
            self._gone[old["metadata"]["uid"]] = None
            if len(self._gone) > MAX_GONE:
                self._gone.popitem(last=False)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """A pod is of interest once it uses its claims no more, or gives up one of them."""
        self._note_gone(old, new)
        if new is not None and not is_done(new) and (old is None or _has_the_same(old, new)):
            return
        for pod in (old, new):
            for key in self._of_pod(pod) if pod is not None else ():
                self.controller.enqueue(key)

    def _of_pod(self, pod: Document) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        names = dict.fromkeys(claim_names(pod))
        for claim in self._claims.by_index(BY_OWNER, pod["metadata"]["uid"]):
            names[claim["metadata"]["name"]] = None
        return [(namespace, name) for name in names]

    def _of_group(self, group: Document) -> list[Key]:
        statuses = (group.get("status") or {}).get("resourceClaimStatuses") or ()
        entries = group.get("spec", {}).get("resourceClaims") or ()
        names = [e.get("resourceClaimName") for e in (*entries, *statuses)]
        return [(group["metadata"]["namespace"], name) for name in names if name]

    async def reconcile(self, key: Key) -> float | None:
        """Drop consumers that are gone, deallocate without consumers, delete what nobody needs."""
        namespace, name = key
        claim = self._claims.get(name, namespace)
        if claim is None:
            return None
        status = claim.get("status") or {}
        reserved = status.get("reservedFor") or []
        valid = [entry for entry in reserved if await self._uses(entry, namespace)]
        terminating = writes.is_terminating(claim)
        protected = CLAIM_FINALIZER in (claim["metadata"].get("finalizers") or ())
        if len(valid) < len(reserved) or (terminating and protected and not valid):
            updated = await self._release(claim, valid)
            if updated is None:
                return None
            claim = updated
        if not valid and not terminating and await self._is_orphan(claim, namespace):
            await writes.delete(self._context, RESOURCE_CLAIMS, claim)
        return None

    async def _uses(self, entry: Document, namespace: str) -> bool:
        if is_group_consumer(entry):
            return await self._living(self._groups, POD_GROUPS, entry, namespace) is not None
        if not is_pod_consumer(entry):
            return True  # a consumer of a kind that others look after
        pod = await self._living(self._pods, PODS, entry, namespace)
        return pod is not None and not is_done(pod)

    async def _living(
        self, informer: Informer, resource: Resource, reference: Document, namespace: str
    ) -> Document | None:
        """What a reference names, None once it is gone.

        It may have come just now: what was not seen to go is asked for, since to free the devices
        of a pod that runs cannot be made good.
        """
        name, uid = reference["name"], reference["uid"]
        known = informer.get(name, namespace)
        if known is not None and known["metadata"]["uid"] == uid:
            return known
        if uid in self._gone:
            return None
        try:
            found = await self._context.client.get(resource, name, namespace)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            return None
        return found if found["metadata"]["uid"] == uid else None

    async def _release(self, claim: Document, valid: list[Document]) -> Document | None:
        status = dict(claim.get("status") or {})
        status["reservedFor"] = valid
        if not valid:
            for field in ("reservedFor", "allocation", "devices"):
                status.pop(field, None)
        claim = await writes.update_status(self._context, RESOURCE_CLAIMS, claim, status)
        if valid:
            return claim
        return await writes.remove_finalizer(self._context, RESOURCE_CLAIMS, claim, CLAIM_FINALIZER)

    async def _is_orphan(self, claim: Document, namespace: str) -> bool:
        """Whether the claim was made for a pod that will not run any more, or a group now gone."""
        kind, name, uid = maker_of(claim)
        maker = {"name": name, "uid": uid}
        if kind == POD_GROUPS.kind:
            return await self._living(self._groups, POD_GROUPS, maker, namespace) is None
        if kind != PODS.kind:
            return False
        pod = await self._living(self._pods, PODS, maker, namespace)
        return pod is None or is_done(pod)
