"""Defaults of resource.k8s.io (source: pkg/apis/resource/v1/defaults.go)."""

from __future__ import annotations

from typing import Any

from kubarium.api.defaulting.pods import fill
from kubarium.api.resource import Document

# Pools that a ResourcePoolStatusRequest is told of.
POOL_LIMIT = 100


def default_claim(document: Document) -> None:
    """ResourceClaim."""
    default_claim_spec(document.setdefault("spec", {}))


def default_claim_template(document: Document) -> None:
    """ResourceClaimTemplate."""
    template = document.setdefault("spec", {})
    template.setdefault("metadata", {})
    default_claim_spec(template.setdefault("spec", {}))


def default_pool_status_request(document: Document) -> None:
    """ResourcePoolStatusRequest."""
    document.setdefault("spec", {}).setdefault("limit", POOL_LIMIT)


def default_claim_spec(spec: dict[str, Any]) -> None:
    """How many devices each request wants: exactly one unless it says otherwise."""
    for request in spec.setdefault("devices", {}).get("requests", ()):
        if "exactly" in request:
            _default_request(request["exactly"])
        for alternative in request.get("firstAvailable", ()):
            _default_request(alternative)


def _default_request(request: dict[str, Any]) -> None:
    fill(request, "allocationMode", "ExactCount")
    if request["allocationMode"] == "ExactCount" and not request.get("count"):
        request["count"] = 1
    for toleration in request.get("tolerations", ()):
        fill(toleration, "operator", "Equal")
