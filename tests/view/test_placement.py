"""The account of what has no place, as text and as the JSON that docs/why.md describes."""

from __future__ import annotations

from pathlib import Path

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.engine.verdict import KINDS
from kubarium.view.volumes import CSI_NODES, STORAGE_CLASSES
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
    listed = WHY.partition("`kind` of a suggestion: ")[2].partition("; and Kueue's")[0]
    assert listed.replace("\n", " ").split(", ") == list(KINDS)


def volume_claim(name, volume="", storage_class="fast", modes=("ReadWriteOnce",)):
    spec = {
        "accessModes": list(modes),
        "resources": {"requests": {"storage": "10Gi"}},
        "storageClassName": storage_class,
    }
    notes = {"pv.kubernetes.io/bind-completed": "yes"} if volume else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "annotations": notes},
        "spec": {**spec, "volumeName": volume} if volume else spec,
        "status": {"phase": "Bound" if volume else "Pending"},
    }


def volume(name, zone, size="10Gi"):
    clause = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "csi": {"driver": "csi.example.com", "volumeHandle": name},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [clause]}]}},
        },
    }


def storage_class(name, mode="Immediate"):
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "csi.example.com",
        "volumeBindingMode": mode,
    }


def reading(name, *claims, on=""):
    return pod(
        name,
        on=on,
        volumes=[{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims],
    )


ZONES = [node(z, labels={"topology.kubernetes.io/zone": z}) for z in ("a", "b")]


def test_a_volume_out_of_reach_is_named_with_where_it_can_be_used():
    subject = reading("user", "data")
    documents = {
        NODES: ZONES,
        PODS: [subject],
        PERSISTENT_VOLUME_CLAIMS: [volume_claim("data", "disk-1")],
        PERSISTENT_VOLUMES: [volume("disk-1", "c")],
    }
    found = explain(documents, subject)
    assert "2 node(s) didn't match PersistentVolume's node affinity" in found.summary
    [line] = found.reasons
    assert line == (
        "the volume of claim data can only be used on nodes with topology.kubernetes.io/zone=c:"
        " a, b"
    )
    [move] = [s for s in found.suggestions if s.kind == "move-volume"]
    assert move.subject == "default/data"


def test_who_holds_a_claim_for_one_pod_is_named_and_may_end():
    subject, holder = reading("user", "data"), reading("holder", "data", on="a")
    documents = {
        NODES: ZONES,
        PODS: [subject, holder],
        PERSISTENT_VOLUME_CLAIMS: [volume_claim("data", "disk-1", modes=["ReadWriteOncePod"])],
        PERSISTENT_VOLUMES: [volume("disk-1", "a")],
    }
    found = explain(documents, subject)
    assert "is ReadWriteOncePod, and pod default/holder uses it" in " ".join(found.reasons)
    [end] = [s for s in found.suggestions if s.kind == "free-pod"]
    assert end.subject == "default/holder"
    assert found.commands[end] == "kubectl delete pod -n default holder"


def test_a_full_node_says_how_many_volumes_it_has_attached():
    subject, holder = reading("user", "data"), reading("holder", "other", on="a")
    limits = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": "a"},
        "spec": {"drivers": [{"name": "csi.example.com", "allocatable": {"count": 1}}]},
    }
    documents = {
        NODES: ZONES[:1],
        CSI_NODES: [limits],
        PODS: [subject, holder],
        PERSISTENT_VOLUME_CLAIMS: [volume_claim("data", "disk-1"), volume_claim("other", "disk-2")],
        PERSISTENT_VOLUMES: [volume("disk-1", "a"), volume("disk-2", "a")],
    }
    found = explain(documents, subject)
    assert "can attach no more volumes of csi.example.com (1 of 1 attached): a" in found.reasons
    assert {"free-pod", "add-node"} <= {s.kind for s in found.suggestions}


def test_a_claim_that_must_be_bound_first_says_what_it_waits_for():
    subject = reading("user", "data")
    documents = {
        NODES: ZONES,
        PODS: [subject],
        PERSISTENT_VOLUME_CLAIMS: [volume_claim("data", storage_class="fsat")],
        STORAGE_CLASSES: [storage_class("fast")],
    }
    assert "volume claim data: no StorageClass is called fsat; did you mean fast?" in (
        explain(documents, subject).reasons
    )
    documents[PERSISTENT_VOLUME_CLAIMS] = [volume_claim("data")]
    documents[PERSISTENT_VOLUMES] = [volume("small", "a", "1Gi")]
    assert explain(documents, subject).reasons == (
        "volume claim data: StorageClass fast leaves it to csi.example.com, which has not made a"
        " volume yet",
        "volume small: requested PV is too small",
    )
    documents[PERSISTENT_VOLUME_CLAIMS] = [volume_claim("date")]
    assert explain(documents, subject).reasons == (
        "no volume claim is called data; did you mean date?",
    )


