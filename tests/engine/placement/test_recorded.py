"""What kube-scheduler 1.36 answered of small worlds, plugin by plugin, and what we answer.

``recorded.jsonl`` has a world a line: objects, pods that wait, perhaps a configuration, and for
each of the pods kube-scheduler's total score of every node that it may take, the reasons of every
other, and its text if there is no node at all. The worlds were drawn at random, for themes that
``about`` names; those in which we depart on purpose (docs/differences.md) are not among them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView
from kubarium.view.scheduling import SchedulerConfig, read_config

CATALOG = Catalog.builtin()
WORLDS = [
    json.loads(line) for line in Path(__file__).with_name("recorded.jsonl").read_text().splitlines()
]


def stored(document):
    """The document as the API server would have stored it."""
    kind = CATALOG.for_document(document["apiVersion"], document["kind"])
    status = document.get("status")
    conform(kind, document)
    default(kind, document)
    if status is not None:
        document["status"] = status
    return kind.storage, document


@pytest.mark.parametrize(
    "world", WORLDS, ids=[f"{n}-{'+'.join(w['about'])}" for n, w in enumerate(WORLDS)]
)
def test_nodes_scores_and_reasons_are_kube_schedulers(world):
    config = read_config(world["config"]) if "config" in world else SchedulerConfig()
    view = ClusterView()
    view.reader.spreading.defaults.update(config.spread_defaults)
    documents = [stored(document) for document in world["objects"]]
    for resource in SNAPSHOT_RESOURCES:
        for found, document in documents:
            if found == resource:
                view.apply(resource, None, document)
    placers = {
        profile.scheduler_name: Placer(view.snapshot, DEFAULT if profile == DEFAULT else profile)
        for profile in config.profiles
    }
    for document, answer in zip(world["pending"], world["answers"], strict=True):
        _, waiting = stored(document)
        placer = placers[waiting["spec"].get("schedulerName") or "default-scheduler"]
        pod = view.pod(waiting)
        scores, account = np.asarray(placer.scores(pod)), placer.account(pod)
        ours = {name: int(scores[row]) for name, row in view.snapshot.rows.items()}
        able = {name: score for name, score in ours.items() if score >= 0}
        assert able.keys() == answer["scores"].keys()
        lowest, theirs = min(able.values(), default=0), answer["scores"]
        least = min(theirs.values(), default=0)
        # What is the same for all nodes may be left out of a score.
        assert {n: s - lowest for n, s in able.items()} == {n: s - least for n, s in theirs.items()}
        if not account.everywhere:
            told = {name: sorted(account.by_node[name]) for name in answer["reasons"]}
            assert told == {name: sorted(why) for name, why in answer["reasons"].items()}
        if "message" in answer:
            assert account.message() == answer["message"]
