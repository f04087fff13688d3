"""resource.k8s.io/v1beta1 (Kubernetes 1.32) in v1: claims, their templates, slices.

v1beta1 has the fields of v1's ``exactly`` directly in a request, and a device's attributes,
capacity and the rest below ``basic``. (Upstream: ``pkg/apis/resource/v1beta1/conversion.go``.)
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.api.versions.parts import each, with_part

_REQUESTS = ("spec", "devices", "requests")
# What stays beside ``exactly`` and beside ``basic``.
_REQUEST_FRAME = frozenset({"name", "firstAvailable", "exactly"})
_DEVICE_FRAME = frozenset({"name", "basic"})


def stored_claim(claim: Document, stored: Document | None) -> Document:
    """A v1beta1 ResourceClaim as v1."""
    return with_part(claim, _REQUESTS, each(_exact))


def flat_claim(claim: Document) -> Document:
    """A v1 ResourceClaim as v1beta1."""
    return with_part(claim, _REQUESTS, each(_flat))


def stored_template(template: Document, stored: Document | None) -> Document:
    """A v1beta1 ResourceClaimTemplate as v1."""
    return with_part(template, ("spec", *_REQUESTS), each(_exact))


def flat_template(template: Document) -> Document:
    """A v1 ResourceClaimTemplate as v1beta1."""
    return with_part(template, ("spec", *_REQUESTS), each(_flat))


def stored_slice(published: Document, stored: Document | None) -> Document:
    """A v1beta1 ResourceSlice as v1."""
    return with_part(published, ("spec", "devices"), each(_bare))


def flat_slice(published: Document) -> Document:
    """A v1 ResourceSlice as v1beta1."""
    return with_part(published, ("spec", "devices"), each(_basic))


def _exact(request: Document) -> Document:
    exactly = {key: value for key, value in request.items() if key not in _REQUEST_FRAME}
    if not exactly:
        return request
    return {k: v for k, v in request.items() if k in _REQUEST_FRAME} | {"exactly": exactly}


def _flat(request: Document) -> Document:
    exactly: Document | None = request.get("exactly")
    if exactly is None:
        return request
    return {key: value for key, value in request.items() if key != "exactly"} | exactly


def _bare(device: Document) -> Document:
    basic: Document | None = device.get("basic")
    if basic is None:
        return device
    return {key: value for key, value in device.items() if key != "basic"} | basic


def _basic(device: Document) -> Document:
    basic = {key: value for key, value in device.items() if key not in _DEVICE_FRAME}
    return {"name": device["name"], "basic": basic}
