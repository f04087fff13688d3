"""The four patch types as one value, applied to what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubarium.api.catalog import Kind
from kubarium.api.managed_fields import apply
from kubarium.api.managed_fields.declared import check_declared
from kubarium.api.patch import (
    json_patch,
    merge_patch,
    strategic_merge_patch,
    unsupported_for_custom_resources,
)
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, bad_request
from kubarium.server.requests import Call

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch body and its media type."""

    type: str
    body: Any

    @property
    def is_apply(self) -> bool:
        """Whether it is a server-side apply, which can create."""
        return self.type == APPLY_PATCH


def apply_patch(
    kind: Kind, patch: Patch, live: Document | None, call: Call, subresource: str, now: float
) -> Document:
    """The document that the patch makes of ``live`` (None: nothing, only for apply).

    The result shares what did not change with ``live``. ApiError 400, 409, 415 or 422.
    """
    if patch.is_apply:
        return _apply(kind, patch, live, call, subresource, now)
    assert live is not None
    if patch.type == JSON_PATCH:
        return json_patch(live, patch.body)
    if not isinstance(patch.body, dict):
        raise bad_request("error decoding patch: the patch must be a JSON object")
    if patch.type == MERGE_PATCH:
        return merge_patch(live, patch.body)
    if patch.type == STRATEGIC_MERGE_PATCH:
        if kind.custom:
            raise unsupported_for_custom_resources()
        return strategic_merge_patch(live, patch.body, kind.schema)
    raise unsupported_patch_type(patch.type)


def _apply(
    kind: Kind, patch: Patch, live: Document | None, call: Call, subresource: str, now: float
) -> Document:
    if not isinstance(patch.body, dict):
        raise bad_request("error decoding YAML: the applied configuration must be an object")
    for key, wanted in (
        ("apiVersion", kind.resource.api_version),
        ("kind", kind.resource.kind),
    ):
        if patch.body.get(key) != wanted:
            raise bad_request(
                f"the {key} of the applied configuration must be {wanted!r}, "
                f"found {patch.body.get(key)!r}"
            )
    if not call.manager:
        raise bad_request("fieldManager is required for apply patch")
    check_declared(kind, patch.body)
    return apply(
        live,
        patch.body,
        manager=call.manager,
        force=call.force,
        schema=kind.schema,
        now=now,
        subresource=subresource,
    )


def unsupported_patch_type(media_type: str) -> ApiError:
    """415 naming what is accepted."""
    accepted = ", ".join(PATCH_TYPES)
    message = (
        "the body of the request was in an unknown format - accepted media types include: "
        f"{accepted}"
    )
    return ApiError(415, "UnsupportedMediaType", message)
