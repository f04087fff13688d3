"""What a pod's volumes keep it from, claim by claim: which volume, why, and what would help.

The masks are those of the filters, asked for one claim at a time; only what claims share, attach
limits and volumes that they compete for, is asked for all together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubarium.base.quantity import format_quantity
from kubarium.engine import reasons
from kubarium.engine.explain import supplies
from kubarium.engine.explain.subject import ADD, Change, Undo
from kubarium.engine.model import Pod, Provision, VolumeClaim
from kubarium.engine.placement.profile import Profile
from kubarium.engine.placement.volumes import (
    Group,
    attached_for,
    competed,
    volume_filters,
    waiting_of,
)
from kubarium.engine.selectors import NodeTerm
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import Suggestion

Terms = tuple[NodeTerm, ...] | None
# (kind of rule, upstream's reason, in words, who passes, what lifts it everywhere, about what)
Found = tuple[str, str, str, Mask, list[Change], object]

# Topology values and holders that are named of one claim.
NAMED = 4


def volume_rules(snapshot: Snapshot, pod: Pod, profile: Profile) -> Iterator[Found]:
    """Every rule of the pod's volumes and disks."""
    if not pod.has_volumes:
        return
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    for claim in claims:
        alone = replace(pod, volumes=(claim.key,), disks=())
        for reason, mask in _each(volume_filters(snapshot, alone, profile)):
            if not _of_drivers(reason) and (mask & snapshot.alive).sum() < snapshot.node_count():
                yield _of_claim(snapshot, pod, claim, reason, mask)
    for disk in pod.disks:
        alone = replace(pod, volumes=(), disks=(disk,))
        for reason, mask in _each(volume_filters(snapshot, alone, profile)):
            if reason == reasons.DISK_CONFLICT:
                yield "disk", reason, f"disk {disk.names[0]} is in use there", mask, [], disk
    for reason, mask in _each(volume_filters(snapshot, pod, profile)):
        if reason.endswith(reasons.NO_DRIVER):
            text = f"lacks CSI driver {reason.removesuffix(reasons.NO_DRIVER)}"
            yield "volume-limit", reason, text, mask, [], pod
        if reason == reasons.VOLUME_LIMIT:
            drivers = sorted({driver for driver, _ in attached_for(snapshot, pod)})
            text = f"can attach no more volumes of {', '.join(drivers)}"
            yield "volume-limit", reason, text, mask, [], pod
    waiting = waiting_of(snapshot, claims) if profile.filters("VolumeBinding") else []
    if len(waiting) > 1:
        both = competed(snapshot, waiting)
        names = ", ".join(c.key[1] for c in waiting)
        text = f"too few volumes for claims {names} together"
        lifts = [_fresh_volume(c, format_quantity(c.size, binary=True)) for c in waiting]
        yield "volume", reasons.VOLUME_BINDING, text, both, lifts, None


def _each(groups: Iterator[Group]) -> Iterator[tuple[str, Mask]]:
    for group in groups:
        yield from group


def _of_drivers(reason: str) -> bool:
    """Whether it is about all claims of one CSI driver."""
    return reason == reasons.VOLUME_LIMIT or reason.endswith(reasons.NO_DRIVER)


def _of_claim(snapshot: Snapshot, pod: Pod, claim: VolumeClaim, reason: str, mask: Mask) -> Found:
    name = claim.key[1]
    if reason == reasons.VOLUME_IN_USE:
        users = [k for k in snapshot.volume_users.get(claim.key, {}) if k != pod.key]
        holders = [held for k in users if (held := snapshot.placed(k)) is not None]
        shown = ", ".join("/".join(holder.key) for holder in holders[:NAMED])
        text = f"volume claim {name} is ReadWriteOncePod, and pod {shown} uses it"
        home = snapshot.node_of(holders[0].key) or "" if holders else ""
        lifts = [supplies.ended(snapshot, holders, home)] if holders else []
        return "volume-held", reason, text, mask, lifts, claim
    if reason == reasons.VOLUME_NODE:
        assumed = snapshot.assumed_volumes.get(claim.key)
        where = f"node {assumed[0]}" if assumed else shown_terms(claim.terms)
        text = f"the volume of claim {name} can only be used on {where}"
        return "volume", reason, text, mask, [] if assumed else [_elsewhere(claim)], claim
    if reason == reasons.VOLUME_ZONE:
        zones = " and ".join(map(str, claim.zones))
        text = f"the volume of claim {name} is in {zones}"
        return "volume", reason, text, mask, [_elsewhere(claim)], claim
    size = format_quantity(claim.size, binary=True)
    if reason == reasons.VOLUME_SPACE:
        text = f"no storage is left for the {size} of volume claim {name}"
        return (
            "volume",
            reason,
            text,
            mask,
            [_more_storage(claim, size), _fresh_volume(claim, size)],
            claim,
        )
    return "volume", reason, _unbound(claim, size), mask, [_fresh_volume(claim, size)], claim


def shown_terms(terms: Terms) -> str:
    """Where a volume can be used, in words."""
    shown = [" and ".join(map(str, (*t.labels, *t.fields))) for t in terms or ()]
    more = " …" if len(shown) > NAMED else ""
    return f"nodes with {' or '.join(shown[:NAMED])}{more}" if shown else "no node"


def _unbound(claim: VolumeClaim, size: str) -> str:
    count = len(claim.choices or ())
    suits = "1 free volume suits" if count == 1 else f"{count} free volumes suit"
    free = f"{suits} it, elsewhere" if count else "no free volume suits it"
    if claim.provision is None:
        made = "its class makes none"
    elif claim.provision.terms is None:
        made = "its class makes some anywhere"
    else:
        made = f"its class makes them for {shown_terms(claim.provision.terms)}"
    return f"no volume of {size} for claim {claim.key[1]}: {free}, and {made}"


def limits_on(snapshot: Snapshot, pod: Pod, row: int) -> str:
    """``3 of 3 attached`` for each driver of which the row has a limit."""
    drivers = sorted({driver for driver, _ in attached_for(snapshot, pod)})
    known = (snapshot.attached.on(snapshot, row, driver) for driver in drivers)
    return ", ".join(f"{used} of {limit} attached" for used, limit in filter(None, known))


# What would help.


def _elsewhere(claim: VolumeClaim) -> Change:
    name = "/".join(claim.key)
    text = f"move the data of volume claim {name} to a volume that any node can use"
    return _changed(claim, Suggestion("move-volume", text, name), terms=None, zones=())


def _more_storage(claim: VolumeClaim, size: str) -> Change:
    name = "/".join(claim.key)
    text = f"free {size} of storage for volume claim {name} where its class makes volumes"
    made = Provision(claim.provision.terms if claim.provision else None)
    suggestion = Suggestion("add-storage", text, name, amount=claim.size)
    return _changed(claim, suggestion, provision=made)


def _fresh_volume(claim: VolumeClaim, size: str) -> Change:
    name = "/".join(claim.key)
    text = f"create a volume of {size} for claim {name} that any node can use"
    choices = (*(claim.choices or ()), (f"~extra-{name}", None))
    suggestion = Suggestion("add-volume", text, name, amount=claim.size)
    return _changed(claim, suggestion, choices=choices)


def _changed(claim: VolumeClaim, suggestion: Suggestion, **fields: object) -> Change:
    def change(snapshot: Snapshot) -> Undo:
        before = snapshot.volumes[claim.key]
        snapshot.volumes[claim.key] = replace(before, **fields)  # type: ignore[arg-type]

        def undo() -> None:
            snapshot.volumes[claim.key] = before

        return undo

    return Change(suggestion, ADD, cluster=change)
