"""Reading many lists from clusters that are not ours: other versions, and what may not be read."""

import asyncio

import pytest

from kubarium.api.kinds import (
    DEVICE_TAINT_RULES,
    EVENTS,
    NODES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    WORKLOADS,
)
from kubarium.api.resource import ListResult
from kubarium.base.errors import ApiError
from kubarium.client.gather import gather
from kubarium.client.known_versions import as_wanted
from kubarium.view.why import explain

OLD_GROUPS = POD_GROUPS._replace(version="v1alpha2")
OLD_RULES = DEVICE_TAINT_RULES._replace(version="v1beta2")
REFERENCE = {"workload": {"workloadName": "w", "podGroupTemplateName": "t"}}
OLD_GROUP = {
    "metadata": {"name": "g", "namespace": "default"},
    "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}, "podGroupTemplateRef": REFERENCE},
}


class Elsewhere:
    """A cluster with these lists; an ApiError is raised, and what is not there is not served."""

    def __init__(self, lists):
        self.lists = lists
        self.asked = []

    async def list(self, resource, namespace="", **options):
        self.asked.append(resource)
        found = self.lists.get(resource, ApiError(404, "NotFound", "no such path"))
        if isinstance(found, ApiError):
            raise found
        return ListResult(found, "1")


def read(lists, *resources, **how):
    cluster = Elsewhere(lists)
    return asyncio.run(gather(cluster, resources, **how)), cluster


def test_a_version_that_is_not_served_is_read_in_another_and_restated():
    rule = {"metadata": {"name": "r"}, "spec": {"taint": {"key": "k", "effect": "NoExecute"}}}
    found, _ = read({OLD_RULES: [rule], OLD_GROUPS: [OLD_GROUP]}, DEVICE_TAINT_RULES, POD_GROUPS)
    [restated] = found[DEVICE_TAINT_RULES]
    assert restated["apiVersion"] == "resource.k8s.io/v1"
    assert restated["spec"] == rule["spec"]
    [group] = found[POD_GROUPS]
    assert group["apiVersion"] == "scheduling.k8s.io/v1beta1"
    assert group["spec"]["schedulingPolicy"] == {"gang": {"minCount": 2}}
    assert "podGroupTemplateRef" not in group["spec"]  # its present form is another
    assert "podGroupTemplateRef" in OLD_GROUP["spec"]


def test_the_wanted_version_is_asked_for_first_and_a_kind_that_nobody_has_is_none():
    found, cluster = read({POD_GROUPS: [], OLD_GROUPS: [OLD_GROUP]}, POD_GROUPS)
    assert (found[POD_GROUPS], cluster.asked) == ([], [POD_GROUPS])
    found, cluster = read({}, POD_GROUPS, WORKLOADS, PODS)
    assert found == {POD_GROUPS: [], WORKLOADS: [], PODS: []}
    assert OLD_GROUPS in cluster.asked


def test_what_may_not_be_read_is_told_unless_it_is_needed():
    refused = ApiError(403, "Forbidden", "no")
    lists = {NODES: [], PODS: refused, EVENTS: refused}
    found, _ = read(lists, NODES, PODS, EVENTS, needed=(NODES,))
    assert found.withheld == [PODS, EVENTS]
    assert found[EVENTS] == []
    for needed in (None, (PODS,)):
        with pytest.raises(ApiError) as raised:
            read(lists, NODES, PODS, EVENTS, needed=needed)
        assert raised.value is refused


def test_an_answer_says_what_its_reader_may_not_list():
    pod = {"kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {}}
    documents = {NODES: [], PODS: [pod]}
    told = explain(documents, pod, withheld=[POD_DISRUPTION_BUDGETS, EVENTS])
    assert told.reasons[-1] == (
        "you may not list poddisruptionbudgets.policy, events: what they say is left out"
    )
    assert not any("may not list" in line for line in explain(documents, pod).reasons)


def test_the_object_that_is_asked_about_is_restated_too():
    asked = as_wanted(OLD_GROUP, OLD_GROUPS, (PODS, POD_GROUPS))
    assert asked["apiVersion"] == "scheduling.k8s.io/v1beta1"
    assert as_wanted(OLD_GROUP, OLD_GROUPS, (PODS,)) is OLD_GROUP
    assert as_wanted(OLD_GROUP, POD_GROUPS, (PODS, POD_GROUPS)) is OLD_GROUP
