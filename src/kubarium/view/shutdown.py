"""The order to shut a node down, as an annotation that the node agent heeds. Pure.

It stays on the Node while the node is off; whoever takes it away switches the node on again.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.duration import duration_s

ANNOTATION = "kubarium.dev/shutdown"
# The annotation's value where the pool's own configuration says how long pods get.
CONFIGURED = "configured"


def is_ordered(node: Document) -> bool:
    """Whether the node is to be shut down, or is off."""
    return bool((node["metadata"].get("annotations") or {}).get(ANNOTATION))


def ordered_grace_s(node: Document) -> float | None:
    """How long pods get at most, by the order; None if it leaves that to the configuration, or
    says it in a way that cannot be read."""
    text = (node["metadata"].get("annotations") or {}).get(ANNOTATION, CONFIGURED)
    try:
        return None if text == CONFIGURED else duration_s(text)
    except ValueError:
        return None
