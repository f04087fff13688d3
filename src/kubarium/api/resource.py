"""What a REST resource is, and the request and answer types of its verbs.

These few types are shared by the server's local client, the HTTP client and every controller.
Documents are JSON objects as plain dicts. **A document that a client hands out is shared and must
not be changed**: call :func:`copy_document` first (as client-go asks of its caches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

Document = dict[str, Any]


class Resource(NamedTuple):
    """A kind as served: group, version, plural and scope. Equality is by value."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """``apps/v1``, or ``v1`` in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``deployments.apps``, or ``pods``: how messages and CRD names say it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class ListResult:
    """One page of a list at one revision."""

    items: list[Document]
    resource_version: str
    continue_token: str = ""
    remaining: int | None = None


class WatchEvent(NamedTuple):
    """ADDED, MODIFIED, DELETED, BOOKMARK or ERROR (then ``object`` is a Status)."""

    type: str
    object: Document


def copy_document(document: Any) -> Any:
    """A deep copy of a JSON value; about ten times as fast as ``copy.deepcopy``."""
    if isinstance(document, dict):
        return {key: copy_document(value) for key, value in document.items()}
    if isinstance(document, list):
        return [copy_document(value) for value in document]
    return document
