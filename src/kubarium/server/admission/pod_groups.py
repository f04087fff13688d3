"""PodGroupProtection: groups stay until nothing that belongs to them is left.

Source: upstream ``plugin/pkg/admission/podgroupprotection``; KEP-6012 adds composites. The
finalizer is taken off by a controller, ``control.gangs.protection``.
"""

from __future__ import annotations

from kubarium.api.gangs import PROTECTION_FINALIZER
from kubarium.server.admission.chain import Attempt


def protect_group(attempt: Attempt) -> None:
    """Give a new PodGroup or CompositePodGroup its finalizer."""
    metadata = attempt.document.setdefault("metadata", {})
    held = metadata.get("finalizers") or []
    if PROTECTION_FINALIZER not in held:
        metadata["finalizers"] = [*held, PROTECTION_FINALIZER]
