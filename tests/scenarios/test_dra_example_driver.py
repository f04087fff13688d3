"""The dra-example-driver's demos: its manifests as published, and what their readers are to see.

Pods are real processes where the outcome is in their logs; where it takes minutes it is played on
the virtual clock. Demos that the folder of published manifests lacks are written out here.
"""

import json
import re

import pytest

from kubarium.api.kinds import (
    DEPLOYMENTS,
    DEVICE_TAINT_RULES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.logs import LogOptions
from kubarium.base.errors import ApiError
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_real, run_virtual

DRIVER = "gpu.example.com"
HIGH_MEMORY = {"cpu": "16", "memory": "64Gi"}


@pytest.fixture(scope="session")
def demos(shared):
    folder = shared / "manifests" / "dra-example-driver" / "demo" / "examples"
    if not folder.is_dir():
        pytest.skip("the example driver's manifests are absent from the upstream data folder")
    return lambda path: (folder / f"{path}.yaml").read_text()


def cluster_with(*devices, runtime="process", nodes=1):
    return ClusterFile([NodePool("node", nodes, runtime, dict(HIGH_MEMORY), devices=list(devices))])


def gpus(count=8, **options):
    return {"profile": DRIVER, "count": count, **options}


@pytest.fixture
def play(tmp_path):
    """Runs a story with real processes on one node with these devices."""

    def run(story, *devices):
        return run_real(story, tmp_path, file=cluster_with(*(devices or (gpus(),))))

    return run


def play_virtually(story, *devices):
    return run_virtual(story, file=cluster_with(*(devices or (gpus(),)), runtime="simulated"))


async def running(cluster, namespace, count, timeout_s=30):
    """All pods of a namespace once so many run, by name."""

    async def ask():
        pods = await cluster.pods(namespace)
        ready = [p for p in pods if p.get("status", {}).get("phase") == "Running"]
        return pods if len(ready) == count == len(pods) else []

    pods = await cluster.until(ask, timeout_s, f"{count} pods of {namespace} run")
    return {pod["metadata"]["name"]: pod for pod in pods}


async def printed(cluster, namespace, pod, container="ctr0"):
    """The variables that a container's ``export`` printed, once it did."""

    async def ask():
        options = LogOptions(container=container)
        text = b""
        try:
            async for piece in cluster.embedded.logs(namespace, pod, options):
                text += piece
        except ApiError:
            return {}
        found = dict(re.findall(r'^declare -x (\w+)="(.*)"$', text.decode(), re.MULTILINE))
        # In order of name: the shell's own come after the devices'.
        return found if {"DRA_RESOURCE_DRIVER_NAME", "SHLVL"} <= found.keys() else {}

    return await cluster.until(ask, 20, f"{pod}/{container} printed its variables")


def devices_in(env, kind="GPU"):
    pattern = re.compile(rf"{kind}_DEVICE_(\d+(?:_PARTITION_\d+|_FULL)?)")
    return {value for name, value in env.items() if pattern.fullmatch(name)}


async def claims(cluster, namespace):
    return (await cluster.client.list(RESOURCE_CLAIMS, namespace)).items


def results(claim):
    return claim["status"]["allocation"]["devices"]["results"]


async def gone(cluster, namespace, name):
    try:
        await cluster.get(PODS, name, namespace)
    except ApiError as error:
        return error.code == 404
    return False


def pod_text(name, claim, namespace="default", source="resourceClaimTemplateName", **resources):
    limits = f"limits: {json.dumps(resources['limits'])}" if resources.get("limits") else ""
    claimed = "claims: [{name: it}]" if claim else ""
    tail = f"  resourceClaims: [{{name: it, {source}: {claim}}}]" if claim else ""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  containers:
  - name: ctr0
    image: ubuntu:22.04
    command: ["bash", "-c"]
    args: ["export; trap 'exit 0' TERM; sleep 9999 & wait"]
    resources: {{{limits or claimed}}}
{tail}
"""


def claim_text(name, device_class, kind="ResourceClaim", **exactly):
    request = {"name": "it", "exactly": {"deviceClassName": device_class, **exactly}}
    spec = {"devices": {"requests": [request]}}
    return "---\n" + json.dumps(
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {"spec": spec} if kind == "ResourceClaimTemplate" else spec,
        }
    )


# Claims ------------------------------------------------------------------------------------------


def test_two_pods_from_one_template_have_different_gpus(play):
    async def story(cluster):
        await cluster.apply(
            claim_text("single-gpu", DRIVER, "ResourceClaimTemplate")
            + "\n---"
            + pod_text("pod0", "single-gpu")
            + "\n---"
            + pod_text("pod1", "single-gpu")
        )
        await running(cluster, "default", 2)
        found = [devices_in(await printed(cluster, "default", p)) for p in ("pod0", "pod1")]
        assert [len(devices) for devices in found] == [1, 1]
        assert found[0] != found[1]

    play(story)


def test_one_container_with_two_gpus(play, demos):
    name = "basic-multiple-requests"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 1)
        env = await printed(cluster, name, "pod0")
        assert len(devices_in(env)) == 2
        assert env["DRA_RESOURCE_DRIVER_NAME"] == DRIVER
        assert env["DRA_ADMIN_ACCESS"] == "false"

    play(story)


def test_two_containers_share_a_gpu_by_time_slicing(play, demos):
    name = "basic-shared-claim-across-containers"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 1)
        one, two = [await printed(cluster, name, "pod0", c) for c in ("ctr0", "ctr1")]
        (device,) = devices_in(one)
        assert devices_in(two) == {device}
        number = device.removeprefix("gpu-")
        assert one[f"GPU_DEVICE_{number}_SHARING_STRATEGY"] == "TimeSlicing"
        assert one[f"GPU_DEVICE_{number}_TIMESLICE_INTERVAL"] == "Default"

    play(story)


def test_two_pods_share_a_claim(play, demos):
    name = "basic-shared-claim-across-pods"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 2)
        one, two = [devices_in(await printed(cluster, name, p)) for p in ("pod0", "pod1")]
        assert len(one) == 1
        assert one == two
        (claim,) = await claims(cluster, name)
        users = {entry["name"] for entry in claim["status"]["reservedFor"]}
        assert users == {"pod0", "pod1"}

    play(story)


def test_opaque_configuration_reaches_the_requests_it_names(play, demos):
    name = "basic-resourceclaim-opaque-config"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 1)
        seen = {}
        for container in ("ts-ctr0", "ts-ctr1", "sp-ctr0", "sp-ctr1"):
            env = await printed(cluster, name, "pod0", container)
            (device,) = devices_in(env)
            prefix = f"GPU_DEVICE_{device.removeprefix('gpu-')}_"
            own = {k.removeprefix(prefix): v for k, v in env.items() if k.startswith(prefix)}
            seen[container] = (device, own)
        assert seen["ts-ctr0"] == seen["ts-ctr1"]
        assert seen["sp-ctr0"] == seen["sp-ctr1"]
        assert seen["ts-ctr0"][0] != seen["sp-ctr0"][0]
        assert seen["ts-ctr0"][1] == {
            "SHARING_STRATEGY": "TimeSlicing",
            "TIMESLICE_INTERVAL": "Long",
        }
        assert seen["sp-ctr0"][1] == {
            "SHARING_STRATEGY": "SpacePartitioning",
            "PARTITION_COUNT": "10",
        }

    play(story)


def test_the_init_container_has_the_main_containers_gpu(play):
    async def story(cluster):
        text = pod_text("pod0", "single-gpu").replace(
            "  containers:",
            """  initContainers:
  - name: init0
    image: ubuntu:22.04
    command: ["bash", "-c", "export"]
    resources: {claims: [{name: it}]}
  containers:""",
        )
        await cluster.apply(
            claim_text("single-gpu", DRIVER, "ResourceClaimTemplate") + "\n---" + text
        )
        await running(cluster, "default", 1)
        before = devices_in(await printed(cluster, "default", "pod0", "init0"))
        after = devices_in(await printed(cluster, "default", "pod0", "ctr0"))
        assert len(before) == 1
        assert before == after

    play(story)


def test_admin_access_sees_all_gpus_even_those_in_use(play, demos):
    async def story(cluster):
        await cluster.apply(
            claim_text("held", DRIVER)
            + "\n---"
            + pod_text("user", "held", source="resourceClaimName")
        )
        await running(cluster, "default", 1)
        await cluster.apply(demos("admin-access/admin-access"))
        await running(cluster, "admin-access", 1)
        env = await printed(cluster, "admin-access", "pod0")
        assert env["DRA_ADMIN_ACCESS"] == "true"
        assert devices_in(env) == {f"gpu-{number}" for number in range(8)}

    play(story)


def test_admin_access_needs_the_namespaces_label(demos):
    async def story(cluster):
        text = demos("admin-access/admin-access").replace(
            'resource.kubernetes.io/admin-access: "true"', "harmless: label"
        )
        with pytest.raises(ApiError, match="admin access to devices requires"):
            await cluster.apply(text)

    play_virtually(story)


def test_cel_selects_by_model_and_memory(play, demos):
    async def story(cluster):
        await cluster.apply(demos("cel-selector/cel-selector"))
        await running(cluster, "cel-selector", 1)
        assert devices_in(await printed(cluster, "cel-selector", "pod0")) == {"gpu-0"}

    small = gpus(
        2, model="LATEST-GPU-MODEL", capacity={"memory": "2Gi"}, driver="small.example.com"
    )
    play(story, gpus(1), small)


def test_cel_leaves_devices_of_another_model(demos):
    async def story(cluster):
        await cluster.apply(demos("cel-selector/cel-selector"))
        condition = await cluster.until(
            lambda: cluster.condition(PODS, "pod0", "PodScheduled", "cel-selector"), 30
        )
        assert "cannot allocate all claims" in condition["message"]

    play_virtually(story, gpus(8, model="OLD-GPU-MODEL"))


def test_alternatives_are_tried_in_order(demos):
    name = "prioritized-alternatives"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 2)
        chosen = {
            c["metadata"]["name"][:4]: results(c)[0]["request"] for c in await claims(cluster, name)
        }
        assert chosen == {"pod0": "gpu/older-gpu", "pod1": "gpu/latest-gpu"}

    play_virtually(story)


# Extended resources ------------------------------------------------------------------------------


def test_extended_resources_become_claims(play):
    async def story(cluster):
        await cluster.apply(
            pod_text("pod0", "", limits={f"deviceclass.resource.kubernetes.io/{DRIVER}": 1})
            + "\n---"
            + pod_text("pod1", "", limits={"example.com/gpu": 2})
        )
        pods = await running(cluster, "default", 2)
        seen = [devices_in(await printed(cluster, "default", p)) for p in ("pod0", "pod1")]
        assert [len(devices) for devices in seen] == [1, 2]
        assert not seen[0] & seen[1]
        made = {c["metadata"]["name"]: c for c in await claims(cluster, "default")}
        status = pods["pod1"]["status"]["extendedResourceClaimStatus"]
        assert status["requestMappings"] == [
            {
                "containerName": "ctr0",
                "resourceName": "example.com/gpu",
                "requestName": "container-0-request-0",
            }
        ]
        claim = made[status["resourceClaimName"]]
        metadata = claim["metadata"]
        assert metadata["annotations"] == {"resource.kubernetes.io/extended-resource-claim": "true"}
        assert metadata["ownerReferences"][0]["name"] == "pod1"
        assert [r["request"] for r in results(claim)] == ["container-0-request-0"] * 2
        await cluster.client.delete(PODS, "pod1", "default", grace_period_s=0)

        async def freed():
            return len(await claims(cluster, "default")) == 1

        await cluster.until(freed, 20)

    play(story, gpus(3, extendedResourceName="example.com/gpu"))


def test_an_extended_resource_without_a_class_is_insufficient():
    async def story(cluster):
        await cluster.apply(pod_text("pod1", "", limits={"example.com/gpu": 1}))
        condition = await cluster.until(lambda: cluster.condition(PODS, "pod1", "PodScheduled"), 30)
        assert "Insufficient example.com/gpu" in condition["message"]

    play_virtually(story)


# Partitions and shares ---------------------------------------------------------------------------


def test_two_partitions_make_the_whole_gpu_unavailable(play, demos):
    name = "partitionable-devices"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 1)
        found = devices_in(await printed(cluster, name, "pod0"))
        assert len(found) == 2
        assert all(re.fullmatch(r"gpu-0-partition-\d", device) for device in found)
        full = {"cel": {"expression": f"device.attributes['{DRIVER}'].?full.orValue(false)"}}
        await cluster.apply(
            claim_text("whole", DRIVER, selectors=[full])
            + "\n---"
            + pod_text("late", "whole", source="resourceClaimName")
        )
        condition = await cluster.until(lambda: cluster.condition(PODS, "late", "PodScheduled"), 20)
        assert condition["status"] == "False"
        assert "cannot allocate all claims" in condition["message"]

    play(story, gpus(1, partitions=4))


@pytest.mark.parametrize(
    ("options", "memory", "compute", "device"),
    [({}, "16Gi", "20", "gpu-0"), ({"partitions": 4}, "8Gi", "10", "gpu-0-partition-0")],
)
def test_two_pods_share_one_device_by_capacity(play, options, memory, compute, device):
    async def story(cluster):
        wanted = {"requests": {"memory": memory, "compute": compute}}
        for pod in ("pod0", "pod1"):
            await cluster.apply(
                claim_text(f"shared-{pod}", DRIVER, capacity=wanted)
                + "\n---"
                + pod_text(pod, f"shared-{pod}", source="resourceClaimName")
            )
        await running(cluster, "default", 2)
        allocated = [results(c)[0] for c in await claims(cluster, "default")]
        assert [r["device"] for r in allocated] == [device, device]
        assert len({r["shareID"] for r in allocated}) == 2
        assert all(
            r["consumedCapacity"] == {"memory": memory, "compute": compute} for r in allocated
        )
        stem = "GPU_DEVICE_" + device.removeprefix("gpu-").upper().replace("-", "_")
        for pod in ("pod0", "pod1"):
            env = await printed(cluster, "default", pod)
            assert (env[f"{stem}_MEMORY"], env[f"{stem}_COMPUTE"]) == (memory, compute)

    play(story, gpus(1, allowMultiple=True, **options))


def test_bandwidth_of_one_nic_is_shared(play):
    async def story(cluster):
        for pod, ingress in (("pod0", "10G"), ("pod1", "5G")):
            wanted = {"requests": {"ingressBandwidth": ingress, "egressBandwidth": "5G"}}
            await cluster.apply(
                claim_text(
                    f"nic-{pod}", "net.example.com", "ResourceClaimTemplate", capacity=wanted
                )
                + "\n---"
                + pod_text(pod, f"nic-{pod}")
            )
        await running(cluster, "default", 2)
        rates = {}
        for pod in ("pod0", "pod1"):
            env = await printed(cluster, "default", pod)
            rates[pod] = (env["NET_DEVICE_0_INGRESS_RATE"], env["NET_DEVICE_0_EGRESS_RATE"])
        assert rates == {
            "pod0": ("10000000000", "5000000000"),
            "pod1": ("5000000000", "5000000000"),
        }
        for claim in await claims(cluster, "default"):
            assert results(claim)[0]["device"] == "nic-0"
            assert results(claim)[0]["consumedCapacity"]["egressBandwidth"] == "5G"

    play(story, {"profile": "net.example.com", "count": 1})


def test_cpus_of_one_numa_device_are_shared(play):
    async def story(cluster):
        request = {
            "deviceClassName": "cpu.example.com",
            "capacity": {"requests": {"cpu.example.com/cpu": "1"}},
        }
        requests = [{"name": f"cpu{i}", "exactly": request} for i in range(2)]
        await cluster.apply(
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaimTemplate",
                "metadata": {"name": "two-cpus"},
                "spec": {"spec": {"devices": {"requests": requests}}},
            }
        )
        await cluster.apply(pod_text("pod0", "two-cpus"))
        await running(cluster, "default", 1)
        env = await printed(cluster, "default", "pod0")
        assert env["CPU_DEVICE_0"] == "numa-0"
        assert env["CPU_DEVICE_0_CONSUMED_CPU"] == "1"
        (claim,) = await claims(cluster, "default")
        assert [r["device"] for r in results(claim)] == ["numa-0", "numa-0"]
        assert len({r["shareID"] for r in results(claim)}) == 2

    play(story, {"profile": "cpu.example.com", "count": 1, "cpus": 2})


# Groups ------------------------------------------------------------------------------------------


def test_the_pods_of_a_group_share_its_gpu(play, demos):
    name = "podgroup-resourceclaimtemplate"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        pods = await running(cluster, name, 4)
        by_group = {}
        for pod in pods.values():
            group = pod["spec"]["schedulingGroup"]["podGroupName"]
            env = await printed(cluster, name, pod["metadata"]["name"])
            by_group.setdefault(group, []).append(devices_in(env))
        assert by_group["group-1"][0] == by_group["group-1"][1]
        assert by_group["group-2"][0] == by_group["group-2"][1]
        assert by_group["group-1"][0] != by_group["group-2"][0]
        made = await claims(cluster, name)
        assert len(made) == 2
        for claim in made:
            (user,) = claim["status"]["reservedFor"]
            assert (user["apiGroup"], user["resource"]) == ("scheduling.k8s.io", "podgroups")
            group = await cluster.get(POD_GROUPS, user["name"], name)
            assert group["status"]["resourceClaimStatuses"] == [
                {"name": "gpu", "resourceClaimName": claim["metadata"]["name"]}
            ]
        for group in ("group-1", "group-2"):
            await cluster.client.delete(DEPLOYMENTS, group, name)
            await cluster.client.delete(POD_GROUPS, group, name)

        async def freed():
            return not await claims(cluster, name)

        await cluster.until(freed, 40, "claims go with their groups")

    play(story, gpus(2))


# Binding conditions ------------------------------------------------------------------------------


def test_a_pod_waits_until_its_device_is_ready(demos):
    name = "binding-conditions"

    async def story(cluster):
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 1)
        (claim,) = await claims(cluster, name)
        assert results(claim)[0]["bindingConditions"] == ["BindingConditions"]
        assert results(claim)[0]["bindingFailureConditions"] == ["BindingFailureConditions"]
        (device,) = claim["status"]["devices"]
        (condition,) = device["conditions"]
        assert (condition["type"], condition["status"]) == ("BindingConditions", "True")
        assert condition["message"] == "Device is ready"

    play_virtually(story, gpus(1, bindingConditions=True))


def test_a_device_that_fails_to_bind_is_given_back(demos):
    name = "binding-conditions"
    key = f"kubarium.dev/device-health.{DRIVER}"

    async def story(cluster):
        broken = {"metadata": {"annotations": {key: "gpu-0=Unknown"}}}
        await cluster.client.patch(NODES, "node-0", broken)
        await cluster.apply(demos(f"{name}/{name}"))

        async def refused():
            found = await cluster.condition(PODS, "pod0", "PodScheduled", name)
            return "BindingFailureConditions" in found.get("message", "")

        await cluster.until(refused, 120)
        await cluster.client.patch(NODES, "node-0", {"metadata": {"annotations": {key: None}}})
        await running(cluster, name, 1, timeout_s=400)

    play_virtually(story, gpus(1, bindingConditions=True))


# Taints ------------------------------------------------------------------------------------------

TAINTS = "device-taints-tolerations"
HOME = "basic-resourceclaimtemplate"


def test_noschedule_leaves_running_pods_and_keeps_new_ones_out(demos):
    folder = f"{TAINTS}/device-taint-pod-noschedule"

    async def story(cluster):
        await cluster.apply(demos(f"{folder}/1-basic-resourceclaimtemplate"))
        await cluster.apply(pod_text("pod-keeps-running", "single-gpu", HOME))
        await running(cluster, HOME, 1)
        await cluster.apply(demos(f"{folder}/3-device-taint-rule"))
        # As published this pod has no apiVersion, which every API server and kubectl refuse.
        text = demos(f"{folder}/4-pod-not-scheduled")
        assert "apiVersion" not in text
        await cluster.apply("apiVersion: v1\n" + text)
        await cluster.clock.sleep(120)
        kept = await cluster.get(PODS, "pod-keeps-running", HOME)
        late = await cluster.get(PODS, "pod-no-schedule", HOME)
        assert kept["status"]["phase"] == "Running"
        assert late["status"]["phase"] == "Pending"
        assert not late["spec"].get("nodeName")
        await cluster.client.delete(DEVICE_TAINT_RULES, "example")
        await running(cluster, HOME, 2)

    play_virtually(story)


def test_noexecute_evicts(demos):
    folder = f"{TAINTS}/device-taint-pod-noexecute"

    async def story(cluster):
        await cluster.apply(demos(f"{folder}/1-basic-resourceclaimtemplate"))
        await cluster.apply(demos(f"{folder}/4-pod-no-execute"))
        await running(cluster, HOME, 1)
        await cluster.apply(demos(f"{TAINTS}/device-taint-pod-toleration/1-device-taint-rule"))
        await cluster.until(lambda: gone(cluster, HOME, "pod-no-execute"), 60)
        assert await cluster.events("DeviceTaintManagerEviction", HOME)

        async def told():
            found = await cluster.condition(DEVICE_TAINT_RULES, "example", "EvictionInProgress")
            return found if "1 pod evicted" in found.get("message", "") else {}

        condition = await cluster.until(told, 30)
        assert (condition["status"], condition["reason"]) == ("False", "Completed")

    play_virtually(story)


def test_tolerations_let_pods_stay_for_good_or_for_a_while(demos):
    folder = f"{TAINTS}/device-taint-configurable-pod-eviction-time"

    async def story(cluster):
        await cluster.apply(demos(f"{folder}/1-basic-resourceclaimtemplate"))
        await running(cluster, HOME, 3)
        await cluster.apply(demos(f"{folder}/2-device-taint-rule"))
        begun = cluster.clock.now()
        await cluster.until(lambda: gone(cluster, HOME, "pod-no-toleration"), 60)
        await cluster.clock.sleep(200)
        assert not await gone(cluster, HOME, "pod-with-300s-toleration")
        condition = await cluster.condition(DEVICE_TAINT_RULES, "example", "EvictionInProgress")
        assert condition["status"] == "True"
        await cluster.until(lambda: gone(cluster, HOME, "pod-with-300s-toleration"), 200)
        assert 299 <= cluster.clock.now() - begun < 345
        await cluster.clock.sleep(3600)
        kept = await cluster.get(PODS, "pod-with-toleration", HOME)
        assert kept["status"]["phase"] == "Running"

    play_virtually(story)


def test_a_toleration_lets_in(demos):
    async def story(cluster):
        await cluster.apply(demos(f"{TAINTS}/device-taint-pod-toleration/1-device-taint-rule"))
        toleration = {
            "key": f"{DRIVER}/unhealthy",
            "operator": "Equal",
            "value": "true",
            "effect": "NoExecute",
        }
        await cluster.apply(
            claim_text("with", DRIVER, tolerations=[toleration])
            + claim_text("without", DRIVER).replace("---", "\n---")
            + "\n---"
            + pod_text("tolerant", "with", source="resourceClaimName")
            + "\n---"
            + pod_text("plain", "without", source="resourceClaimName")
        )
        await cluster.clock.sleep(60)
        phases = {p["metadata"]["name"]: p["status"]["phase"] for p in await cluster.pods()}
        assert phases == {"tolerant": "Running", "plain": "Pending"}

    play_virtually(story)


def test_a_rule_without_effect_only_counts(demos):
    async def story(cluster):
        text = demos(f"{TAINTS}/device-taint-pod-toleration/1-device-taint-rule")
        await cluster.apply(
            claim_text("held", DRIVER)
            + "\n---"
            + pod_text("user", "held", source="resourceClaimName")
        )
        await running(cluster, "default", 1)
        await cluster.apply(text.replace("effect: NoExecute", "effect: None"))

        async def told():
            return await cluster.condition(DEVICE_TAINT_RULES, "example", "EvictionInProgress")

        condition = await cluster.until(told, 30)
        assert (condition["status"], condition["reason"]) == ("False", "NoEffect")
        assert "1 pod would be evicted in 1 namespace if the effect was" in condition["message"]
        assert (await cluster.get(PODS, "user"))["status"]["phase"] == "Running"

    play_virtually(story)


def test_a_tainted_device_of_a_shared_claim_takes_no_new_pods(demos):
    """Otherwise a Deployment's pods would be made, placed and evicted for ever."""

    async def story(cluster):
        name = "podgroup-resourceclaimtemplate"
        await cluster.apply(demos(f"{name}/{name}"))
        await running(cluster, name, 4)
        await cluster.apply(demos(f"{TAINTS}/device-taint-pod-toleration/1-device-taint-rule"))
        await cluster.clock.sleep(120)
        pods = await cluster.pods(name)
        assert [p["status"]["phase"] for p in pods] == ["Pending"] * 4
        assert len(await cluster.events("DeviceTaintManagerEviction", name)) == 4
        why = await cluster.condition(PODS, pods[0]["metadata"]["name"], "PodScheduled", name)
        tainted = "8 tainted (gpu.example.com/unhealthy=true:NoExecute)"
        assert f"1 device needed, 8 match, 0 free, {tainted}" in why["message"]
        await cluster.client.delete(DEVICE_TAINT_RULES, "example")
        await running(cluster, name, 4)

    play_virtually(story)


def test_a_quota_limits_the_devices_of_a_class():
    async def story(cluster):
        limit = f"{DRIVER}.deviceclass.resource.k8s.io/devices"
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "gpus"},
            "spec": {"hard": {limit: "3"}},
        }
        await cluster.apply(quota)
        await cluster.apply(claim_text("two", DRIVER, count=2))
        with pytest.raises(ApiError, match=r"exceeded quota: gpus, requested: .*=2, used: .*=2"):
            await cluster.apply(claim_text("more", DRIVER, count=2))
        with pytest.raises(ApiError, match=r"requested: .*=32"):
            await cluster.apply(claim_text("all", DRIVER, allocationMode="All"))
        await cluster.apply(claim_text("one", DRIVER))

    play_virtually(story)


