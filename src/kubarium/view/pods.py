"""Pod documents as engine rows. Pods from one template share one shape, found by a cheap key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import orjson

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.engine.devices.model import Amount
from kubarium.engine.model import (
    ClaimShare,
    Key,
    Overhead,
    Pod,
    PodPart,
    PodShape,
    SpreadConstraint,
)
from kubarium.engine.placement.node_claims import charged
from kubarium.view.consumers import group_name
from kubarium.view.devices import node_amount, shown
from kubarium.view.locality import data_of
from kubarium.view.pod_requests import container_amounts, resized, whole_amounts
from kubarium.view.pod_shapes import shape_of, shaping, shaping_values
from kubarium.view.spreading import Spreading
from kubarium.view.volumes import disks, own_volume_keys, volume_keys

# Shapes remembered by a reader; a cluster has as many as it has pod templates.
MAX_SHAPES = 4096


def node_of(document: Document) -> str:
    """The node that the pod has; "" while it has none."""
    name: str = (document.get("spec") or {}).get("nodeName") or ""
    return name


def is_finished(document: Document) -> bool:
    """Whether all containers have ended for good, so that the pod holds nothing."""
    return (document.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_gated(document: Document) -> bool:
    """Whether a scheduling gate keeps the pod from being considered."""
    return bool((document.get("spec") or {}).get("schedulingGates"))


def seconds(timestamp: object, otherwise: float = 0.0) -> float:
    """A timestamp in seconds since the epoch; ``otherwise`` if it is missing or malformed."""
    try:
        return parse_rfc3339(timestamp) if isinstance(timestamp, str) else otherwise
    except ValueError:
        return otherwise


def is_deferred(document: Document) -> bool:
    """Whether the pod's node has no room yet for a resize of it."""
    return any(
        (c.get("type"), c.get("status"), c.get("reason"))
        == ("PodResizePending", "True", "Deferred")
        for c in (document.get("status") or {}).get("conditions") or ()
    )


# The label by which scheduler-plugins' coscheduling names a pod's group.
POD_GROUP_LABEL = "scheduling.x-k8s.io/pod-group"


def gang_key(document: Document) -> Key | None:
    """The PodGroup that the pod belongs to: ``spec.schedulingGroup.podGroupName``, or the label."""
    name = group_name(document) or (document["metadata"].get("labels") or {}).get(POD_GROUP_LABEL)
    return (document["metadata"].get("namespace", ""), name) if name else None


