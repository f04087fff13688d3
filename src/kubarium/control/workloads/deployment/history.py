"""Which ReplicaSet belongs to which template of a Deployment, and their revisions. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from kubarium.api.resource import Document, copy_document
from kubarium.base.chance import SUFFIX_ALPHABET
from kubarium.control.workloads.deployment.rollout import (
    DESIRED,
    MOST,
    REVISION,
    REVISION_HISTORY,
    by_age,
    limits_of,
    replicas_of,
    wanted_by,
)
from kubarium.runtime.writes import owner_reference

HASH_LABEL = "pod-template-hash"
# Annotations of a Deployment that its ReplicaSets do not get.
_NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
}


def template_hash(template: Document, collisions: int) -> str:
    """A short stable name for a pod template (FNV-1a of its canonical JSON).

    Upstream hashes Go's print-out of the struct, so the text differs, not its use.
    """
    data = orjson.dumps(template, option=orjson.OPT_SORT_KEYS)
    if collisions:
        data += str(collisions).encode()
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(SUFFIX_ALPHABET[ord(digit) % len(SUFFIX_ALPHABET)] for digit in str(value))


def _without_hash(template: Document) -> Document:
    metadata = dict(template.get("metadata") or {})
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    metadata.pop("creationTimestamp", None)
    return {**template, "metadata": {**metadata, "labels": labels}}


def same_template(first: Document, second: Document) -> bool:
    """Equal but for the hash label."""
    return _without_hash(first) == _without_hash(second)


def find_new(deployment: Document, replica_sets: list[Document]) -> Document | None:
    """The oldest ReplicaSet with the Deployment's present template."""
    template = deployment["spec"]["template"]
    for item in by_age(replica_sets):
        if same_template(item["spec"].get("template") or {}, template):
            return item
    return None


def revision_of(document: Document) -> int:
    """The revision annotation as a number, 0 if there is none."""
    text = (document["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdecimal() else 0


def next_revision(replica_sets: list[Document]) -> int:
    """One more than the highest."""
    return max(map(revision_of, replica_sets), default=0) + 1


def is_idle(replica_set: Document) -> bool:
    """It wants no pods, has none, and its controller has seen that it wants none."""
    status = replica_set.get("status") or {}
    seen = int(status.get("observedGeneration", 0))
    return (
        replicas_of(replica_set) == 0
        and not status.get("replicas")
        and seen >= int(replica_set["metadata"].get("generation", 0))
    )


def scale_annotations(deployment: Document) -> dict[str, str]:
    """What a ReplicaSet remembers of the Deployment's size."""
    wanted = wanted_by(deployment)
    return {DESIRED: str(wanted), MOST: str(wanted + limits_of(deployment).surge)}


def copied_annotations(deployment: Document) -> dict[str, Any]:
    """The Deployment's annotations that its new ReplicaSet shares."""
    annotations = deployment["metadata"].get("annotations") or {}
    return {name: text for name, text in annotations.items() if name not in _NOT_COPIED}


def make_replica_set(deployment: Document, revision: int, size: int) -> Document:
    """The ReplicaSet of the Deployment's present template."""
    status = deployment.get("status") or {}
    spec = deployment["spec"]
    digest = template_hash(spec["template"], int(status.get("collisionCount", 0)))
    template = copy_document(spec["template"])
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), HASH_LABEL: digest}
    selector = copy_document(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    annotations = {
        **copied_annotations(deployment),
        **scale_annotations(deployment),
        REVISION: str(revision),
    }
    replica_set: Document = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{digest}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": dict(metadata["labels"]),
            "annotations": annotations,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {"replicas": size, "selector": selector, "template": template},
    }
    if spec.get("minReadySeconds"):
        replica_set["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return replica_set