def test_a_sick_device_shows_in_its_containers_status():
    key = f"kubarium.dev/device-health.{DRIVER}"

    async def story(cluster):
        await cluster.apply(
            claim_text("held", DRIVER)
            + "\n---"
            + pod_text("user", "held", source="resourceClaimName")
        )
        pods = await running(cluster, "default", 1)
        assert "allocatedResourcesStatus" not in pods["user"]["status"]["containerStatuses"][0]

        async def health():
            pod = await cluster.get(PODS, "user")
            (container,) = pod["status"]["containerStatuses"]
            return container.get("allocatedResourcesStatus")

        for text, expected in (("gpu-0=Unhealthy", "Unhealthy"), (None, "Healthy")):
            change = {"metadata": {"annotations": {key: text}}}
            await cluster.client.patch(NODES, "node-0", change)
            await cluster.clock.sleep(60)
            assert await health() == [
                {
                    "name": "claim:it",
                    "resources": [{"resourceID": f"{DRIVER}/node-0/gpu-0", "health": expected}],
                }
            ]
        assert (await cluster.get(PODS, "user"))["status"]["phase"] == "Running"

    play_virtually(story)


def test_devices_are_deterministic_on_the_virtual_clock():
    async def story(cluster):
        await cluster.apply(
            claim_text("held", DRIVER)
            + "\n---"
            + pod_text("user", "held", source="resourceClaimName")
            + "\n---"
            + pod_text("plain", "", limits={f"deviceclass.resource.kubernetes.io/{DRIVER}": 2})
        )
        await running(cluster, "default", 2)
        rule = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "all"},
            "spec": {"deviceSelector": {}, "taint": {"key": "k", "effect": "NoExecute"}},
        }
        await cluster.apply(rule)
        await cluster.clock.sleep(90)
        assert await cluster.pods() == []
        assert [c["metadata"]["name"] for c in await claims(cluster, "default")] == ["held"]
        return cluster.history_hash()

    assert play_virtually(story) == play_virtually(story)