def claims_by_entry(document: Document) -> dict[str, Key]:
    """The ResourceClaims of the pod, by its own names for them.

    A claim still to be made from its template appears under ``<pod>-<entry>``, a name that no
    claim bears. Entries whose generated claim is recorded as unneeded are left out.
    """
    spec = document.get("spec") or {}
    entries = spec.get("resourceClaims")
    if not entries:
        return {}
    namespace, name = document["metadata"].get("namespace", ""), document["metadata"]["name"]
    made = {
        s.get("name"): s.get("resourceClaimName")
        for s in (document.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    keys: dict[str, Key] = {}
    for entry in entries:
        direct = entry.get("resourceClaimName")
        if direct:
            keys[entry["name"]] = (namespace, direct)
        elif entry["name"] not in made:
            keys[entry["name"]] = (namespace, f"{name}-{entry['name']}")
        elif made[entry["name"]]:
            keys[entry["name"]] = (namespace, made[entry["name"]])
    return keys


# A container as all pods of a template have it, and the entries whose claims it uses.
_Part = tuple[PodPart, tuple[str, ...]]


def _parts(spec: Document) -> list[_Part]:
    """The containers in the order in which they start, with their requests."""
    found = []
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind) or ():
            resources = container.get("resources") or {}
            initial = kind == "initContainers"
            part = PodPart(
                container.get("name", ""),
                tuple(sorted(container_amounts(resources).items())),
                (),
                initial,
                initial and container.get("restartPolicy") != "Always",
                tuple(sorted(whole_amounts(resources.get("limits")).items())),
            )
            found.append((part, tuple(c["name"] for c in resources.get("claims") or ())))
    return found


def _with_claims(parts: Iterable[_Part], claims: Mapping[str, Key]) -> tuple[PodPart, ...]:
    """The containers of one pod, each with the claims that it uses."""
    return tuple(
        part
        if not used
        else _using(part, tuple(dict.fromkeys(claims[n] for n in used if n in claims)))
        for part, used in parts
    )


def _using(part: PodPart, claims: tuple[Key, ...]) -> PodPart:
    return PodPart(part.name, part.requests, claims, part.initial, part.brief, part.limits)


def _pod_level(spec: Document, field: str) -> tuple[tuple[str, int], ...]:
    """The pod's own ``requests`` or ``limits``."""
    return tuple(sorted(whole_amounts((spec.get("resources") or {}).get(field)).items()))


def claim_shares(document: Document) -> tuple[ClaimShare, ...]:
    """What the pod's status says that its claims take of the node (KEP-5517)."""
    namespace = document["metadata"].get("namespace", "")
    statuses = (document.get("status") or {}).get("nodeAllocatableResourceClaimStatuses")
    return tuple(
        ClaimShare(
            (namespace, status.get("resourceClaimName", "")),
            tuple(status.get("containers") or ()),
            tuple(
                (m["name"], node_amount(m["name"], m.get("quantity")) or 0)
                for m in status.get("mapping") or ()
            ),
            tuple(
                Overhead(
                    o["name"],
                    node_amount(o["name"], o.get("perPod")),
                    node_amount(o["name"], o.get("perContainer")),
                )
                for o in status.get("overhead") or ()
            ),
        )
        for status in statuses or ()
    )


def claim_shares_document(shares: Iterable[ClaimShare]) -> list[Document]:
    """``status.nodeAllocatableResourceClaimStatuses`` for what the engine decided."""
    found: list[Document] = []
    for share in sorted(shares, key=lambda s: s.claim):
        entry: Document = {"resourceClaimName": share.claim[1]}
        if share.containers:
            entry["containers"] = list(share.containers)
        if share.mapped:
            entry["mapping"] = [
                {"name": name, "quantity": _quantity(name, amount)} for name, amount in share.mapped
            ]
        if share.overhead:
            entry["overhead"] = [_overhead(over) for over in share.overhead]
        found.append(entry)
    return found


def _overhead(over: Overhead) -> Document:
    entry: Document = {"name": over.name}
    if over.per_pod is not None:
        entry["perPod"] = _quantity(over.name, over.per_pod)
    if over.per_container is not None:
        entry["perContainer"] = _quantity(over.name, over.per_container)
    return entry


def _quantity(resource: str, value: Amount) -> str:
    return shown(Fraction(value) / 1000 if resource == "cpu" else value)


def is_preempted(status: Document) -> bool:
    """Whether the scheduler is what disrupts the pod."""
    found = (c for c in status.get("conditions") or () if c.get("type") == "DisruptionTarget")
    condition: Document = next(found, {})
    return (condition.get("status"), condition.get("reason")) == ("True", "PreemptionByScheduler")


class PodReader:
    """Turns pods into rows and keeps the shapes it has seen."""

    def __init__(self) -> None:
        self._shapes: dict[bytes, PodShape] = {}
        # Pods of one template share the parts of their specs, which are found sooner by identity;
        # to be held here is what keeps another object from taking over an id.
        self._by_values: dict[tuple[int, ...], tuple[list[Any], PodShape]] = {}
        self._parts_of: dict[tuple[int, int], tuple[list[Any], list[_Part]]] = {}
        self.spreading = Spreading()

    def row(self, document: Document) -> Pod:
        """The engine's view of a pod."""
        metadata, spec = document["metadata"], document.get("spec") or {}
        status = document.get("status") or {}
        by_entry = claims_by_entry(document)
        claims = tuple(dict.fromkeys(by_entry.values()))
        shares = claim_shares(document)
        pod = Pod(
            (metadata.get("namespace", ""), metadata["name"]),
            self.shape(document),
            metadata.get("uid", ""),
            metadata.get("labels") or {},
            int(spec.get("priority") or 0),
            seconds(metadata.get("creationTimestamp")),
            spec.get("preemptionPolicy") != "Never",
            gang_key(document),
            claims,
            "deletionTimestamp" in metadata,
            status.get("nominatedNodeName") or "",
            start_time(document),
            spec.get("restartPolicy") in ("Never", "OnFailure"),
            volume_keys(document),
            own_volume_keys(document),
            _with_claims(self._parts(spec), by_entry) if claims or shares else (),
            _pod_level(spec, "requests") if claims or shares else (),
            _pod_level(spec, "limits") if claims or shares else (),
            "deletionTimestamp" in metadata and is_preempted(status),
            disks(document),
        )
        # Without a node the status is of an attempt that came to nothing.
        return charged(pod, shares) if shares and spec.get("nodeName") else pod

    def _parts(self, spec: Document) -> list[_Part]:
        """:func:`_parts`, once for all pods of a template."""
        lists = [spec.get("initContainers"), spec.get("containers")]
        key = (id(lists[0]), id(lists[1]))
        known = self._parts_of.get(key)
        if known is None:
            if len(self._parts_of) >= MAX_SHAPES:
                self._parts_of.clear()
            known = self._parts_of[key] = (lists, _parts(spec))
        return known[1]

    def shape(self, document: Document) -> PodShape:
        """The pod's wishes; equal templates give the same object."""
        spec = resized(document)
        spread = () if spec.get("nodeName") else self.spreading.constraints(document)
        values = None if spread or spec is not document.get("spec") else shaping_values(spec)
        if values is not None:
            by_values = self._by_values.get(tuple(map(id, values)))
            if by_values is not None:
                return by_values[1]
        found = self._shape_of(document, spec, spread)
        if values is not None:
            if len(self._by_values) >= MAX_SHAPES:
                self._by_values.clear()
            self._by_values[tuple(map(id, values))] = (values, found)
        return found

    def _shape_of(
        self, document: Document, spec: Document, spread: tuple[SpreadConstraint, ...]
    ) -> PodShape:
        parts = shaping(document["metadata"], spec)
        if spread:
            parts.append(repr(spread))
        data, data_required = data_of(document["metadata"])
        if data:
            parts += [data, data_required]
        key = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
        found = self._shapes.get(key)
        if found is None:
            found = shape_of(document["metadata"], spec)
            if spread:
                by_default = self.spreading.is_system(document)
                found = replace(found, spread=spread, spread_by_default=by_default)
            if data:
                found = replace(found, data=data, data_required=data_required)
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            self._shapes[key] = found
        return found


# What a row is made of, of a status.
_IN_STATUS = (
    "resourceClaimStatuses",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
)


def start_time(document: Document) -> float:
    """When the pod's node took it up; 0 if it has not."""
    return seconds((document.get("status") or {}).get("startTime"))


def says_the_same(old: Document, new: Document) -> bool:
    """Whether two versions of a pod with a node give the same row, apart from its start time.

    Quick, and so false for some that do.
    """
    spec = new.get("spec")
    if old.get("spec") is not spec or not _same_besides(old, new):
        return False
    if old["metadata"].get("labels") != new["metadata"].get("labels"):
        return False
    return resized(old) is spec and resized(new) is spec


def is_bound_since(old: Document, new: Document) -> bool:
    """Whether the pod got its node between two versions, and nothing else of its row but labels.

    Quick, and so false for some of which that is true. Wishes that end with binding (spreading, for
    one) are the caller's to look for.
    """
    before, spec = old.get("spec") or {}, new.get("spec") or {}
    if before.get("nodeName") or len(spec) != len(before) + 1 or not spec.get("nodeName"):
        return False
    if any(spec.get(name) is not part for name, part in before.items()):
        return False
    if (new.get("status") or {}).get("nodeAllocatableResourceClaimStatuses"):
        return False
    return _same_besides(old, new) and resized(old) is before and resized(new) is spec


def _same_besides(old: Document, new: Document) -> bool:
    """Whether nothing changed of what a row shows, apart from spec and labels."""
    before, after = old["metadata"], new["metadata"]
    if before.get("uid") != after.get("uid"):
        return False
    if "deletionTimestamp" in before or "deletionTimestamp" in after:
        return False
    if before.get("annotations") != after.get("annotations"):
        return False
    was, status = old.get("status") or {}, new.get("status") or {}
    return all(was.get(name) == status.get(name) for name in _IN_STATUS)
