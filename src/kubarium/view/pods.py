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
    HostPort,
    Key,
    Overhead,
    Pod,
    PodPart,
    PodShape,
    PodTerm,
    PreferredTerm,
    SpreadConstraint,
    WeightedPodTerm,
)
from kubarium.engine.placement.node_claims import charged
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.view.consumers import group_name
from kubarium.view.devices import node_amount, shown
from kubarium.view.features import needed_features
from kubarium.view.locality import data_of
from kubarium.view.nodes import amount, exact_amount, normalised_image, rounded_amount
from kubarium.view.selectors import (
    label_requirements,
    label_selector,
    node_term,
    node_terms,
)
from kubarium.view.spreading import Spreading
from kubarium.view.taints import toleration
from kubarium.view.volumes import disks, own_volume_keys, volume_keys

# What a container without requests counts as in scores (upstream: util/pod_resources.go).
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
_DEFAULT_CPU, _DEFAULT_MEMORY = Fraction(DEFAULT_MILLI_CPU, 1000), Fraction(DEFAULT_MEMORY_BYTES)
_NONE = Fraction(0)

# Shapes remembered by a reader; a cluster has as many as it has pod templates.
MAX_SHAPES = 4096

_Amounts = dict[str, int]
_Exact = dict[str, Fraction]
_SHAPING = (
    "overhead",
    "resources",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "hostNetwork",
    "hostUsers",
)


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
                tuple(sorted(_amounts(resources).items())),
                (),
                initial,
                initial and container.get("restartPolicy") != "Always",
                tuple(sorted(_read(resources.get("limits")).items())),
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
    return tuple(sorted(_read((spec.get("resources") or {}).get(field)).items()))


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
        values = None if spread or spec is not document.get("spec") else _values(spec)
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
        parts = _shaping(document["metadata"], spec)
        if spread:
            parts.append(repr(spread))
        data, data_required = data_of(document["metadata"])
        if data:
            parts += [data, data_required]
        key = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
        found = self._shapes.get(key)
        if found is None:
            found = _shape(document["metadata"], spec)
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


def _values(spec: Document) -> list[Any] | None:
    """The parts of a spec that its shape is made of; None if labels and namespace matter too."""
    if spec.get("topologySpreadConstraints") or spec.get("affinity") or _volume_images(spec):
        return None
    get = spec.get
    return [get("containers"), get("initContainers"), *[get(name) for name in _SHAPING]]


def resized(document: Document) -> Document:
    """The pod's spec with requests that count what is wanted, allocated and actual, the most.

    While a container is resized in place it may hold more than it asks for (KEP-1287); a resize
    that the node calls infeasible does not count as wanted.
    """
    spec: Document = document.get("spec") or {}
    status = document.get("status")
    if not status or _is_settled(spec, status):
        return spec
    statuses = {
        s.get("name"): s
        for kind in ("containerStatuses", "initContainerStatuses")
        for s in status.get(kind) or ()
        if s.get("resources") is not None
    }
    whole = spec.get("resources") if status.get("resources") is not None else None
    if not statuses and not whole:
        return spec
    refused = any(
        c.get("type") == "PodResizePending" and c.get("reason") == "Infeasible"
        for c in status.get("conditions") or ()
    )
    changed: Document = {}
    for kind in ("containers", "initContainers"):
        containers = spec.get(kind) or ()
        held = [
            _held(c, statuses.get(c.get("name")), refused)
            if kind == "containers" or _is_sidecar(c)  # others cannot be resized
            else c
            for c in containers
        ]
        if any(now is not before for now, before in zip(held, containers, strict=True)):
            changed[kind] = held
    if whole:
        most = _held({"resources": whole}, status, refused)["resources"]
        named = whole.get("requests") or {}
        given = most.get("requests") or {}
        asked = {name: given.get(name, "0") for name in named}
        if asked != named:
            changed["resources"] = {**whole, "requests": asked}
    return {**spec, **changed} if changed else spec


def _is_settled(spec: Document, status: Document) -> bool:
    """Whether it is seen at once that what the node says it gave is what the spec asks for."""
    if status.get("resources") is not None and spec.get("resources"):
        return False
    for kind in ("containerStatuses", "initContainerStatuses"):
        entries = status.get(kind)
        if not entries:
            continue
        containers = spec.get("containers" if kind == "containerStatuses" else "initContainers")
        asked = {
            c.get("name"): (c.get("resources") or {}).get("requests") for c in containers or ()
        }
        for entry in entries:
            held = entry.get("resources")
            if held is None:
                continue
            wanted, given = asked.get(entry.get("name")) or {}, held.get("requests")
            if (entry.get("allocatedResources") or {}) != wanted or (given and given != wanted):
                return False
    return True


