"""Pods are judged by the profile of the scheduler that they name, as the cluster tells it."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import COMPOSITE_POD_GROUPS, CONFIG_MAPS, NODES, POD_GROUPS, PODS
from kubarium.view.profiles import CONFIG_KEY, Profiles, config_map
from kubarium.view.scheduling import SchedulerConfig, read_config
from kubarium.view.why import explain

from .test_why import group, node, pod

TAINT = {"key": "only", "value": "some", "effect": "NoSchedule"}
ADDED = {"key": "disk", "operator": "In", "values": ["ssd"]}


def tolerant(name="batch", **more):
    """A profile that takes no notice of taints."""
    plugins = {"filter": {"disabled": [{"name": "TaintToleration"}]}}
    return {"schedulerName": name, "plugins": plugins, **more}


def picky(name="batch"):
    """A profile that keeps its pods to nodes with an SSD."""
    required = {"nodeSelectorTerms": [{"matchExpressions": [ADDED]}]}
    args = {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"schedulerName": name, "pluginConfig": [{"name": "NodeAffinity", "args": args}]}


def told(subject, *profiles, nodes=(), pods=(), **more):
    config = config_map(read_config({"profiles": list(profiles)}))
    documents = {
        NODES: list(nodes),
        PODS: [*pods] or [subject],
        CONFIG_MAPS: [config],
        **more,
    }
    return explain(documents, subject)


def test_what_is_published_is_what_was_read():
    config = read_config({"profiles": [tolerant(), picky("other")]})
    found = Profiles([config_map(config)])
    assert found.config == config
    assert found.names == ("batch", "other")
    assert config_map(SchedulerConfig()) is None


def test_a_pod_is_judged_by_the_profile_of_its_scheduler_which_is_said():
    waiting = pod("p", cpu="8", schedulerName="batch")
    found = told(
        waiting,
        tolerant(),
        {"schedulerName": "default-scheduler"},
        nodes=[node("a", taints=[TAINT])],
    )
    assert "Insufficient cpu" in found.summary
    assert "taint" not in found.summary
    line = "judged by the profile of scheduler batch, which is not the default one"
    assert line in found.reasons


def test_a_pod_of_another_scheduler_is_judged_by_the_usual_rules_and_nothing_is_said():
    waiting = pod("p", cpu="8")
    found = told(
        waiting,
        {"schedulerName": "default-scheduler"},
        tolerant(),
        nodes=[node("a", taints=[TAINT])],
    )
    assert "untolerated taint" in found.summary
    assert not any("profile" in line for line in found.reasons)


def test_what_a_profile_adds_is_named_as_what_is_in_the_way():
    found = told(pod("p", schedulerName="batch"), picky(), nodes=[node("a")])
    assert "didn't match scheduler-enforced node affinity" in found.summary


def test_a_pod_that_fits_by_its_own_profile_is_said_to_fit():
    found = told(pod("p", schedulerName="batch"), tolerant(), nodes=[node("a", taints=[TAINT])])
    assert found.summary == "the pod fits now; the scheduler has not placed it yet"


def test_a_scheduler_that_does_not_exist_is_named_beside_those_that_do():
    found = told(
        pod("p", schedulerName="bathc"),
        {"schedulerName": "default-scheduler"},
        tolerant(),
        nodes=[node("a")],
    )
    assert found.reasons == ("no scheduler is called bathc; did you mean batch?",)
    assert [s.kind for s in found.suggestions] == ["change-scheduler"]
    assert found.suggestions[0].subject == "batch"
    picky_one = picky() | {"schedulerName": "batch"}
    default = {"schedulerName": "default-scheduler"}
    found = told(pod("p", schedulerName="bathc"), default, picky_one, nodes=[node("a")])
    assert found.suggestions[0].subject == "default-scheduler"


def test_where_nobody_is_the_default_scheduler_pods_that_name_none_are_told():
    found = told(pod("p"), tolerant(), nodes=[node("a", taints=[TAINT])])
    assert found.summary.startswith("the pod asks for the scheduler default-scheduler")
    assert [s.subject for s in found.suggestions] == ["batch"]


def test_gangs_are_judged_by_their_profile():
    members = [pod(f"p{i}", cpu="3", group="gang", schedulerName="batch") for i in range(2)]
    gang = group("gang", 2)
    nodes = [node("a", taints=[TAINT]), node("b", cpu="1")]
    documents = {POD_GROUPS: [gang]}
    config = config_map(read_config({"profiles": [tolerant()]}))
    found = explain({NODES: nodes, PODS: members, CONFIG_MAPS: [config], **documents}, gang)
    assert "taint" not in found.summary
    assert "Insufficient cpu" in " ".join((found.summary, *found.reasons))
    assert "judged by the profile of scheduler batch, which is not the default one" in found.reasons
    roomy = [node("a", taints=[TAINT]), node("b", taints=[TAINT])]
    found = explain({NODES: roomy, PODS: members, CONFIG_MAPS: [config], **documents}, gang)
    assert found.summary == "the group fits now; the scheduler has not placed it yet"


def test_hierarchies_are_judged_by_their_profile():
    composite = {
        "apiVersion": "scheduling.k8s.io/v1alpha3",
        "kind": "CompositePodGroup",
        "metadata": {"name": "job", "namespace": "default", "uid": "uid-job"},
        "spec": {"schedulingPolicy": {"gang": {"minGroupCount": 1}}},
    }
    gang = group("gang", 2)
    gang["spec"]["parentCompositePodGroupName"] = "job"
    members = [pod(f"p{i}", cpu="3", group="gang", schedulerName="batch") for i in range(2)]
    config = config_map(read_config({"profiles": [tolerant()]}))

    def found(*nodes):
        return explain(
            {
                NODES: list(nodes),
                PODS: members,
                POD_GROUPS: [gang],
                COMPOSITE_POD_GROUPS: [composite],
                CONFIG_MAPS: [config],
            },
            composite,
        )

    roomy = found(node("a", taints=[TAINT]), node("b", taints=[TAINT]))
    assert roomy.summary == "the hierarchy fits now; the scheduler has not placed it yet"
    tight = found(node("a", taints=[TAINT]))
    assert tight.state == "Pending"
    assert "judged by the profile of scheduler batch, which is not the default one" in tight.reasons


@pytest.mark.parametrize("text", ["[", "profiles: 3", "a: b", "", "- 1\n- 2", "profiles: [{}, {}]"])
def test_what_cannot_be_read_is_said_and_the_usual_rules_hold(text):
    document = config_map(read_config({"profiles": [tolerant()]}))
    document["data"] = {CONFIG_KEY: text}
    waiting = pod("p", cpu="8")
    found = explain({NODES: [node("a")], PODS: [waiting], CONFIG_MAPS: [document]}, waiting)
    assert "Insufficient cpu" in found.summary
    [line] = [line for line in found.reasons if "ConfigMap kube-system/kube-scheduler" in line]
    assert "the default profile is taken for all" in line