def invalid_claim(kind, version):
    """A claim (or template) whose time slice the example driver does not know."""
    parameters = {
        "apiVersion": "gpu.resource.example.com/v1alpha1",
        "kind": "GpuConfig",
        "sharing": {
            "strategy": "TimeSlicing",
            "timeSlicingConfig": {"interval": "InvalidInterval"},
        },
    }
    request = {"name": "ts-gpu", "exactly": {"deviceClassName": DRIVER}}
    opaque = {"driver": DRIVER, "parameters": parameters}
    devices = {"requests": [request], "config": [{"requests": ["ts-gpu"], "opaque": opaque}]}
    spec = {"devices": devices}
    return {
        "apiVersion": f"resource.k8s.io/{version}",
        "kind": kind,
        "metadata": {"name": "webhook-test"},
        "spec": {"spec": spec} if kind == "ResourceClaimTemplate" else spec,
    }


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("ResourceClaim", "v1"),
        ("ResourceClaim", "v1beta2"),
        ("ResourceClaimTemplate", "v1"),
        ("ResourceClaimTemplate", "v1beta2"),
    ],
)
def test_the_webhook_refuses_a_configuration_that_the_driver_does_not_take(kind, version):
    async def story(cluster):
        with pytest.raises(ApiError, match="unknown time-slice interval: InvalidInterval"):
            await cluster.apply(invalid_claim(kind, version))

    play_virtually(story)


