"""Why a pod's volume claims keep it from every node: what is missing, and what there is instead."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from kubarium.api.resource import Document
from kubarium.engine.model import Key
from kubarium.view.missing import no_such
from kubarium.view.volumes import (
    NO_PROVISIONER,
    VolumeBook,
    candidates,
    class_of,
    is_bound,
    suits,
)

# Volumes and classes that are named of many.
NAMED = 3


def unbound(
    book: VolumeBook, keys: tuple[Key, ...], ephemeral: Container[str] = ()
) -> Iterator[str]:
    """Lines about those of the claims that have no volume and must have one first.

    Claims named in ``ephemeral`` are made for a volume of the pod's own.
    """
    for key in keys:
        claim = book.claims.get(key)
        if claim is None and key[1] in ephemeral:
            yield f"volume claim {key[1]} is for an ephemeral volume, and has not been made yet"
            continue
        if claim is not None and "deletionTimestamp" in claim["metadata"]:
            yield f"volume claim {key[1]} is being deleted, and gone once no other pod uses it"
            continue
        if claim is None:
            known = [name for namespace, name in book.claims if namespace == key[0]]
            yield no_such("volume claim", key[1], known, NAMED)
            continue
        volume = (claim.get("spec") or {}).get("volumeName") or ""
        if is_bound(claim):
            if volume not in book.volumes:
                yield f"volume claim {key[1]}: its volume {volume} is gone, and the data with it"
            continue
        owner = book.classes.get(class_of(claim))
        if (owner or {}).get("volumeBindingMode") == "WaitForFirstConsumer":
            continue
        yield f"volume claim {key[1]}: {_source(claim, owner, book.classes)}"
        yield from _volumes(claim, book)


def _source(claim: Document, owner: Document | None, classes: Mapping[str, Document]) -> str:
    name = class_of(claim)
    if owner is None:
        if not name:
            return "names no StorageClass, so that only a volume without one can serve it"
        return no_such("StorageClass", name, classes, NAMED)
    provisioner = owner.get("provisioner") or NO_PROVISIONER
    if provisioner == NO_PROVISIONER:
        return f"StorageClass {name} makes no volumes: one has to be created"
    return f"StorageClass {name} leaves it to {provisioner}, which has not made a volume yet"


def _volumes(claim: Document, book: VolumeBook) -> Iterator[str]:
    """What is wrong with the volumes of the claim's class."""
    fit = candidates(claim, book.volumes.values())
    if fit:
        names = ", ".join(volume["metadata"]["name"] for volume in fit[:NAMED])
        yield f"volume {names} would do, and is not bound to the claim yet"
        return
    told = 0
    for volume in book.volumes.values():
        if ((volume.get("spec") or {}).get("storageClassName") or "") != class_of(claim):
            continue
        owner = (volume.get("spec") or {}).get("claimRef")
        why = suits(claim, volume)
        if owner:
            why = f"belongs to claim {owner.get('namespace')}/{owner.get('name')}"
        if why and told < NAMED:
            told += 1
            yield f"volume {volume['metadata']['name']}: {why}"
