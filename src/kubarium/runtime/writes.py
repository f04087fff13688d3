"""The few idioms of writing that every controller repeats.

All of them tell the informer what came back (see ``SharedInformer.observe``), so that the next
reconcile reads its own writes and no expectations are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kubarium.api.resource import Document, Resource
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.client.protocol import MERGE_PATCH
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context


async def create(
    context: Context,
    resource: Resource,
    document: Document,
    namespace: str = "",
    *,
    fresh: bool = False,
) -> Document:
    """Create and remember the answer; ``fresh`` as in :class:`kubarium.client.protocol.Writer`."""
    created = await context.client.create(resource, document, namespace, fresh=fresh)
    context.informers.get(resource).observe(created)
    return created


async def update(
    context: Context, resource: Resource, document: Document, *, fresh: bool = False
) -> Document:
    """Replace (with the document's resourceVersion as the condition) and remember the answer."""
    namespace = document["metadata"].get("namespace", "")
    updated = await context.client.update(resource, document, namespace, fresh=fresh)
    context.informers.get(resource).observe(updated)
    return updated


async def update_status(
    context: Context,
    resource: Resource,
    document: Document,
    status: Document,
    *,
    fresh: bool = False,
) -> Document:
    """Replace the status of ``document`` if it differs; Conflict when the object has moved on.

    ``fresh``: the status is the caller's to give away and has its kind's types for sure.
    """
    if document.get("status", {}) == status:
        return document
    namespace = document["metadata"].get("namespace", "")
    updated = await context.client.update(
        resource,
        {**document, "status": status},
        namespace,
        subresource="status",
        fresh=fresh,
    )
    context.informers.get(resource).observe(updated)
    return updated


async def add_to_status(
    context: Context, resource: Resource, document: Document, fields: Document
) -> Document:
    """Set fields of the status of the object that ``document`` shows, and leave its others alone.

    An update if nobody wrote to the object since, which is cheaper, else a patch of these fields;
    they are the caller's to give away and have their kind's types for sure.
    """
    status = {**(document.get("status") or {}), **fields}
    try:
        return await update_status(context, resource, document, status, fresh=True)
    except ApiError as error:
        if error.reason != "Conflict":
            raise
    change: Document = {"metadata": {"uid": document["metadata"]["uid"]}, "status": fields}
    return await patch(context, resource, document, change, subresource="status")


async def patch(
    context: Context,
    resource: Resource,
    document: Document,
    change: Document | list[Document],
    *,
    patch_type: str = MERGE_PATCH,
    subresource: str = "",
) -> Document:
    """Patch the object that ``document`` shows and remember the answer.

    Put ``metadata.uid`` or ``metadata.resourceVersion`` into a merge patch to make it conditional.
    """
    metadata = document["metadata"]
    patched = await context.client.patch(
        resource,
        metadata["name"],
        change,
        metadata.get("namespace", ""),
        patch_type=patch_type,
        subresource=subresource,
    )
    context.informers.get(resource).observe(patched)
    return patched


async def delete(
    context: Context,
    resource: Resource,
    document: Document,
    *,
    propagation_policy: str = "",
    grace_period_s: int | None = None,
) -> bool:
    """Delete exactly this object (by uid); True if it was there. Safe to repeat."""
    metadata = document["metadata"]
    informer = context.informers.get(resource)
    try:
        answer = await context.client.delete(
            resource,
            metadata["name"],
            metadata.get("namespace", ""),
            uid=metadata.get("uid", ""),
            propagation_policy=propagation_policy,
            grace_period_s=grace_period_s,
        )
    except ApiError as error:
        # Conflict: another object has the name now (the uid differs). Either way ours is gone.
        if error.reason in ("NotFound", "Conflict"):
            informer.forget(document)
            return False
        raise
    if _waits(answer):
        informer.observe(answer)
    else:
        informer.forget(document)
    return True


def _waits(answer: Document) -> bool:
    """Whether the answer to a delete shows an object that still waits to go."""
    metadata = answer.get("metadata") or {}
    if answer.get("kind") == "Status" or "deletionTimestamp" not in metadata:
        return False
    return bool(metadata.get("finalizers")) or metadata.get("deletionGracePeriodSeconds", 0) > 0


async def add_finalizer(
    context: Context, resource: Resource, document: Document, finalizer: str
) -> Document:
    """Add a finalizer if absent; Conflict when the object has moved on."""
    held = document["metadata"].get("finalizers", [])
    if finalizer in held:
        return document
    return await _set_finalizers(context, resource, document, [*held, finalizer])


async def remove_finalizer(
    context: Context, resource: Resource, document: Document, finalizer: str
) -> Document | None:
    """Remove a finalizer; None when the object is gone (also because this was the last one)."""
    held = document["metadata"].get("finalizers", [])
    if finalizer not in held:
        return document
    kept = [name for name in held if name != finalizer]
    try:
        return await _set_finalizers(context, resource, document, kept)
    except ApiError as error:
        if error.reason == "NotFound":
            context.informers.get(resource).forget(document)
            return None
        raise


async def _set_finalizers(
    context: Context, resource: Resource, document: Document, finalizers: list[str]
) -> Document:
    metadata = document["metadata"]
    change = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": finalizers or None,
        }
    }
    namespace = metadata.get("namespace", "")
    patched = await context.client.patch(
        resource, metadata["name"], change, namespace, patch_type=MERGE_PATCH
    )
    informer = context.informers.get(resource)
    if is_terminating(patched) and not finalizers and not _waits(patched):
        informer.forget(document)
    else:
        informer.observe(patched)
    return patched


