"""Whether what is new about a placed pod changes anything for others.

Most changes of a pod that runs are of its status; then nothing need be counted again.
"""

from __future__ import annotations

from kubarium.engine.model import Pod, PodShape


def weighs_the_same(old: Pod, new: Pod) -> bool:
    """Whether a placed pod counts as before in every column and book of its node but for labels."""
    return (
        (
            old.shape is new.shape
            or old.shape == new.shape
            or _only_defaults_differ(old.shape, new.shape)
        )
        and (old.terminating, old.preempted) == (new.terminating, new.preempted)
        and (old.claims, old.gang, old.priority) == (new.claims, new.gang, new.priority)
        and (old.volumes, old.disks) == (new.volumes, new.disks)
    )


def _only_defaults_differ(old: PodShape, new: PodShape) -> bool:
    """Default spread constraints matter only until a pod has its node."""
    return old.spread_by_default != new.spread_by_default and all(
        getattr(old, name) == getattr(new, name)
        for name in (
            "requests",
            "nonzero",
            "ports",
            "pod_affinity",
            "pod_anti_affinity",
            "pod_preferred",
        )
    )