def test_a_spread_says_which_domain_has_how_many_and_what_skew_would_do():
    key = "topology.kubernetes.io/zone"
    spread = {
        "topologyKey": key,
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }
    subject = pod("user", topologySpreadConstraints=[spread])
    others = [pod(f"web-{i}", on="a") for i in range(2)]
    for document in (subject, *others):
        document["metadata"]["labels"] = {"app": "web"}
    cordoned = node("b", labels={key: "b"}, unschedulable=True)
    documents = {NODES: [ZONES[0], cordoned], PODS: [subject, *others]}
    found = explain(documents, subject)
    assert f"topology spread over {key}, maxSkew 1: b has 0, a has 2: a" in found.reasons
    [wider] = [s for s in found.suggestions if s.kind == "raise-skew"]
    assert (wider.amount, wider.text) == (
        3,
        f"raise maxSkew of the spread over {key} from 1 to 3",
    )


def test_missing_data_says_who_has_it():
    subject = pod("user")
    subject["metadata"]["annotations"] = {
        "kubarium.dev/data": "model/llama",
        "kubarium.dev/data-locality": "required",
    }
    full = node("b", cpu="0")
    full["metadata"]["annotations"] = {"kubarium.dev/cached": '{"model/llama": "15Gi"}'}
    found = explain({NODES: [node("a"), full], PODS: [subject]}, subject)
    assert "has not cached model/llama (b has): a" in found.reasons
    assert "prefer-data" in {s.kind for s in found.suggestions}


def test_asking_for_all_devices_can_become_a_count():
    wanted = claim("one", allocationMode="All")
    del wanted["spec"]["devices"]["requests"][0]["exactly"]["count"]
    holder = claim("held")
    holder["status"] = {
        "allocation": {
            "devices": {
                "results": [{"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}]
            }
        }
    }
    subject = pod("user", claims=["one"])
    documents = claims_world(subject, wanted, holder, slices=[gpus("a", 3)])
    found = explain(documents, subject)
    [count] = [s for s in found.suggestions if s.kind == "count-devices"]
    assert count.text == "ask for 2 devices instead of all in request gpu"
    assert "1 device: in use by claim default/held" in found.reasons


def test_what_devices_take_of_their_node_is_named_where_it_is_short():
    subject = pod("user", cpu="3", claims=["one"])
    subject["spec"]["containers"][0]["resources"]["claims"] = [{"name": "one"}]
    slices = [gpus("a", 2)]
    for device in slices[0]["spec"]["devices"]:
        device["nodeAllocatableResources"] = {"cpu": {"overhead": {"perPod": "2"}}}
    documents = claims_world(subject, claim("one"), slices=slices)
    found = explain(documents, subject)
    assert (
        "Insufficient cpu for the pod together with what the devices of its claims take: a"
        in found.reasons
    )
    [more] = [s for s in found.suggestions if s.kind == "add-resource"]
    assert more.text == "1 more cpu on node a"
    assert "request at most 2 cpu (free on node a)" in texts(found)


def test_a_pod_too_large_for_a_node_with_its_devices_is_told_what_is_left_beside_them():
    subject = pod("user", cpu="9", claims=["one"])
    subject["spec"]["containers"][0]["resources"]["claims"] = [{"name": "one"}]
    slices = [gpus("a", 2)]
    for device in slices[0]["spec"]["devices"]:
        device["nodeAllocatableResources"] = {"cpu": {"overhead": {"perPod": "2"}}}
    found = explain(claims_world(subject, claim("one"), slices=slices), subject)
    assert {"request at most 2 cpu (free on node a)", "7 more cpu on node a"} <= set(texts(found))


def test_a_compatibility_group_that_keeps_a_device_is_named():
    item = gpus("a", 2)
    for device, name in zip(item["spec"]["devices"], "xy", strict=True):
        use = {"counterSet": "chip", "counters": {"slices": {"value": "1"}}}
        device["consumesCounters"] = [{**use, "compatibilityGroups": [name]}]
    item["spec"]["pool"]["resourceSliceCount"] = 2
    counters = gpus("a", 0)
    counters["metadata"]["name"] = "counters"
    del counters["spec"]["devices"]
    counters["spec"]["pool"]["resourceSliceCount"] = 2
    counters["spec"]["sharedCounters"] = [{"name": "chip", "counters": {"slices": {"value": "4"}}}]
    holder = claim("held")
    result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
    holder["status"] = {"allocation": {"devices": {"results": [result]}}}
    subject = pod("user", claims=["one"])
    found = explain(claims_world(subject, claim("one"), holder, slices=[item, counters]), subject)
    assert (
        "1 device: compatibility group y, while counter set chip is in use with x" in found.reasons
    )
