"""Server-side apply and update tracking over the entries of ``metadata.managedFields``."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from kubarium.api.managed_fields import fieldset
from kubarium.api.managed_fields.created import created_set
from kubarium.api.managed_fields.fieldset import FieldSet
from kubarium.api.managed_fields.typed import applied_set, compare, merge, prune, reordered
from kubarium.api.resource import Document
from kubarium.api.schema import Schema
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, bad_request

MAX_UPDATE_MANAGERS = 10  # upstream's cap; older ones are merged into one entry
ANCIENT_CHANGES = "ancient-changes"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MAX_MANAGER_LENGTH = 128


class Owner(NamedTuple):
    """What tells entries apart; an applier is the same in every version of the API."""

    manager: str
    operation: str
    api_version: str
    subresource: str

    def __str__(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            text += f" using {self.api_version}"
        return text


Entry = dict[str, Any]


def track_update(
    old: Document | None,
    new: Document,
    *,
    manager: str,
    schema: Schema | None,
    now: float,
    subresource: str = "",
    operation: str = "Update",
) -> Document:
    """The new document with ``managedFields`` brought up to date after a write that is no apply.

    ``manager`` becomes owner of every field that the write added or changed, others lose it;
    ``now`` is epoch seconds. A write that changed no tracked field leaves the entries and their
    times alone. Managed fields that the writer changed on purpose are taken as they are, and an
    empty list resets them. Neither input is changed. Raises ApiError 400 for malformed entries.
    """
    metadata = new.get("metadata") or {}
    given = metadata.get("managedFields")
    owner = Owner(manager, operation, new.get("apiVersion", ""), subresource)
    if old is None and given is None:
        fields = created_set(new, schema)
        return _with_entries(new, [_entry(owner, fields, now)]) if fields else new
    stored = (old or {}).get("metadata", {}).get("managedFields")
    if given is not stored and given != stored and given is not None:
        if given in ([], [{}]):
            return _with_entries(new, None)
        entries = _checked_entries(given)
    else:
        entries = stored or []
    difference = compare(old or {}, new, schema)
    if not difference:
        return new if given is entries or given == entries else _with_entries(new, entries or None)
    entries = _after_write(entries, owner, difference.changed, difference.removed, now)
    return _with_entries(new, entries or None)


def _after_write(
    entries: list[Entry], owner: Owner, changed: FieldSet, removed: FieldSet, now: float
) -> list[Entry]:
    """The entries after a write: what it changed is the owner's, what it removed is nobody's."""
    result: list[Entry] = []
    mine: Entry | None = None
    for entry in entries:
        fields = entry.get("fieldsV1")
        rest = fieldset.recursive_difference(fields, removed) if removed else fields
        if mine is None and _is(entry, owner):
            mine = entry if rest is fields else entry | {"fieldsV1": rest}
            continue
        if changed:
            rest = fieldset.difference(rest, changed)
        if rest is fields:
            result.append(entry)
        elif rest is not None:
            result.append(entry | {"fieldsV1": rest})
    own = fieldset.union(mine["fieldsV1"] if mine else None, changed or None)
    if own is not None:
        if mine is None or changed or own is not mine["fieldsV1"]:
            mine = _entry(owner, own, now)
        result.append(mine)
    return _capped(_sorted(result))


def _is(entry: Entry, owner: Owner) -> bool:
    return (
        entry.get("manager", "") == owner.manager
        and entry.get("operation") == owner.operation
        and entry.get("subresource", "") == owner.subresource
        and (owner.operation == "Apply" or entry.get("apiVersion") == owner.api_version)
    )


def _entry(owner: Owner, fields: FieldSet, now: float) -> Entry:
    entry = {
        "manager": owner.manager,
        "operation": owner.operation,
        "apiVersion": owner.api_version,
        "time": rfc3339(now),
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if owner.subresource:
        entry["subresource"] = owner.subresource
    return entry


def _sorted(entries: list[Entry]) -> list[Entry]:
    """Appliers first, then by time, manager, version and subresource, as upstream stores them."""
    if len(entries) > 1:
        entries.sort(
            key=lambda e: (
                e.get("operation", ""),
                e.get("time", ""),
                e.get("manager", ""),
                e.get("apiVersion", ""),
                e.get("subresource", ""),
            )
        )
    return entries


def _capped(entries: list[Entry]) -> list[Entry]:
    """At most MAX_UPDATE_MANAGERS updaters: the oldest ones of a version share one entry."""
    if len(entries) <= MAX_UPDATE_MANAGERS:
        return entries
    updaters = [entry for entry in entries if entry.get("operation") == "Update"]
    if len(updaters) <= MAX_UPDATE_MANAGERS:
        return entries
    surplus = updaters[: len(updaters) - MAX_UPDATE_MANAGERS + 1]
    buckets: dict[str, Entry] = {}
    for entry in surplus:
        version = entry.get("apiVersion", "")
        bucket = buckets.get(version)
        fields = fieldset.union(bucket["fieldsV1"] if bucket else None, entry["fieldsV1"])
        buckets[version] = {
            "manager": ANCIENT_CHANGES,
            "operation": "Update",
            "apiVersion": version,
            "time": max(bucket["time"] if bucket else "", entry.get("time", "")),
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
    kept = [entry for entry in entries if not any(entry is gone for gone in surplus)]
    return _sorted([*kept, *buckets.values()])


def _with_entries(document: Document, entries: list[Entry] | None) -> Document:
    metadata = dict(document.get("metadata") or {})
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)
    return document | {"metadata": metadata}


def _checked_entries(given: Any) -> list[Entry]:
    if not isinstance(given, list):
        raise bad_request("metadata.managedFields must be an array")
    for at, entry in enumerate(given):
        where = f"metadata.managedFields[{at}]"
        if not isinstance(entry, dict):
            raise bad_request(f"{where} must be an object")
        if entry.get("operation") not in ("Apply", "Update"):
            raise bad_request(
                f'{where}.operation: Invalid value: "{entry.get("operation")}": must be `Apply` or '
                "`Update`"
            )
        fields_type = entry.get("fieldsType")
        if fields_type != "FieldsV1":
            raise bad_request(
                f'{where}.fieldsType: Invalid value: "{fields_type}": must be `FieldsV1`'
            )
        fieldset.check(entry.get("fieldsV1"), where)
    return given


# --- apply ----------------------------------------------------------------------------------------


def apply(
    live: Document | None,
    applied: Document,
    *,
    manager: str,
    force: bool,
    schema: Schema | None,
    now: float,
    subresource: str = "",
) -> Document:
    """Server-side apply: the object that results when ``manager`` states all fields it wants.

    Fields that it applied before, leaves out now and that nobody else owns are removed. A field
    that another manager owns with another value is a conflict: ApiError 409 that lists them all,
    unless ``force`` takes them over. Returns ``live`` itself if nothing changes, the timestamps
    included. ``schema`` None treats lists as atomic. Neither input is changed.
    """
    _check_applied(applied, manager)
    config = _without_managed_fields(applied)
    owner = Owner(manager, "Apply", applied.get("apiVersion", ""), subresource)
    fields = applied_set(config, schema)
    if live is None:
        return _with_entries(config, [_entry(owner, fields, now)] if fields else None)
    entries = (live.get("metadata") or {}).get("managedFields") or []
    last = next((entry["fieldsV1"] for entry in entries if _is(entry, owner)), None)
    others = [entry for entry in entries if not _is(entry, owner)]
    bare = _without_managed_fields(live)
    merged: Document = merge(bare, config, schema)
    if last:
        # Metadata is never removed as a whole, whoever owned the last label.
        owned = fieldset.union(fields, {"f:metadata": {}})
        for entry in others:
            owned = fieldset.union(owned, entry.get("fieldsV1"))
        merged = prune(merged, last, owned, schema)
    difference = compare(bare, merged, schema)
    if not difference and last == fields and not reordered(bare, merged):
        return live
    if not force:
        _refuse_conflicts(others, difference.changed)
    remaining = _yielded(others, difference.changed, difference.removed)
    if fields:
        remaining.append(_entry(owner, fields, now))
    return _with_entries(_sync_last_applied(live, merged, config, manager), _sorted(remaining))


def _check_applied(applied: Document, manager: str) -> None:
    if not manager:
        raise bad_request("fieldManager is required for apply patch")
    if (applied.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")


def _without_managed_fields(document: Document) -> Document:
    metadata = document.get("metadata") or {}
    if "managedFields" not in metadata:
        return document
    rest = {key: value for key, value in metadata.items() if key != "managedFields"}
    return document | {"metadata": rest}


def _yielded(others: list[Entry], changed: FieldSet, removed: FieldSet) -> list[Entry]:
    """The entries of the others without the fields that the apply took or removed."""
    result = []
    for entry in others:
        fields = entry.get("fieldsV1")
        rest = fieldset.difference(fieldset.recursive_difference(fields, removed or None), changed)
        if rest is not None:
            result.append(entry if rest is fields else entry | {"fieldsV1": rest})
    return result


def _refuse_conflicts(others: list[Entry], changed: FieldSet) -> None:
    conflicts: list[tuple[Owner, str]] = []
    for entry in others:
        owner = Owner(
            entry.get("manager", ""),
            entry.get("operation", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        both = fieldset.intersection(entry.get("fieldsV1"), changed)
        conflicts += [(owner, path) for path in fieldset.paths(both)]
    if conflicts:
        raise conflict_error(conflicts)


def conflict_error(conflicts: list[tuple[Owner, str]]) -> ApiError:
    """409 with one cause for each field that somebody else owns."""
    conflicts = sorted(conflicts, key=lambda c: (str(c[0]), c[1]))
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": path}
        for owner, path in conflicts
    ]
    if len(conflicts) == 1:
        owner, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {owner}: {path}"
    else:
        lines: list[str] = []
        for owner, path in conflicts:
            heading = f"conflicts with {owner}:"
            if heading not in lines:
                lines.append(heading)
            lines.append(f"- {path}")
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, {"causes": causes})


def _sync_last_applied(
    live: Document, merged: Document, config: Document, manager: str
) -> Document:
    """kubectl's own record of what it applied follows, so that both kinds of apply may be mixed."""
    annotations = (live.get("metadata") or {}).get("annotations") or {}
    if manager != "kubectl" or LAST_APPLIED not in annotations:
        return merged
    metadata = merged["metadata"]
    recorded = dict(metadata.get("annotations") or {})
    recorded[LAST_APPLIED] = orjson.dumps(config).decode() + "\n"
    return merged | {"metadata": metadata | {"annotations": recorded}}