def test_devices_of_other_drivers_are_configured_as_they_like():
    async def story(cluster):
        claim = invalid_claim("ResourceClaim", "v1")
        claim["spec"]["devices"]["config"][0]["opaque"]["driver"] = "gpu.somebody.else"
        await cluster.apply(claim)

    play_virtually(story)


NICS = {"profile": "net.example.com", "count": 2}
CPUS = {"profile": "cpu.example.com", "count": 8, "cpus": 4}
SHARED = gpus(allowMultiple=True)
CUT_AND_SHARED = gpus(allowMultiple=True, partitions=4)


@pytest.mark.parametrize(
    ("name", "devices", "pods", "given"),
    [
        ("admin-access", gpus(), 1, 8),
        ("basic-multiple-requests", gpus(), 1, 2),
        ("basic-resourceclaim-opaque-config", gpus(), 1, 2),
        ("basic-resourceclaimtemplate", gpus(), 2, 2),
        ("basic-shared-claim-across-containers", gpus(), 1, 1),
        ("basic-shared-claim-across-pods", gpus(), 2, 1),
        ("cel-selector", gpus(), 1, 1),
        ("extended-resource-request", gpus(extendedResourceName="example.com/gpu"), 2, 2),
        ("gpu-allow-multiple-allocations", SHARED, 2, 1),
        ("gpu-allow-multiple-allocations-partitionable", CUT_AND_SHARED, 2, 1),
        ("initcontainer-shared-gpu", gpus(), 1, 1),
        ("native-resource-request", CPUS, 1, 1),
        ("net-consumable-capacity", NICS, 2, 1),
        ("podgroup-resourceclaimtemplate", gpus(), 4, 2),
        ("prioritized-alternatives", gpus(), 2, 2),
    ],
)
def test_published_demos_place_their_pods(shared, name, devices, pods, given):
    """Every demo that is there, unmodified: how many pods run, and on how many devices."""
    examples = shared / "manifests" / "dra-example-driver" / "demo" / "examples"
    path = examples / name / f"{name}.yaml"
    if not path.is_file():
        pytest.skip(f"the upstream data folder has no {name}")

    async def story(cluster):
        await cluster.apply(path.read_text())

        async def placed():
            found = (await cluster.client.list(PODS)).items
            running = [p for p in found if p.get("status", {}).get("phase") == "Running"]
            return len(found) == len(running) == pods

        await cluster.until(placed, 60, f"{pods} pods run")
        held = [
            result["device"]
            for claim in (await cluster.client.list(RESOURCE_CLAIMS)).items
            for result in results(claim)
        ]
        assert len(set(held)) == given

    play_virtually(story, devices)


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"partitions": 4}, 5)])
def test_shareable_devices_publish_their_policies(options, count):
    async def story(cluster):
        (slice_, *_) = [
            s
            for s in (await cluster.client.list(RESOURCE_SLICES)).items
            if s["spec"].get("devices")
        ]
        devices = slice_["spec"]["devices"]
        assert len(devices) == count
        for device in devices:
            assert device["allowMultipleAllocations"] is True
            whole = device["capacity"]["memory"]["value"]
            assert device["capacity"]["memory"]["requestPolicy"] == {
                "default": whole,
                "validRange": {"min": "1Gi", "max": whole, "step": "1Gi"},
            }
            assert device["capacity"]["compute"]["requestPolicy"]["validRange"]["step"] == "1"

    play_virtually(story, gpus(1, allowMultiple=True, **options))