# conditions


def find_condition(document_or_status: Document, type_: str) -> Document | None:
    """The condition of that type in an object (or in a status), or None."""
    status = document_or_status.get("status", document_or_status)
    for condition in status.get("conditions") or ():
        if condition.get("type") == type_:
            return dict(condition)
    return None


def condition_is_true(document_or_status: Document, type_: str) -> bool:
    """Whether the condition is there with status "True"."""
    condition = find_condition(document_or_status, type_)
    return condition is not None and condition.get("status") == "True"


def set_condition(
    conditions: Sequence[Document],
    type_: str,
    status: str,
    reason: str,
    message: str,
    now: float,
    **extra: Any,
) -> list[Document]:
    """New conditions with this one set; ``lastTransitionTime`` moves only when status changes.

    ``extra`` adds fields such as ``observedGeneration`` or ``lastProbeTime``.
    """
    new: Document = {
        "type": type_,
        "status": status,
        "lastTransitionTime": rfc3339(now),
        "reason": reason,
        "message": message,
        **extra,
    }
    result: list[Document] = []
    found = False
    for condition in conditions:
        if condition.get("type") != type_:
            result.append(condition)
            continue
        found = True
        if condition.get("status") == status and "lastTransitionTime" in condition:
            new["lastTransitionTime"] = condition["lastTransitionTime"]
        result.append(new)
    return result if found else [*result, new]


# owners


def owner_reference(
    document: Document, *, controller: bool = True, block_owner_deletion: bool = True
) -> Document:
    """An ownerReference to ``document``."""
    reference = {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "name": document["metadata"]["name"],
        "uid": document["metadata"]["uid"],
    }
    if controller:
        reference["controller"] = True
    if block_owner_deletion:
        reference["blockOwnerDeletion"] = True
    return reference


_NOBODY = {"apiVersion": "", "kind": "", "name": "", "uid": ""}


def controller_of(document: Mapping[str, Any]) -> Document | None:
    """The ownerReference with ``controller: true``, or None; what it does not say is ""."""
    for reference in document["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return {**_NOBODY, **reference}
    return None


def is_controlled_by(document: Mapping[str, Any], owner: Document) -> bool:
    """Whether ``owner`` (by uid) is the controller of ``document``."""
    reference = controller_of(document)
    return reference is not None and reference["uid"] == owner["metadata"]["uid"]


CONTROLLER_UID = "controller-uid"


@of_metadata
def controller_uid_index(document: Document) -> Iterable[str]:
    """Index function: the uid of the controller. Add it under the name ``CONTROLLER_UID``."""
    for reference in document["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return (str(reference.get("uid", "")),)
    return ()


def is_terminating(document: Document) -> bool:
    """Whether deletion has begun."""
    return "deletionTimestamp" in document["metadata"]
