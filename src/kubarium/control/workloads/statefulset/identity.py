"""Pods and claims of a StatefulSet, which keep their names, and its revisions. Pure.

Source: upstream ``pkg/controller/statefulset/stateful_set_utils.go``.
"""

from __future__ import annotations

import re

from kubarium.api.resource import Document, copy_document
from kubarium.control.workloads.deployment.history import template_hash
from kubarium.control.workloads.deployment.rollout import scaled_value
from kubarium.control.workloads.pods import pod_from_template
from kubarium.runtime.writes import owner_reference

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
REVISION_LABEL = "controller-revision-hash"
_ORDINAL = re.compile(r".*-([0-9]+)")


def first_ordinal(stateful_set: Document) -> int:
    """``spec.ordinals.start``."""
    return int((stateful_set["spec"].get("ordinals") or {}).get("start", 0))


def replicas_of(stateful_set: Document) -> int:
    """``spec.replicas``."""
    return int(stateful_set["spec"].get("replicas", 1))


def ordinal_of(stateful_set: Document, pod: Document) -> int | None:
    """The number in the pod's name, None if the name is not one of ours."""
    name = pod["metadata"]["name"]
    match = _ORDINAL.fullmatch(name)
    if match is None or name != pod_name(stateful_set, int(match.group(1))):
        return None
    return int(match.group(1))


def pod_name(stateful_set: Document, ordinal: int) -> str:
    """``<set>-<ordinal>``."""
    return f"{stateful_set['metadata']['name']}-{ordinal}"


def is_ordered(stateful_set: Document) -> bool:
    """podManagementPolicy OrderedReady: one at a time, in order."""
    return bool(stateful_set["spec"].get("podManagementPolicy") != "Parallel")


def partition_of(stateful_set: Document) -> int:
    """Ordinals below it keep the current revision in a rolling update."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    return int((strategy.get("rollingUpdate") or {}).get("partition", 0))


def max_unavailable(stateful_set: Document) -> int:
    """How many pods a rolling update may take away at once; a percentage is rounded down."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    given = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1)
    return max(1, scaled_value(given, replicas_of(stateful_set), False))


def rolls(stateful_set: Document) -> bool:
    """updateStrategy RollingUpdate (and not OnDelete)."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    return bool(strategy.get("type", "RollingUpdate") == "RollingUpdate")


def make_revision(stateful_set: Document, number: int, collisions: int) -> Document:
    """The ControllerRevision of the present template."""
    spec = stateful_set["spec"]
    digest = template_hash(spec["template"], collisions)
    metadata = stateful_set["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "namespace": metadata["namespace"],
            "labels": {
                **((spec["template"].get("metadata") or {}).get("labels") or {}),
                "controller.kubernetes.io/hash": digest,
            },
            "ownerReferences": [owner_reference(stateful_set)],
        },
        "data": {"spec": {"template": {**copy_document(spec["template"]), "$patch": "replace"}}},
        "revision": number,
    }


def template_of(revision: Document) -> Document:
    """The pod template that a revision keeps."""
    template = (revision.get("data") or {}).get("spec", {}).get("template") or {}
    return {name: value for name, value in template.items() if name != "$patch"}


def make_pod(stateful_set: Document, revision: Document, ordinal: int) -> Document:
    """The pod of an ordinal at a revision."""
    pod = pod_from_template(template_of(revision), stateful_set)
    name = pod_name(stateful_set, ordinal)
    metadata = pod["metadata"]
    metadata["name"] = name
    metadata["labels"] = {
        **metadata.get("labels", {}),
        POD_NAME: name,
        POD_INDEX: str(ordinal),
        REVISION_LABEL: revision["metadata"]["name"],
    }
    pod["spec"]["hostname"] = name
    if stateful_set["spec"].get("serviceName"):
        pod["spec"]["subdomain"] = stateful_set["spec"]["serviceName"]
    claims = {template["metadata"]["name"]: template for template in claim_templates(stateful_set)}
    volumes = [item for item in pod["spec"].get("volumes") or () if item["name"] not in claims]
    for template in claims.values():
        source = {"claimName": claim_name(stateful_set, template, ordinal)}
        volumes.append({"name": template["metadata"]["name"], "persistentVolumeClaim": source})
    if volumes:
        pod["spec"]["volumes"] = volumes
    return pod


def claim_templates(stateful_set: Document) -> list[Document]:
    """``spec.volumeClaimTemplates``."""
    return list(stateful_set["spec"].get("volumeClaimTemplates") or ())


def claim_name(stateful_set: Document, template: Document, ordinal: int) -> str:
    """``<template>-<set>-<ordinal>``."""
    return f"{template['metadata']['name']}-{pod_name(stateful_set, ordinal)}"


def make_claim(stateful_set: Document, template: Document, ordinal: int) -> Document:
    """The claim of an ordinal; owned by the set only if it is to be deleted with it."""
    given = template["metadata"]
    selector = stateful_set["spec"].get("selector") or {}
    metadata: Document = {
        "name": claim_name(stateful_set, template, ordinal),
        "namespace": stateful_set["metadata"]["namespace"],
        "labels": {**(given.get("labels") or {}), **(selector.get("matchLabels") or {})},
    }
    if given.get("annotations"):
        metadata["annotations"] = dict(given["annotations"])
    owners = _owners(stateful_set, None)
    if owners:
        metadata["ownerReferences"] = owners
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": copy_document(template["spec"]),
    }


def _owners(stateful_set: Document, surplus: Document | None) -> list[Document]:
    """With whom a claim goes: with its pod if that is surplus, or with the set, or with nobody."""
    policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    if surplus is not None and policy.get("whenScaled") == "Delete":
        return [owner_reference(surplus)]
    return [owner_reference(stateful_set)] if policy.get("whenDeleted") == "Delete" else []


def owned_by(
    claim: Document, stateful_set: Document, pod: Document, surplus: bool
) -> list[Document]:
    """The owners that the claim of a pod should have (persistentVolumeClaimRetentionPolicy).

    Those that it has if it is controlled by somebody else.
    """
    held = list(claim["metadata"].get("ownerReferences") or ())
    others = [r for r in held if not _is_ours(r, stateful_set, pod["metadata"]["name"])]
    if any(reference.get("controller") for reference in others):
        return held
    return [*others, *_owners(stateful_set, pod if surplus else None)]


def is_stale(claim: Document, pod: str) -> bool:
    """Whether the claim goes with a pod of that name, which must be one that is gone."""
    owners = claim["metadata"].get("ownerReferences") or ()
    return any((r.get("kind"), r.get("name")) == ("Pod", pod) for r in owners)


def _is_ours(reference: Document, stateful_set: Document, pod: str) -> bool:
    if reference.get("kind") == "Pod":
        return bool(reference.get("name") == pod)
    return bool(reference.get("uid") == stateful_set["metadata"]["uid"])