def test_devices_with_binding_conditions_publish_them():
    async def story(cluster):
        (slice_,) = (await cluster.client.list(RESOURCE_SLICES)).items
        (device,) = slice_["spec"]["devices"]
        assert device["bindingConditions"] == ["BindingConditions"]
        assert device["bindingFailureConditions"] == ["BindingFailureConditions"]

    play_virtually(story, gpus(1, bindingConditions=True))


BOTH = """
apiVersion: v1
kind: Namespace
metadata: {name: watched, labels: {resource.kubernetes.io/admin-access: "true"}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: monitor, namespace: watched}
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly: {deviceClassName: gpu.example.com, allocationMode: All, adminAccess: true}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: plain, namespace: watched}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com}}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: both, namespace: watched}
spec:
  containers:
  - name: ctr0
    image: ubuntu:22.04
    command: [bash, -c, "export; sleep 9999"]
    resources: {claims: [{name: monitor}, {name: mine}]}
  resourceClaims:
  - {name: monitor, resourceClaimTemplateName: monitor}
  - {name: mine, resourceClaimTemplateName: plain}
"""


def test_a_pod_that_watches_all_gpus_and_uses_one(play):
    """The administrator's claim comes first; both are prepared for the one container."""

    async def story(cluster):
        await cluster.apply(BOTH)
        await running(cluster, "watched", 1)
        env = await printed(cluster, "watched", "both")
        assert devices_in(env) == {"gpu-0", "gpu-1"}
        counts = sorted(
            (len(results(c)), results(c)[0].get("adminAccess", False))
            for c in await claims(cluster, "watched")
        )
        assert counts == [(1, False), (2, True)]

    play(story, gpus(2))


NO_SUCH_CLASS = """
apiVersion: v1
kind: Pod
metadata: {name: hopeful, namespace: default}
spec:
  containers:
  - name: ctr0
    image: ubuntu:22.04
    resources: {limits: {deviceclass.resource.kubernetes.io/later: 1}}
"""
LATER = """
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: later}
spec: {selectors: [{cel: {expression: "device.driver == 'gpu.example.com'"}}]}
"""


def test_an_implicit_name_of_no_class_says_so_and_waits_for_the_class():
    async def story(cluster):
        await cluster.apply(NO_SUCH_CLASS)

        async def refused():
            return [e["message"] for e in await cluster.events("FailedScheduling")]

        [text, *_] = await cluster.until(refused, 20, "the scheduler says why")
        assert text.startswith(
            "0/1 nodes are available: 1 Insufficient deviceclass.resource.kubernetes.io/later."
        )
        assert text.endswith('/later names DeviceClass "later", which does not exist.')
        await cluster.apply(LATER)
        await running(cluster, "default", 1)

    play_virtually(story)