def _is_sidecar(container: Document) -> bool:
    """Whether an init container runs as long as the pod does."""
    return container.get("restartPolicy") == "Always"


def _held(container: Document, status: Document | None, refused: bool) -> Document:
    """A container with the most of what it wants and has."""
    if status is None:
        return container
    resources = container.get("resources") or {}
    wanted = {} if refused else resources.get("requests") or {}
    allocated = status.get("allocatedResources") or {}
    actual = (status.get("resources") or {}).get("requests") or {}
    if not refused and allocated == wanted and actual in ({}, wanted):
        return container  # no resize is under way
    most: dict[str, Any] = {}
    for given in (wanted, allocated, actual):
        for name, quantity in given.items():
            if name not in most or exact_amount(quantity) > exact_amount(most[name]):
                most[name] = quantity
    if most == resources.get("requests"):
        return container
    limits = {name: q for name, q in (resources.get("limits") or {}).items() if name in most}
    return {**container, "resources": {**resources, "requests": most, "limits": limits}}


def _shaping(metadata: Document, spec: Document) -> list[Any]:
    """All that a shape is made of, and nothing else."""
    containers = [
        [
            [c.get("image"), c.get("resources"), c.get("restartPolicy"), _host_ports(c, spec)]
            for c in spec.get(kind) or ()
        ]
        for kind in ("containers", "initContainers")
    ]
    parts: list[Any] = [containers, [spec.get(name) for name in _SHAPING]]
    features = needed_features(spec)
    if features:
        parts.append(features)
    mounted = _volume_images(spec)
    if mounted:
        parts.append({"images": mounted})
    affinity = spec.get("affinity") or {}
    if (
        spec.get("topologySpreadConstraints")
        or "podAffinity" in affinity
        or "podAntiAffinity" in affinity
    ):
        parts += [metadata.get("namespace"), metadata.get("labels")]
    return parts


def _volume_images(spec: Document) -> list[str]:
    """Images that the pod mounts as volumes; they have to be pulled like those of containers."""
    volumes = spec.get("volumes") or ()
    return [name for v in volumes if (name := (v.get("image") or {}).get("reference"))]


def _host_ports(container: Document, spec: Document) -> list[list[Any]]:
    ports = container.get("ports")
    if not ports:
        return []
    on_host = bool(spec.get("hostNetwork"))
    return [
        [p.get("hostIP") or "0.0.0.0", p.get("protocol") or "TCP", port]
        for p in ports
        if (port := p.get("hostPort") or (p.get("containerPort") if on_host else 0))
    ]


def _shape(metadata: Document, spec: Document) -> PodShape:
    requests, nonzero = pod_requests(spec)
    affinity = spec.get("affinity") or {}
    node = affinity.get("nodeAffinity") or {}
    near = affinity.get("podAffinity") or {}
    away = affinity.get("podAntiAffinity") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    lasting = [c for c in spec.get("initContainers") or () if _is_sidecar(c)]
    lasting += spec.get("containers") or ()
    required, preferred = (
        f"{w}DuringSchedulingIgnoredDuringExecution" for w in ("required", "preferred")
    )
    return PodShape(
        requests=tuple(sorted(requests.items())),
        node_selector=label_requirements(spec.get("nodeSelector")),
        affinity=node_terms(node.get(required)),
        preferred=tuple(
            PreferredTerm(int(p.get("weight") or 0), node_term(p.get("preference") or {}))
            for p in node.get(preferred) or ()
        ),
        tolerations=tuple(toleration(t) for t in spec.get("tolerations") or ()),
        ports=tuple(HostPort(*p) for c in lasting for p in _host_ports(c, spec)),
        images=(
            *(normalised_image(c["image"]) for c in containers if c.get("image")),
            *map(normalised_image, _volume_images(spec)),
        ),
        mounted=len(_volume_images(spec)),
        spread=tuple(_spread(metadata, c) for c in spec.get("topologySpreadConstraints") or ()),
        pod_affinity=tuple(_pod_term(metadata, t) for t in near.get(required) or ()),
        pod_anti_affinity=tuple(_pod_term(metadata, t) for t in away.get(required) or ()),
        pod_preferred=(
            *_weighted(metadata, near.get(preferred), 1),
            *_weighted(metadata, away.get(preferred), -1),
        ),
        nonzero=nonzero,
        features=needed_features(spec),
    )


# Requests


