"""What kube-scheduler 1.36 answered of small worlds, plugin by plugin, and what we answer.

``recorded.jsonl`` has a world a line: objects, pods that wait, perhaps a configuration, and for
each of the pods kube-scheduler's total score of every node that it may take, the reasons of every
other, and its text if there is no node at all. The worlds were drawn at random, for themes that
``about`` names; those in which we depart on purpose (docs/differences.md) are not among them.
``recorded_preemption.jsonl`` has, for the pod ``ns/p``, the node that was nominated for it and who
was to go, or the text where nobody was. Worlds in which kube-scheduler draws lots are not there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.decode import conform
from kubarium.api.defaulting import default
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT
from kubarium.engine.plan import QueueItem
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView
from kubarium.view.scheduling import SchedulerConfig, read_config

CATALOG = Catalog.builtin()


def recorded(name):
    """The lines of a file beside this one, each a parameter of a test."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    worlds = [json.loads(line) for line in lines]
    return [pytest.param(w, id=f"{n}-{'+'.join(w['about'])}") for n, w in enumerate(worlds)]


def stored(document):
    """The document as the API server would have stored it."""
    kind = CATALOG.for_document(document["apiVersion"], document["kind"])
    status = document.get("status")
    conform(kind, document)
    default(kind, document)
    if status is not None:
        document["status"] = status
    return kind.storage, document


def seen(objects, config):
    """The cluster as the scheduler sees it."""
    view = ClusterView()
    view.reader.spreading.defaults.update(config.spread_defaults)
    documents = [stored(document) for document in objects]
    for resource in SNAPSHOT_RESOURCES:
        for found, document in documents:
            if found == resource:
                view.apply(resource, None, document)
    return view


@pytest.mark.parametrize("world", recorded("recorded.jsonl"))
def test_nodes_scores_and_reasons_are_kube_schedulers(world):
    config = read_config(world["config"]) if "config" in world else SchedulerConfig()
    view = seen(world["objects"], config)
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
        none = bool(account.everywhere)  # nothing was asked of any node
        able = {name: score for name, score in ours.items() if score >= 0 and not none}
        assert able.keys() == answer["scores"].keys()
        lowest, theirs = min(able.values(), default=0), answer["scores"]
        least = min(theirs.values(), default=0)
        # What is the same for all nodes may be left out of a score.
        assert {n: s - lowest for n, s in able.items()} == {n: s - least for n, s in theirs.items()}
        if not none:
            told = {name: sorted(account.by_node[name]) for name in answer["reasons"]}
            assert told == {name: sorted(why) for name, why in answer["reasons"].items()}
        if "message" in answer:
            assert account.message() == answer["message"]


@pytest.mark.parametrize("world", recorded("recorded_preemption.jsonl"))
def test_who_has_to_go_is_kube_schedulers_choice(world):
    view = seen(world["objects"], SchedulerConfig())
    waiting = [d for d in world["objects"] if d["kind"] == "Pod" and "nodeName" not in d["spec"]]
    [preemptor] = [d for d in waiting if d["metadata"]["name"] == "p"]
    nominated = [
        (view.pod(d), name)
        for d in waiting
        if (name := (d.get("status") or {}).get("nominatedNodeName")) in view.snapshot.rows
    ]
    item, answer = QueueItem((view.pod(preemptor),)), world["answer"]
    [decision] = plan_cycle(Placer(view.snapshot), [item], nominated=nominated).decisions
    if "message" in answer:
        assert decision.preemption is None
        assert decision.unplaced[0][1].message().strip() == answer["message"]
        return
    [(_, node)] = decision.preemption.nominations
    victims = {"/".join(pod.key) for pod in decision.preemption.victims if not pod.terminating}
    assert (node, sorted(victims)) == (answer["node"], answer["victims"])
