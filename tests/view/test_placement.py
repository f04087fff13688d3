"""The account of what has no place, as text and as the JSON that docs/why.md describes."""

from __future__ import annotations

from pathlib import Path

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.engine.verdict import KINDS
from kubarium.view.why import explain

from .test_why import DRIVER, GPU_CLASS, claim, gpus, group, node, pod, texts

WHY = (Path(__file__).parents[2] / "docs" / "why.md").read_text()


def claims_world(subject, *claims, slices=(), nodes=("a",), **others):
    return {
        NODES: [node(name) for name in nodes],
        DEVICE_CLASSES: [GPU_CLASS],
        RESOURCE_SLICES: list(slices),
        RESOURCE_CLAIMS: list(claims),
        PODS: [subject],
        **others,
    }


def with_memory(item, amount):
    for device in item["spec"]["devices"]:
        device["capacity"] = {"memory": {"value": amount}}
    return item


def test_the_clause_that_turns_all_devices_away_is_named_with_what_there_is():
    memory = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("96Gi")) >= 0'
    model = f'device.attributes["{DRIVER}"].model == "H100"'
    subject = pod("user", claims=["one"])
    slices = [with_memory(gpus("a", 2, model="H100"), "80Gi")]
    documents = claims_world(subject, claim("one", [f"{model} && {memory}"]), slices=slices)
    found = explain(documents, subject)
    assert found.tightest == (
        f"`{memory}` of request gpu: 2 devices fail only it; the most there is: 80Gi"
    )
    assert texts(found) == [
        f"change `{memory}` of request gpu to 80Gi",
        f"remove selector clause `{memory}` of request gpu (the most there is: 80Gi)",
    ]
    [request] = found.devices
    assert request["failed"] == {f"selector `{memory}`": 2}
    assert request["clauses"][0]["alone"] == 2


def test_matching_devices_in_too_small_groups_are_counted():
    wanted = claim("one", count=3)
    wanted["spec"]["devices"]["constraints"] = [{"matchAttribute": f"{DRIVER}/root"}]
    item = gpus("a", 4)
    for number, device in enumerate(item["spec"]["devices"]):
        device["attributes"] = {"root": {"string": f"r{number % 2}"}}
    subject = pod("user", claims=["one"])
    found = explain(claims_world(subject, wanted, slices=[item]), subject)
    assert any(
        "wants 3 with one gpu.example.com/root; the largest group has 2" in r for r in found.reasons
    )
    assert f"remove the constraint matchAttribute {DRIVER}/root" in texts(found)
    assert "ask for 2 instead of 3 in request gpu" in texts(found)


def test_a_short_counter_is_named():
    item = gpus("a", 2)
    item["spec"]["pool"]["resourceSliceCount"] = 2
    for device in item["spec"]["devices"]:
        device["consumesCounters"] = [
            {"counterSet": "gpu-0", "counters": {"memory-slices": {"value": "8"}}}
        ]
    counters = {
        "metadata": {"name": "a-counters"},
        "spec": {
            "driver": DRIVER,
            "nodeName": "a",
            "pool": {"name": "a", "generation": 1, "resourceSliceCount": 2},
            "sharedCounters": [{"name": "gpu-0", "counters": {"memory-slices": {"value": "4"}}}],
        },
    }
    subject = pod("user", claims=["one"])
    found = explain(claims_world(subject, claim("one"), slices=[item, counters]), subject)
    text = "2 devices: counter memory-slices of set gpu-0: 4 free of 4, 8 wanted"
    assert text in found.reasons


def test_a_taint_rule_is_named_and_the_command_removes_it():
    rule = {
        "metadata": {"name": "broken"},
        "spec": {
            "deviceSelector": {"driver": DRIVER},
            "taint": {"key": "broken", "effect": "NoSchedule"},
        },
    }
    subject = pod("user", claims=["one"])
    documents = claims_world(subject, claim("one"), slices=[gpus("a", 1)])
    found = explain(documents | {DEVICE_TAINT_RULES: [rule]}, subject)
    assert "1 device: taint broken:NoSchedule (DeviceTaintRule broken)" in found.reasons
    commands = {s["text"]: s.get("command") for s in found.to_json()["suggestions"]}
    assert commands["tolerate device taint broken:NoSchedule in request gpu"] == (
        "kubectl delete devicetaintrule broken"
    )