def pod_requests(spec: Document) -> tuple[_Amounts, tuple[int, int]]:
    """What the pod asks for, and the (milli-cpu, bytes) that scores count for it.

    Source: component-helpers ``resource.PodRequests``: containers and sidecars together, or the
    largest moment of the init sequence if that is more; pod-level requests replace the sum;
    overhead comes on top. In scores a container without requests counts as 100m and 200Mi; if the
    pod has requests of its own, only where no container asks for the resource.
    """
    exact = _sequence(spec, {})
    pod_level = _exact(spec.get("resources") or {})
    overhead = _quantities(spec.get("overhead"))
    defaults = {
        name: value
        for name, value in (("cpu", _DEFAULT_CPU), ("memory", _DEFAULT_MEMORY))
        if not pod_level or (name not in exact and name not in overhead)
    }
    counted = _sequence(spec, defaults)
    for total in (exact, counted):
        total.update(pod_level)
        _add(total, overhead)
    cpu, memory = (rounded_amount(name, counted.get(name, _NONE)) for name in ("cpu", "memory"))
    sums = {name: rounded_amount(name, value) for name, value in exact.items()}
    return {name: value for name, value in sums.items() if value}, (cpu, memory)


def _sequence(spec: Document, defaults: Mapping[str, Fraction]) -> _Exact:
    running: _Exact = {}
    for container in spec.get("containers") or ():
        _add(running, _container(container, defaults))
    sidecars: _Exact = {}
    peak: _Exact = {}
    for container in spec.get("initContainers") or ():
        wanted = _container(container, defaults)
        if _is_sidecar(container):
            _add(running, wanted)
            _add(sidecars, wanted)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            _add(moment, wanted)
        for name, value in moment.items():
            peak[name] = max(peak.get(name, _NONE), value)
    for name, value in peak.items():
        running[name] = max(running.get(name, _NONE), value)
    return running


def _container(container: Document, defaults: Mapping[str, Fraction]) -> _Exact:
    return {**defaults, **_exact(container.get("resources") or {})}


def _exact(resources: Mapping[str, Any]) -> _Exact:
    """Requests, with limits where only those are given (as the API server would default).

    Nothing is rounded before a pod's containers are added up: two of 500u ask for 1m.
    """
    return {**_quantities(resources.get("limits")), **_quantities(resources.get("requests"))}


def _quantities(quantities: Mapping[str, Any] | None) -> _Exact:
    return {name: exact_amount(q) for name, q in (quantities or {}).items()}


def _amounts(resources: Mapping[str, Any]) -> _Amounts:
    """As :func:`_exact`, of one container, in whole units."""
    return {**_read(resources.get("limits")), **_read(resources.get("requests"))}


def _read(quantities: Mapping[str, Any] | None) -> _Amounts:
    return {name: amount(name, q) for name, q in (quantities or {}).items()}


def _add(total: _Exact, more: _Exact) -> None:
    for name, value in more.items():
        total[name] = total.get(name, _NONE) + value


# Terms about other pods


def _label_keys(metadata: Document, keys: Iterable[str], operator: str) -> tuple[Requirement, ...]:
    """matchLabelKeys and mismatchLabelKeys: the pod's own values as clauses."""
    labels = metadata.get("labels") or {}
    return tuple(Requirement(key, operator, (labels[key],)) for key in keys if key in labels)


def _selector(metadata: Document, document: Document) -> LabelSelector | None:
    """A selector with what the pod's labels add, unless the API server has added it already."""
    found = label_selector(document.get("labelSelector"))
    if found is None:
        return None
    own = _label_keys(metadata, document.get("matchLabelKeys") or (), "In")
    other = _label_keys(metadata, document.get("mismatchLabelKeys") or (), "NotIn")
    extra = tuple(r for r in (*own, *other) if r not in found.requirements)
    return LabelSelector(found.requirements + extra) if extra else found


def _spread(metadata: Document, document: Document) -> SpreadConstraint:
    # A missing selector selects nothing, so no pod is ever counted.
    nothing = LabelSelector((Requirement("", "In", ()),))
    return SpreadConstraint(
        document.get("topologyKey", ""),
        int(document.get("maxSkew") or 1),
        document.get("whenUnsatisfiable") != "ScheduleAnyway",
        _selector(metadata, document) or nothing,
        int(document.get("minDomains") or 1),
        document.get("nodeAffinityPolicy") != "Ignore",
        document.get("nodeTaintsPolicy") == "Honor",
    )


def _pod_term(metadata: Document, document: Document) -> PodTerm:
    namespaces = tuple(document.get("namespaces") or ())
    selector = document.get("namespaceSelector")
    if not namespaces and selector is None:
        namespaces = (metadata.get("namespace", ""),)
    return PodTerm(
        document.get("topologyKey", ""),
        _selector(metadata, document),
        namespaces,
        label_selector(selector),
    )


def _weighted(
    metadata: Document, documents: Iterable[Document] | None, sign: int
) -> tuple[WeightedPodTerm, ...]:
    return tuple(
        WeightedPodTerm(
            sign * int(d.get("weight") or 0), _pod_term(metadata, d.get("podAffinityTerm") or {})
        )
        for d in documents or ()
    )
