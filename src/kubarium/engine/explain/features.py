"""Features that a pod needs its node to declare (KEP-5328): which are missing, what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kubarium.base.quoted import listed
from kubarium.engine.explain.subject import ADD, OWN_WISH, Change
from kubarium.engine.model import Node, PodShape
from kubarium.engine.placement import filters
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import Suggestion

# What of a pod's spec needs the feature, in words.
_NEEDED_FOR = {
    "RestartAllContainersOnContainerExits": "restart rules with the action RestartAllContainers",
    "UserNamespacesHostNetworkSupport": "hostNetwork together with hostUsers false",
    "VolumeBindMountOptions": "bindMountOptions of volume mounts",
}

# Nodes named in a text; the subject of the suggestion has them all.
NODES_NAMED = 3


def feature_rules(
    snapshot: Snapshot, shape: PodShape
) -> Iterator[tuple[str, str, Mask, list[Change]]]:
    """(feature, in words, who passes, what lifts it everywhere) for each that the pod needs."""
    for name in shape.features:
        mask = filters.declares(snapshot, (name,))
        yield name, f"does not declare {name}", mask, [_without(name)]


def _without(name: str) -> Change:
    def change(shape: PodShape) -> PodShape:
        return replace(shape, features=tuple(f for f in shape.features if f != name))

    what = _NEEDED_FOR.get(name, "what needs it")
    text = f"do without {what} (which needs a node that declares {name})"
    return Change(Suggestion("remove-feature", text, name), OWN_WISH + 1, shape=change)


def upgraded(nodes: Sequence[Node], names: Sequence[str]) -> Change:
    """The nodes declare the features: their kubelets are upgraded, or a gate is turned on."""

    def change(snapshot: Snapshot) -> None:
        for node in nodes:
            snapshot.set_node(replace(node, features=node.features | frozenset(names)))

    called = [node.name for node in nodes]
    shown = listed(called, NODES_NAMED)
    one = len(nodes) == 1
    noun, verb = ("node", "declares") if one else (f"{len(nodes)} nodes", "declare")
    it = "it" if one else "they"
    text = f"upgrade {noun} {shown} so that {it} {verb} {' and '.join(names)}"
    kind, node = ("upgrade-node", called[0]) if one else ("upgrade-nodes", "")
    subject = ",".join(names if one else called)
    return Change(Suggestion(kind, text, subject, node, len(nodes)), ADD + 2, cluster=change)