def test_a_gang_in_one_domain_is_told_where_to_add():
    nodes = [node(name, cpu="2", labels={"rack": name[0]}) for name in ("a1", "a2", "b1")]
    wanted = group("train", 3)
    wanted["spec"]["schedulingConstraints"] = {"topology": [{"key": "rack"}]}
    pods = [pod(f"rank-{i}", cpu="2", group="train") for i in range(3)]
    documents = {NODES: nodes, PODS: pods, POD_GROUPS: [wanted]}
    found = explain(documents, wanted)
    assert found.tightest == "room for all at once: 2 of 3 pods find a place within rack=a"
    assert "rack=a: 2 of 2 nodes could take one of the pods" in found.reasons
    assert "add 1 more node like a1 in rack=a" in texts(found)
    assert "do without the topology constraint rack of pod group train" in texts(found)
    assert found.facts["domain"] == "rack=a"


def test_a_claim_that_no_pod_uses_is_explained_as_well():
    lonely = claim("lonely", count=3)
    subject = pod("other")
    found = explain(claims_world(subject, lonely, slices=[gpus("a", 2)]), lonely)
    assert found.state == "Free"
    assert "there would be no devices for it" in found.summary
    assert "add 1 more device of class gpu on node a" in texts(found)
    enough = explain(claims_world(subject, lonely, slices=[gpus("a", 3)]), lonely)
    assert enough.summary.endswith("there are devices for it now")


def test_devices_that_all_differ_are_sampled_and_it_is_said():
    subject = pod("user", claims=["one"])
    slices = []
    for number in range(21):
        item = gpus(f"n{number}", 100)
        for at, device in enumerate(item["spec"]["devices"]):
            device["attributes"] = {"uuid": {"string": f"u-{number}-{at}"}}
        slices.append(item)
    wanted = claim("one", [f'device.attributes["{DRIVER}"].uuid == "u-0-7"'], count=2)
    nodes = [f"n{number}" for number in range(21)]
    found = explain(claims_world(subject, wanted, slices=slices, nodes=nodes), subject)
    [request] = found.devices
    assert request["sampled"] is True
    assert (request["devices"], request["matching"]) == (2100, 1)
    assert sum(request["failed"].values()) == 2099
    assert [n for why, n in request["failed"].items() if why.startswith("not looked at")] == [100]


def test_who_holds_a_port_is_named():
    spec = {
        "containers": [
            {"name": "c", "image": "x", "ports": [{"hostPort": 80, "containerPort": 80}]}
        ]
    }
    holder, subject = pod("holder", on="a"), pod("web")
    holder["spec"] |= spec
    subject["spec"] |= spec
    found = explain({NODES: [node("a")], PODS: [holder, subject]}, subject)
    assert found.reasons == ("host port 80/TCP is taken (pod default/holder): a",)
    assert "do without host port 80" in texts(found)
    commands = [s.get("command") for s in found.to_json()["suggestions"]]
    assert "kubectl delete pod -n default holder" in commands


def test_one_node_can_be_asked_about():
    taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
    nodes = [node("t", cpu="1", taints=[taint]), node("u", cpu="1")]
    subject = pod("big", cpu="2")
    documents = {NODES: nodes, PODS: [subject]}
    found = explain(documents, subject, node="t")
    assert found.reasons == ("taint gpu=only:NoSchedule; Insufficient cpu: t",)
    [only] = found.to_json()["nodes"]
    assert [rule["reason"] for rule in only["rules"]] == [
        "node(s) had untolerated taint(s)",
        "Insufficient cpu",
    ]
    assert explain(documents, subject, node="x").reasons == (
        "node x: there is no node of this name",
    )


def test_the_document_lists_every_field_and_kind():
    subject = pod("user", claims=["one"])
    documents = claims_world(subject, claim("one", count=3), slices=[gpus("a", 2)])
    told = explain(documents, subject).to_json()
    for field in (*told, *told["nodes"][0], *told["devices"][0], *told["suggestions"][0]):
        assert f"{field}" in WHY, field
    for kind in KINDS:
        assert kind in WHY, kind
