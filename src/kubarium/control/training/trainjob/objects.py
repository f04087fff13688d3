"""The objects beside the JobSet: the runtime as it was, MPI's keys, the gang's requests."""

from __future__ import annotations

import base64
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from kubarium.api.resource import Document
from kubarium.api.trainer import Plan, gang_of
from kubarium.api.trainer.names import (
    SSH_PRIVATE_KEY,
    SSH_PUBLIC_KEY,
    snapshot_name,
    ssh_secret_name,
)
from kubarium.api.trainer.template import pod_spec
from kubarium.runtime.writes import is_controlled_by, owner_reference
from kubarium.view.queueing.requests import pod_requests

_DATA_KEY = "runtime"
# Of the runtime's metadata, what says which runtime it was.
_KEPT = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations")


class BadSnapshot(Exception):
    """The ConfigMap that should hold the TrainJob's runtime does not."""


def snapshot(trainjob: Document, runtime: Document) -> Document:
    """The ConfigMap that keeps a runtime: later changes to it are not for this TrainJob."""
    metadata = {key: value for key, value in runtime["metadata"].items() if key in _KEPT}
    text = yaml.safe_dump({**runtime, "metadata": metadata}, sort_keys=True)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(trainjob, snapshot_name(trainjob["metadata"]["name"])),
        "data": {_DATA_KEY: text},
    }


def runtime_of(trainjob: Document, held: Document) -> Document:
    """The runtime in a snapshot; BadSnapshot if it is not one of this TrainJob's."""
    if not is_controlled_by(held, trainjob):
        raise BadSnapshot(
            "invalid runtime snapshot: a snapshot configmap exists but is owned by another object"
        )
    text = (held.get("data") or {}).get(_DATA_KEY)
    try:
        found: Any = yaml.load(text, yaml.CSafeLoader) if text else None
    except yaml.YAMLError as error:
        raise BadSnapshot(
            f"invalid runtime snapshot: unable to unmarshal the snapshot: {error}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        raise BadSnapshot(
            f"invalid runtime snapshot: ConfigMap {held['metadata']['name']} has no runtime under "
            f'data key "{_DATA_KEY}"; delete it to take the runtime as it is now'
        )
    return found


def ssh_secret(trainjob: Document) -> Document:
    """A new pair of keys by which the launcher reaches its nodes."""
    key = ec.generate_private_key(ec.SECP521R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(trainjob, ssh_secret_name(trainjob["metadata"]["name"])),
        "type": "kubernetes.io/ssh-auth",
        "immutable": True,
        "data": {
            SSH_PRIVATE_KEY: base64.b64encode(private).decode(),
            SSH_PUBLIC_KEY: base64.b64encode(public).decode(),
        },
    }


def gang_requests(plan: Plan) -> dict[str, str]:
    """What all pods of the gang request together, as quantities."""
    total: dict[str, int] = {}
    for name, count in gang_of(plan).items():
        job = plan.job(name)
        for resource, amount in (pod_requests(pod_spec(job)) if job else {}).items():
            total[resource] = total.get(resource, 0) + amount * count
    return {
        resource: f"{amount}m" if resource == "cpu" else str(amount)
        for resource, amount in total.items()
        if amount
    }


def owned(trainjob: Document, document: Document) -> Document:
    """``document`` as the TrainJob's own."""
    metadata = {**document["metadata"], "ownerReferences": [owner_reference(trainjob)]}
    return {**document, "metadata": metadata}


def _metadata(trainjob: Document, name: str) -> Document:
    return {
        "name": name,
        "namespace": trainjob["metadata"]["namespace"],
        "ownerReferences": [owner_reference(trainjob)],
    }
