"""The default spread: whose selectors say which pods are counted."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import REPLICA_SETS, SERVICES
from kubarium.engine.selectors import Requirement
from kubarium.view.spreading import REPLICATION_CONTROLLERS, STATEFUL_SETS, Spreading

APP, TIER = (Requirement(key, "In", ("x",)) for key in ("app", "tier"))


def named(name, **spec):
    return {"metadata": {"namespace": "ns", "name": name}, "spec": spec}


def pod(version, kind, *, controller=True):
    owner = {"apiVersion": version, "kind": kind, "name": "o", "controller": controller}
    metadata = {"name": "p", "namespace": "ns", "labels": {"app": "x", "tier": "x"}}
    return {"metadata": {**metadata, "ownerReferences": [owner]}, "spec": {}}


def clauses(spreading, document):
    return {c.selector.requirements for c in spreading.constraints(document)}


@pytest.fixture
def spreading():
    found = Spreading()
    found.apply(REPLICATION_CONTROLLERS, None, named("o", selector={"app": "x"}))
    found.apply(REPLICA_SETS, None, named("o", selector={"matchLabels": {"tier": "x"}}))
    exists = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    found.apply(STATEFUL_SETS, None, named("o", selector=exists))
    return found


@pytest.mark.parametrize(
    ("version", "kind", "expected"),
    [
        ("v1", "ReplicationController", {(APP,)}),
        ("apps/v1", "ReplicaSet", {(TIER,)}),
        ("apps/v1", "StatefulSet", {(Requirement("app", "Exists"),)}),
        ("apps.example.com/v1", "StatefulSet", set()),  # of the same name, but another kind
        ("v1", "ReplicaSet", set()),
        ("batch/v1", "Job", set()),
    ],
)
def test_the_owner_is_known_by_group_version_and_kind(spreading, version, kind, expected):
    assert clauses(spreading, pod(version, kind)) == expected


def test_only_the_owner_that_controls_the_pod_counts(spreading):
    assert clauses(spreading, pod("apps/v1", "ReplicaSet", controller=False)) == set()


def test_services_that_select_the_pod_come_on_top(spreading):
    spreading.apply(SERVICES, None, named("s", selector={"app": "x"}))
    spreading.apply(SERVICES, None, named("other", selector={"app": "y"}))
    assert clauses(spreading, pod("apps/v1", "ReplicaSet")) == {(APP, TIER)}


def test_an_owner_that_is_gone_selects_nothing(spreading):
    spreading.apply(REPLICATION_CONTROLLERS, named("o", selector={"app": "x"}), None)
    assert clauses(spreading, pod("v1", "ReplicationController")) == set()
