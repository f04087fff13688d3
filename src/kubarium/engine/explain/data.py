"""Data that a pod wants cached on its node: who has it, what may be meant, what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from kubarium.base.quoted import listed
from kubarium.engine.explain.subject import ADD, OWN_WISH, Change
from kubarium.engine.model import Node, PodShape
from kubarium.engine.placement import locality
from kubarium.engine.placement.locality import IMAGE
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import Suggestion

# Nodes named in a text; the subject of a suggestion has them all.
NODES_NAMED = 3

# Names that are compared with one that nobody knows.
NAMES_COMPARED = 1_000


def data_rule(snapshot: Snapshot, name: str) -> tuple[str, Mask, list[Change]]:
    """In words, who passes, and what lifts it everywhere."""
    mask = locality.cached(snapshot, name)
    nodes = [n.name for row in np.flatnonzero(mask).tolist() if (n := snapshot.nodes[row])]
    more = f" and {len(nodes) - NODES_NAMED} more" if len(nodes) > NODES_NAMED else ""
    have = ", ".join(sorted(nodes)[:NODES_NAMED]) or "no node"
    meant = "" if nodes else _close(snapshot, name)
    hint = f"; did you mean {meant}?" if meant else ""
    text = f"has not cached {name} ({have}{more} {'have' if len(nodes) > 1 else 'has'}{hint})"
    return text, mask, [_preferred(), *([_renamed(name, meant)] if meant else [])]


def _close(snapshot: Snapshot, name: str) -> str:
    """A name of its sort that some node has, and that may be meant; "" if none is close."""
    image = name.startswith(IMAGE)
    book = snapshot.images if image else snapshot.data
    known = [one for one, rows in book.items() if rows][:NAMES_COMPARED]
    found = get_close_matches(name.removeprefix(IMAGE) if image else name, known, 1, 0.75)
    return f"{IMAGE if image else ''}{found[0]}" if found else ""


def _preferred() -> Change:
    """Nodes that have the pod's data cached are preferred, no longer required."""

    def change(shape: PodShape) -> PodShape:
        return replace(shape, data_required=False)

    text = "prefer nodes that have cached the pod's data instead of requiring it"
    return Change(Suggestion("prefer-data", text, "data"), OWN_WISH, shape=change)


def _renamed(name: str, meant: str) -> Change:
    def change(shape: PodShape) -> PodShape:
        return replace(shape, data=tuple(meant if one == name else one for one in shape.data))

    text = f"name the data {meant} instead of {name}"
    return Change(Suggestion("correct-data", text, meant), OWN_WISH - 1, shape=change)


def cached_on(nodes: Sequence[Node], names: Sequence[str]) -> Change:
    """The nodes get the data: whoever fills their caches puts it there."""
    images = tuple((name.removeprefix(IMAGE), 0) for name in names if name.startswith(IMAGE))
    others = {name: 0 for name in names if not name.startswith(IMAGE)}

    def change(snapshot: Snapshot) -> None:
        for node in nodes:
            data = tuple(sorted((others | dict(node.data)).items()))
            snapshot.set_node(replace(node, data=data, images=(*node.images, *images)))

    called = [node.name for node in nodes]
    one = len(nodes) == 1
    noun = "node" if one else f"{len(nodes)} nodes"
    text = f"cache {' and '.join(names)} on {noun} {listed(called, NODES_NAMED)}"
    subject = ",".join(names if one else called)
    suggestion = Suggestion("cache-data", text, subject, called[0] if one else "", len(nodes))
    return Change(suggestion, ADD + 1, cluster=change)
