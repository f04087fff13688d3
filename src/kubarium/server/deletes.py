"""delete and deletecollection: grace, finalizers, propagation (upstream: ``rest/delete.go``).

A deletion goes through at most three states, of which most kinds only know the last:

    marked, grace running   deletionTimestamp and deletionGracePeriodSeconds > 0 (bound pods)
    marked, held            deletionTimestamp, and finalizers that others still have to remove
    gone                    the record is deleted; watchers see its last state
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import FieldError, conflict, invalid
from kubarium.server.admission.chain import DELETE, Attempt, Chain
from kubarium.server.metadata import Metadata
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, DeleteOptions
from kubarium.server.strategy import Strategies
from kubarium.store.log import Record

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
# A century: what is longer is for ever, and could not be written as a moment.
MAX_GRACE_S = 100 * 365 * 24 * 3600
_POLICIES = ("Foreground", "Background", "Orphan")

# Seconds of grace for a document, or None if its kind is deleted at once: (document, asked for).
GracePeriod = Callable[[Document, int | None], int | None]


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion left: the last state, and whether the object is gone."""

    document: Document
    gone: bool


class Deletes:
    """The deleting verbs over one registry."""

    def __init__(
        self,
        registry: Registry,
        strategies: Strategies,
        admission: Chain,
        grace_of: dict[tuple[str, str], GracePeriod],
    ) -> None:
        self._registry = registry
        self._strategies = strategies
        self._admission = admission
        self._grace_of = grace_of

    def delete(
        self, kind: Kind, name: str, namespace: str, options: DeleteOptions, call: Call
    ) -> Deleted:
        """Delete an object, or mark it and leave the rest to those it waits for.

        ApiError 404, 409 (preconditions) or 422 (options).
        """
        check_delete_options(options)
        registry = self._registry
        record = registry.fetch(kind, namespace, name)
        old = registry.present(kind, record.value)
        _check_preconditions(kind, old["metadata"], options)
        attempt = Attempt(registry, call, DELETE, kind, namespace, name, "", {}, old)
        self._admission.run(attempt)
        self._admission.validate(attempt)
        return self._delete(kind, record, old, options, call)

    def _delete(
        self, kind: Kind, record: Record, old: Document, options: DeleteOptions, call: Call
    ) -> Deleted:
        registry = self._registry
        dry_run = options.dry_run or call.dry_run
        metadata = dict(old["metadata"])
        grace_s, pending = self._grace(kind, old, options.grace_period_s)
        finalizers = self._finalizers(kind, metadata, options.propagation_policy)
        if pending and finalizers == (metadata.get("finalizers") or []):
            return Deleted(old, gone=False)
        if not pending and not grace_s and not finalizers and not self._holds_itself(kind, old):
            marked = self._final_state(kind, old, metadata, grace_s)
            return Deleted(registry.remove(kind, record, dry_run, marked), gone=True)
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        if not pending:
            self._mark(metadata, grace_s or 0)
        new = old | {"metadata": metadata}
        if (kind.resource.group, kind.resource.plural) == ("", "namespaces"):
            new["status"] = (old.get("status") or {}) | {"phase": "Terminating"}
        if new == old:
            return Deleted(old, gone=False)
        return Deleted(registry.commit(kind, new, record, dry_run), gone=False)

    def _grace(self, kind: Kind, old: Document, asked: int | None) -> tuple[int | None, bool]:
        """(seconds of grace, whether a deletion under way already covers this one)."""
        metadata = old["metadata"]
        rule = self._grace_of.get((kind.resource.group, kind.resource.plural))
        if "deletionTimestamp" in metadata:
            running = metadata.get("deletionGracePeriodSeconds")
            if rule is None or not running:
                return 0, False
            # A deletion under way can only be made shorter.
            if asked is None or asked >= running:
                return running, True
            return max(asked, 0), False
        return (None if rule is None else rule(old, asked)), False

    def _finalizers(self, kind: Kind, metadata: Metadata, policy: str) -> list[str]:
        """The finalizers with those that the propagation policy asks for."""
        current: list[str] = list(metadata.get("finalizers") or ())
        if not policy:
            if not self._strategies.of(kind).orphans_by_default:
                return current
            if ORPHAN in current or FOREGROUND in current:
                return current
            policy = "Orphan"
        kept = [name for name in current if name not in (ORPHAN, FOREGROUND)]
        if policy == "Orphan":
            return [*kept, ORPHAN]
        if policy == "Foreground":
            return [*kept, FOREGROUND]
        return kept

    def _holds_itself(self, kind: Kind, old: Document) -> bool:
        """A namespace stays until its content is gone, whatever its metadata says."""
        if (kind.resource.group, kind.resource.plural) != ("", "namespaces"):
            return False
        return bool((old.get("spec") or {}).get("finalizers"))

    def _mark(self, metadata: Metadata, grace_s: int) -> None:
        """Set or bring forward the moment of deletion, which is when grace has run out."""
        grace_s = min(grace_s, MAX_GRACE_S)
        if "deletionTimestamp" in metadata:
            running = metadata.get("deletionGracePeriodSeconds") or 0
            if running > grace_s:
                begun = parse_rfc3339(metadata["deletionTimestamp"]) - running
                metadata["deletionTimestamp"] = rfc3339(begun + grace_s)
                metadata["deletionGracePeriodSeconds"] = grace_s
            return
        metadata["deletionTimestamp"] = rfc3339(self._registry.clock.now() + grace_s)
        metadata["deletionGracePeriodSeconds"] = grace_s
        if metadata.get("generation"):
            metadata["generation"] += 1  # being deleted is a change of what is desired

    def _final_state(
        self, kind: Kind, old: Document, metadata: Metadata, grace_s: int | None
    ) -> Document | None:
        """The last state in the storage version if it differs from what is stored."""
        if grace_s is None or not kind.is_storage_version:
            return None
        self._mark(metadata, 0)
        metadata.pop("finalizers", None)
        return old | {"metadata": metadata}

    def finish(self, kind: Kind, record: Record, new: Document, call: Call) -> Document:
        """Delete an object whose last finalizer an update removed; returns its last state."""
        final = new if kind.is_storage_version else None
        return self._registry.remove(kind, record, call.dry_run, final)


def check_delete_options(options: DeleteOptions) -> None:
    """ApiError 422 for a policy that does not exist."""
    policy = options.propagation_policy
    if policy and policy not in _POLICIES:
        supported = ", ".join(f'"{name}"' for name in (*_POLICIES, "nil"))
        detail = f"supported values: {supported}"
        error = FieldError("NotSupported", "propagationPolicy", policy, detail)
        raise invalid("DeleteOptions", "meta.k8s.io", "", [error])


def _check_preconditions(kind: Kind, metadata: Metadata, options: DeleteOptions) -> None:
    """ApiError 409, which names the kind where other conflicts name the resource."""
    uid, version = options.uid, options.resource_version
    if uid and uid != metadata["uid"]:
        why = (
            f"the UID in the precondition ({uid}) does not match the UID in record "
            f"({metadata['uid']}). The object might have been deleted and then recreated"
        )
    elif version and version != metadata["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({version}) does not match the "
            f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have "
            "been modified"
        )
    else:
        return
    raise conflict(kind.resource.kind, kind.resource.group, metadata["name"], why)
