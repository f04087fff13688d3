"""System fields of ``metadata`` (upstream: ``apiserver/pkg/registry/rest``, create and update)."""

from __future__ import annotations

from typing import Any

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, bad_request, conflict, invalid
from kubarium.server.limits import MAX_GENERATED_BASE
from kubarium.server.registry import Registry

# What a client can never set; on update they come from what is stored.
_SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")

Metadata = dict[str, Any]


def take_metadata(document: Document) -> Metadata:
    """``metadata`` of a document from outside; ApiError 400 if it is not an object."""
    metadata = document.get("metadata")
    if metadata is None:
        metadata = document["metadata"] = {}
    if not isinstance(metadata, dict):
        raise bad_request("unable to decode: metadata must be an object")
    for name in ("name", "generateName", "namespace", "resourceVersion", "uid"):
        value = metadata.get(name, "")
        if value is None:
            del metadata[name]
        elif not isinstance(value, str):
            raise bad_request(f"unable to decode: metadata.{name} must be a string")
    return metadata


def place(kind: Kind, metadata: Metadata, namespace: str) -> None:
    """Make ``metadata.namespace`` that of the request; ApiError 400 if they contradict."""
    given = metadata.get("namespace", "")
    if not kind.namespaced:
        if given:
            raise bad_request("namespace is not allowed on cluster-scoped resources")
        metadata.pop("namespace", None)
        return
    if given and given != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    metadata["namespace"] = namespace


def generate_name(registry: Registry, metadata: Metadata) -> bool:
    """Fill ``name`` from ``generateName``; whether it did."""
    base = metadata.get("generateName")
    if metadata.get("name") or not base:
        return False
    metadata["name"] = base[:MAX_GENERATED_BASE] + registry.chance.suffix()
    return True


def stamp_new(registry: Registry, metadata: Metadata, generation: bool) -> None:
    """Give a new object its identity."""
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(name, None)
    metadata["uid"] = registry.chance.uid()
    metadata["creationTimestamp"] = registry.now()
    if generation:
        metadata["generation"] = 1


def check_new(kind: Kind, metadata: Metadata) -> None:
    """What no new object may carry or lack; ApiError 400 or 422."""
    if metadata.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    if not metadata.get("name") and not metadata.get("generateName"):
        detail = "name or generateName is required"
        error = FieldError("Required", "metadata.name", detail=detail)
        raise invalid(kind.resource.kind, kind.resource.group, "", [error])


def check_same_name(metadata: Metadata, name: str) -> None:
    """ApiError 400 if the document is about another object than the URL."""
    given = metadata.get("name", "")
    if not given:
        raise bad_request("name must be provided")
    if given != name:
        raise bad_request(
            f"the name of the object ({given}) does not match the name on the URL ({name})"
        )


def check_version(
    kind: Kind, new: Metadata, old: Metadata, unconditional: bool, subject: str
) -> None:
    """Optimistic lock and identity of an update; ApiError 409 or 422."""
    group, plural = kind.resource.group, kind.resource.plural
    version = new.get("resourceVersion", "")
    if version in ("", "0"):
        if not unconditional:
            detail = "must be specified for an update"
            error = FieldError("Invalid", "metadata.resourceVersion", 0, detail)
            raise invalid(kind.resource.kind, group, subject, [error])
    elif version != old["resourceVersion"]:
        if not version.isdecimal():
            error = FieldError("Invalid", "metadata.resourceVersion", version, "must be an integer")
            raise invalid(kind.resource.kind, group, subject, [error])
        raise conflict(plural, group, subject)
    uid = new.get("uid", "")
    if uid and uid != old.get("uid"):
        known = old.get("uid", "")
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
        raise conflict(plural, group, subject, why)


def keep_system_fields(new: Metadata, old: Metadata) -> None:
    """Put the stored system fields into the fresh metadata of an update."""
    for name in _SYSTEM_FIELDS:
        if name in old:
            new[name] = old[name]
        else:
            new.pop(name, None)
    new["resourceVersion"] = old["resourceVersion"]
    new.pop("selfLink", None)
    if "generation" in old:
        new["generation"] = old["generation"]
    else:
        new.pop("generation", None)
    if "generateName" in old:
        new.setdefault("generateName", old["generateName"])


def check_finalizers(kind: Kind, new: Metadata, old: Metadata) -> None:
    """While an object is being deleted, finalizers only go away; ApiError 422."""
    if "deletionTimestamp" not in old:
        return
    known = old.get("finalizers") or ()
    added = [name for name in new.get("finalizers") or () if name not in known]
    if added:
        quoted = " ".join(f'"{name}"' for name in added)
        detail = (
            "no new finalizers can be added if the object is being deleted, "
            f"found new finalizers []string{{{quoted}}}"
        )
        error = FieldError("Forbidden", "metadata.finalizers", detail=detail)
        raise invalid(kind.resource.kind, kind.resource.group, old["name"], [error])
