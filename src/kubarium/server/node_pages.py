"""The proxy subresource of nodes: pages that a node's agent serves, such as its metrics."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.base.errors import ApiError, not_found

# Body and content type.
Page = tuple[bytes, str]

# Finds a page of a node by (node, path without its first slash).
PageSource = Callable[[str, str], Page | None]


def open_page(source: PageSource | None, node: str, path: str) -> Page:
    """A page of a node's agent; ApiError 404, 503 if no agent answers."""
    if source is None:
        raise ApiError(503, "ServiceUnavailable", "no node agent is here that could answer")
    page = source(node, path)
    if page is None:
        raise not_found("nodes", "", f"{node}/proxy/{path}")
    return page
