"""Simulated DRA drivers: profiles, pools and generations, preparing claims."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from kubarium.api.cel.devices import compile_device_selector, prepare_device
from kubarium.api.kinds import DEVICE_CLASSES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.base.errors import ConfigError
from kubarium.base.quantity import parse_quantity
from kubarium.node.config import SIMULATED, DeviceConfig, NodeConfig, NodeSpec
from kubarium.node.drivers.prepare import ClaimProblem, prepare_pod
from kubarium.node.drivers.profiles import (
    counter_sets_of,
    device_classes,
    devices_of,
    driver_of,
)
from kubarium.runtime import virtual
from kubarium.server.reads import Reads

from .conftest import world_on

EXAMPLE = DeviceConfig("gpu.example.com", 2)
LAB = DeviceConfig(
    "free",
    14,
    driver="simulated.example.com",
    name="slice-{index}",
    attributes={"type": "gpu", "slot": "{index}", "version": "1.2.3", "fast": True},
    capacity={"memory": "40960Mi"},
)


def with_devices(*devices):
    config = NodeConfig((NodeSpec("n1", devices=devices),), SIMULATED)
    return world_on(virtual.VirtualClock(), config)


async def slices(world):
    found = (await world.client.list(RESOURCE_SLICES)).items
    return sorted(found, key=lambda s: s["metadata"]["name"])


# Profiles --------------------------------------------------------------------------------------


def test_the_example_drivers_gpus():
    first, second = devices_of(EXAMPLE, "n1", 2)
    assert first["name"] == "gpu-0"
    assert first["attributes"]["index"] == {"int": 0}
    assert first["attributes"]["model"] == {"string": "LATEST-GPU-MODEL"}
    assert first["attributes"]["driverVersion"] == {"version": "1.0.0"}
    assert first["capacity"] == {"memory": {"value": "80Gi"}, "compute": {"value": "100"}}
    assert first["attributes"]["uuid"] != second["attributes"]["uuid"]
    assert devices_of(EXAMPLE, "n1", 2)[0] == first
    assert devices_of(EXAMPLE, "n2", 1)[0]["attributes"]["uuid"] != first["attributes"]["uuid"]


@pytest.mark.parametrize(
    ("model", "product", "memory"),
    [
        ("A100-40GB", "NVIDIA A100-SXM4-40GB", "40Gi"),
        ("A100", "NVIDIA A100-SXM4-80GB", "80Gi"),
        ("H100", "NVIDIA H100 80GB HBM3", "81559Mi"),
        ("H200", "NVIDIA H200", "143771Mi"),
        ("B200", "NVIDIA B200", "183359Mi"),
        ("GB200", "NVIDIA GB200", "189471Mi"),
    ],
)
def test_nvidia_models(model, product, memory):
    """Products and memory as ``nvidia-smi`` prints them."""
    device = devices_of(DeviceConfig("nvidia", 1, model=model), "n", 1)[0]
    attributes = device["attributes"]
    assert attributes["productName"] == {"string": product}
    assert attributes["type"] == {"string": "gpu"}
    assert "version" in attributes["cudaComputeCapability"]
    assert "index" not in attributes
    assert "resource.kubernetes.io/pciBusID" in attributes
    assert device["capacity"]["memory"] == {"value": memory}


def test_a_free_profile_types_its_attributes():
    device = devices_of(LAB, "n1", 3)[2]
    assert device == {
        "name": "slice-2",
        "attributes": {
            "type": {"string": "gpu"},
            "slot": {"int": 2},
            "version": {"version": "1.2.3"},
            "fast": {"bool": True},
        },
        "capacity": {"memory": {"value": "40Gi"}},
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DeviceConfig("gpu", 1), "unknown profile 'gpu'"),
        (DeviceConfig("free", 1), "driver: required"),
        (DeviceConfig("nvidia", 1, model="Z9"), "unknown model 'Z9'"),
        (DeviceConfig("free", 1, driver="d.x", capacity={"m": "lots"}), "capacity: m"),
        (DeviceConfig("free", 1, driver="d.x", attributes={"a": [1]}), "attributes: a"),
    ],
)
def test_bad_device_configuration_names_the_field(config, words):
    with pytest.raises(ConfigError, match=words):
        devices_of(config, "n", driver_of(config) and 1)


# Publishing ------------------------------------------------------------------------------------


def test_devices_and_class_are_published_with_the_node():
    async def main():
        async with with_devices(EXAMPLE, LAB) as world:
            example, lab = await slices(world)
            assert example["spec"]["driver"] == "gpu.example.com"
            assert example["spec"]["pool"] == {
                "name": "n1",
                "generation": 1,
                "resourceSliceCount": 1,
            }
            assert len(lab["spec"]["devices"]) == 14
            node = await world.client.get(NODES, "n1")
            assert example["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
            classes = (await world.client.list(DEVICE_CLASSES)).items
            assert [c["metadata"]["name"] for c in classes] == ["gpu.example.com"]

    virtual.run(main())


def test_patching_the_node_resizes_the_pool_in_a_new_generation():
    async def main():
        async with with_devices(LAB) as world:

            async def resize(text):
                annotation = {"kubarium.dev/devices.simulated.example.com": text}
                patch = {"metadata": {"annotations": annotation}}
                await world.client.patch(NODES, "n1", patch)
                await world.context.clock.sleep(1)
                return await slices(world)

            (grown,) = await resize("15")
            assert grown["spec"]["pool"]["generation"] == 2
            assert [d["name"] for d in grown["spec"]["devices"]][-1] == "slice-14"
            (same,) = await resize("15")
            assert same["metadata"]["uid"] == grown["metadata"]["uid"]
            (kept,) = await resize("many")
            assert len(kept["spec"]["devices"]) == 15
            message = await world.event("n1", "InvalidDeviceCount")
            assert "'many': must be a whole number" in message

    virtual.run(main())


def test_slices_that_somebody_deletes_or_changes_are_published_anew():
    async def main():
        async with with_devices(EXAMPLE) as world:
            (first,) = await slices(world)
            await world.client.delete(RESOURCE_SLICES, first["metadata"]["name"])
            await world.context.clock.sleep(1)
            (again,) = await slices(world)
            assert again["spec"]["devices"] == first["spec"]["devices"]
            assert again["metadata"]["uid"] != first["metadata"]["uid"]
            spec = {**again["spec"], "devices": again["spec"]["devices"][:1]}
            await world.client.update(RESOURCE_SLICES, {**again, "spec": spec})
            await world.context.clock.sleep(1)
            (mended,) = await slices(world)
            assert len(mended["spec"]["devices"]) == 2
            assert mended["spec"]["pool"]["generation"] == 2
            await world.context.clock.sleep(5)
            assert await slices(world) == [mended]

    virtual.run(main())


@pytest.mark.parametrize(
    "config",
    [
        DeviceConfig("nvidia", 2, model="A100", mig=True),
        DeviceConfig("gpu.example.com", 2, partitions=4),
        LAB,
    ],
)
def test_slices_stay_as_they_are_while_nothing_changes(config):
    async def main():
        async with with_devices(config) as world:
            before = await slices(world)
            patch = {"metadata": {"annotations": {"some": "thing"}}}
            await world.client.patch(NODES, "n1", patch)
            await world.context.clock.sleep(5)
            assert await slices(world) == before
            await world.client.delete(RESOURCE_SLICES, before[-1]["metadata"]["name"])
            await world.context.clock.sleep(1)
            mended = await slices(world)
            assert len(mended) == len(before)
            await world.context.clock.sleep(60)
            assert await slices(world) == mended

    virtual.run(main())


def test_a_node_that_somebody_deletes_comes_back_with_its_devices():
    async def main():
        async with with_devices(EXAMPLE) as world:
            (first,) = await slices(world)
            await world.client.delete(NODES, "n1")
            await world.client.delete(RESOURCE_SLICES, first["metadata"]["name"])
            await world.context.clock.sleep(700)
            node = await world.client.get(NODES, "n1")
            (again,) = await slices(world)
            assert again["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]

    virtual.run(main())


def test_large_pools_are_cut_into_slices_of_at_most_128():
    async def main():
        async with with_devices(DeviceConfig("gpu.example.com", 300)) as world:
            found = await slices(world)
            assert [len(s["spec"]["devices"]) for s in found] == [128, 128, 44]
            assert {s["spec"]["pool"]["resourceSliceCount"] for s in found} == {3}

    virtual.run(main())


# Preparing -------------------------------------------------------------------------------------


def pod_with(claims, containers=None):
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "pod-uid"},
        "spec": {
            "containers": containers
            or [{"name": "c", "resources": {"claims": [{"name": n} for n in claims]}}],
            "resourceClaims": [{"name": n, "resourceClaimName": f"claim-{n}"} for n in claims],
        },
    }


def claim(name, *devices, config=(), reserved="pod-uid", driver="gpu.example.com", **result):
    results = [
        {"request": f"r{i}", "driver": driver, "pool": "n1", "device": device} | result
        for i, device in enumerate(devices)
    ]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "status": {
            "allocation": {"devices": {"results": results, "config": list(config)}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}],
        },
    }


def prepared(pod, *claims):
    by_name = {c["metadata"]["name"]: c for c in claims}
    drivers = {"gpu.example.com": None, "gpu.nvidia.com": None, "simulated.example.com": None}
    return prepare_pod(pod, lambda namespace, name: by_name.get(name), drivers)


def opaque(strategy, requests=(), **settings):
    return {
        "source": "FromClaim",
        "requests": list(requests),
        "opaque": {
            "driver": "gpu.example.com",
            "parameters": {
                "apiVersion": "gpu.resource.example.com/v1alpha1",
                "kind": "GpuConfig",
                "sharing": {"strategy": strategy} | settings,
            },
        },
    }


def test_the_example_driver_sets_its_variables():
    env = prepared(pod_with(["a"]), claim("claim-a", "gpu-3"))["c"]
    assert env == {
        "GPU_DEVICE_3": "gpu-3",
        "GPU_DEVICE_3_SHARING_STRATEGY": "TimeSlicing",
        "GPU_DEVICE_3_TIMESLICE_INTERVAL": "Default",
        "GPU_DEVICE_GPU_3_RESOURCE_CLAIM": "uid-claim-a",
        "KUBERNETES_NODE_NAME": "n1",
        "DRA_RESOURCE_DRIVER_NAME": "gpu.example.com",
        "DRA_ADMIN_ACCESS": "false",
    }


def test_the_last_configuration_wins_and_the_claims_before_the_classs():
    def interval(*settings):
        given = [
            opaque("TimeSlicing", requests, timeSlicingConfig={"interval": name}) | {"source": of}
            for of, requests, name in settings
        ]
        env = prepared(pod_with(["a"]), claim("claim-a", "gpu-0", config=given))["c"]
        return env["GPU_DEVICE_0_TIMESLICE_INTERVAL"]

    mine, others = ("FromClaim", [], "Long"), ("FromClaim", ["r1"], "Short")
    klass = ("FromClass", ["r0"], "Medium")
    assert interval(klass) == "Medium"
    assert interval(klass, mine) == interval(mine, klass) == "Long"
    assert interval(mine, others) == "Long"
    assert interval(mine, ("FromClaim", ["r0"], "Short")) == "Short"
    assert interval(("FromClaim", ["r0"], "Short"), mine) == "Long"
    assert interval(klass, others) == "Medium"
    assert interval(others) == "Default"


def test_a_request_speaks_for_its_alternatives_and_an_alternative_for_itself():
    def interval(requests):
        given = [opaque("TimeSlicing", requests, timeSlicingConfig={"interval": "Long"})]
        document = claim("claim-a", "gpu-0", config=given, request="gpu/small")
        env = prepared(pod_with(["a"]), document)["c"]
        return env["GPU_DEVICE_0_TIMESLICE_INTERVAL"]

    assert [interval([name]) for name in ("gpu", "gpu/small", "gpu/large", "gp")] == [
        "Long",
        "Long",
        "Default",
        "Default",
    ]


def nvidia_config(kind, requests=(), **sharing):
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, "sharing": sharing}
    return {
        "source": "FromClaim",
        "requests": list(requests),
        "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters},
    }


def test_nvidias_configurations_are_for_gpus_or_for_instances():
    """``getConfigResultsMap``: one for all requests passes over devices of the other sort."""
    both = [
        nvidia_config("GpuConfig", strategy="MPS", mpsConfig={"defaultActiveThreadPercentage": 50}),
        nvidia_config(
            "MigDeviceConfig", strategy="MPS", mpsConfig={"defaultActiveThreadPercentage": 20}
        ),
    ]

    def percentage(device, config):
        document = claim("claim-a", device, config=config, driver="gpu.nvidia.com")
        env = prepared(pod_with(["a"]), document)["c"]
        return env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")

    part = "gpu-0-mig-1g10gb-19-0"
    assert (percentage("gpu-0", both), percentage(part, both)) == ("50", "20")
    assert (percentage("gpu-0", both[1:]), percentage(part, both[:1])) == (None, None)


@pytest.mark.parametrize(
    ("kind", "device", "sort"),
    [
        ("GpuConfig", "gpu-0-mig-1g10gb-19-0", "mig"),
        ("MigDeviceConfig", "gpu-0", "gpu"),
        ("VfioDeviceConfig", "gpu-0", "gpu"),
    ],
)
def test_a_configuration_that_names_a_request_of_another_sort_is_refused(kind, device, sort):
    config = nvidia_config(kind, ["r0"])
    config["opaque"]["parameters"].pop("sharing")
    document = claim("claim-a", device, config=[config], driver="gpu.nvidia.com")
    words = (
        "^NodePrepareResources failed for ResourceClaim claim-a: error preparing devices for claim"
        " /claim-a:uid-claim-a: prepare devices failed: .*"
        f'cannot apply {kind} to device "{device}" of type "{sort}" \\(request: r0\\)'
    )
    with pytest.raises(ClaimProblem, match=words):
        prepared(pod_with(["a"]), document)


def test_sharing_settings_of_the_claim_reach_their_requests_only():
    settings = [
        opaque("TimeSlicing", ["r0"], timeSlicingConfig={"interval": "Long"}),
        opaque("SpacePartitioning", ["r1"], spacePartitioningConfig={"partitionCount": 10}),
    ]
    env = prepared(pod_with(["a"]), claim("claim-a", "gpu-0", "gpu-1", config=settings))["c"]
    assert env["GPU_DEVICE_0_TIMESLICE_INTERVAL"] == "Long"
    assert env["GPU_DEVICE_1_PARTITION_COUNT"] == "10"
    assert "GPU_DEVICE_1_TIMESLICE_INTERVAL" not in env


def test_a_container_sees_the_requests_that_it_names():
    containers = [
        {"name": "one", "resources": {"claims": [{"name": "a", "request": "r0"}]}},
        {"name": "two", "resources": {"claims": [{"name": "a", "request": "r1"}]}},
        {"name": "none"},
    ]
    env = prepared(pod_with(["a"], containers), claim("claim-a", "gpu-0", "gpu-1"))
    assert ("GPU_DEVICE_0" in env["one"], "GPU_DEVICE_1" in env["one"]) == (True, False)
    assert ("GPU_DEVICE_0" in env["two"], "GPU_DEVICE_1" in env["two"]) == (False, True)
    assert env["none"] == {}


def test_nvidia_variables_list_all_devices():
    env = prepared(pod_with(["a"]), claim("claim-a", "gpu-1", "gpu-2", driver="gpu.nvidia.com"))
    assert env["c"]["NVIDIA_VISIBLE_DEVICES"] == "1,2"
    assert env["c"]["CUDA_VISIBLE_DEVICES"] == "1,2"


def test_admin_access_is_shown():
    env = prepared(pod_with(["a"]), claim("claim-a", "gpu-0", adminAccess=True))["c"]
    assert env["DRA_ADMIN_ACCESS"] == "true"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([], 'resourceclaims.resource.k8s.io "claim-a" not found'),
        (
            [claim("claim-a", "gpu-0", reserved="somebody")],
            r"pod p \(pod-uid\) is not allowed to use ResourceClaim claim-a \(uid-claim-a\)",
        ),
        ([{"metadata": {"name": "claim-a", "uid": "u"}}], "not allocated"),
        ([claim("claim-a", "x", driver="other.io")], "DRA driver other.io is not registered"),
        ([claim("claim-a", "gpu-0", config=[opaque("Magic")])], "unknown GPU sharing strategy"),
    ],
)
def test_claims_that_may_not_be_used(claims, words):
    with pytest.raises(ClaimProblem, match=words):
        prepared(pod_with(["a"]), *claims)


def test_preparing_twice_gives_the_same():
    pod, one = pod_with(["a"]), claim("claim-a", "gpu-0")
    assert prepared(pod, one) == prepared(pod, one)


def test_a_pod_whose_claim_is_not_reserved_waits_with_kubelets_event():
    async def main():
        async with with_devices(EXAMPLE) as world:
            document = {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaim",
                "metadata": {"name": "c"},
                "spec": {
                    "devices": {
                        "requests": [
                            {"name": "r", "exactly": {"deviceClassName": "gpu.example.com"}}
                        ]
                    }
                },
            }
            await world.create(RESOURCE_CLAIMS, document)
            claims = [{"name": "g", "resourceClaimName": "c"}]
            await world.pod("p", resourceClaims=claims)
            message = await world.event("p", "FailedPrepareDynamicResources")
            assert message.startswith("Failed to prepare dynamic resources: ")
            assert (await world.get("p"))["status"]["phase"] == "Pending"

    virtual.run(main())


# Partitions, health, configuration of other drivers ----------------------------------------------


def test_partitions_share_the_counters_of_their_gpu():
    config = DeviceConfig("gpu.example.com", 2, partitions=4)
    names = [d["name"] for d in devices_of(config, "n1", 2)]
    assert names[:5] == [*(f"gpu-0-partition-{i}" for i in range(4)), "gpu-0-full"]
    part, full = devices_of(config, "n1", 1)[0], devices_of(config, "n1", 1)[-1]
    assert part["attributes"]["partition"] == {"int": 0}
    assert full["attributes"]["full"] == {"bool": True}
    assert part["capacity"] == {"memory": {"value": "20Gi"}, "compute": {"value": "25"}}
    (counters,) = counter_sets_of(config, 1)
    assert counters["name"] == "gpu-0-counters"
    assert full["consumesCounters"][0] == {
        "counterSet": "gpu-0-counters",
        "counters": counters["counters"],
    }


@pytest.mark.parametrize("model", ["A100", "H100", "H200", "B200", "GB200"])
def test_every_mig_profile_fits_its_gpu(model):
    config = DeviceConfig("nvidia", 1, model=model, mig=True)
    (total,) = counter_sets_of(config, 1)
    whole, *instances = devices_of(config, "n1", 1)
    assert whole["consumesCounters"][0]["counters"] == total["counters"]
    assert len(instances) == 7 + 7 + 4 + 3 + 2 + 1 + 1
    for instance in instances:
        assert instance["attributes"]["parentUUID"] == whole["attributes"]["uuid"]
        for name, used in instance["consumesCounters"][0]["counters"].items():
            assert parse_quantity(used["value"]) <= parse_quantity(
                total["counters"][name]["value"]
            ), (instance["name"], name)
    names = [i["name"] for i in instances]
    assert names == sorted(names)  # the order in which the driver lists them
    profiles = [i["attributes"]["profile"]["string"] for i in instances]
    assert profiles[0].startswith("1g.")
    assert profiles[7].endswith("gb+me")
    assert instances[7]["name"].endswith("gb-me-20-0")
    extended = instances[7]["consumesCounters"][0]["counters"]
    assert extended["ofa-engines"] == total["counters"]["ofa-engines"] == {"value": "1"}
    assert profiles[-1].startswith("7g.")


@pytest.mark.parametrize("model", ["A100-40GB", "A100", "H100", "H200", "B200", "GB200"])
def test_a_gpu_that_can_be_cut_has_what_its_largest_instance_has(model):
    """``inspectMigProfilesAndPlacements``: the most of each capacity over all profiles."""
    uncut = devices_of(DeviceConfig("nvidia", 1, model=model), "n1", 1)[0]
    whole, *instances = devices_of(DeviceConfig("nvidia", 1, model=model, mig=True), "n1", 1)
    assert whole["attributes"] == uncut["attributes"]
    (largest,) = (i for i in instances if i["attributes"]["profile"]["string"].startswith("7g."))
    given = largest["capacity"].items()
    assert whole["capacity"] == {k: v for k, v in given if not k.startswith("memorySlice")}
    amounts = [d["capacity"]["memory"]["value"] for d in (whole, uncut)]
    assert parse_quantity(amounts[0]) <= parse_quantity(amounts[1])


@pytest.mark.parametrize("model", ["A100-40GB", "A100", "H100", "H200", "B200", "GB200"])
def test_profiles_are_called_by_their_part_of_the_memory(model):
    """go-nvlib ``getMigMemorySizeGB``: eighths of the GPU's memory, in whole GB."""
    whole = devices_of(DeviceConfig("nvidia", 1, model=model), "n1", 1)[0]
    total = parse_quantity(whole["capacity"]["memory"]["value"])
    gigabytes = math.ceil(total / 2**30)
    for part in devices_of(DeviceConfig("nvidia", 1, model=model, mig=True), "n1", 1)[1:]:
        memory = parse_quantity(part["capacity"]["memory"]["value"])
        eighths = math.ceil(memory * 8 / total)
        named = part["attributes"]["profile"]["string"].partition(".")[2].partition("gb")[0]
        assert named == str(math.floor(gigabytes * eighths / 8 + 0.5)), part["name"]


def test_instances_have_the_files_own_attributes_too():
    given = {"rack": {"string": "r1"}, "uuid": {"string": "GPU-mine"}}
    config = DeviceConfig("nvidia", 1, model="H100", mig=True, attributes=given)
    whole, *instances = devices_of(config, "n1", 1)
    assert whole["attributes"]["rack"] == {"string": "r1"}
    assert {tuple(i["attributes"]["rack"].values()) for i in instances} == {("r1",)}
    assert not any("uuid" in i["attributes"] for i in instances)
    assert {i["attributes"]["parentUUID"]["string"] for i in instances} == {"GPU-mine"}


def test_a_driver_of_another_name_leaves_the_vendors_classes_alone():
    def classes(**options):
        return {
            c["metadata"]["name"]: c["spec"].get("extendedResourceName")
            for c in device_classes(DeviceConfig("nvidia", 1, mig=True, **options))
        }

    assert classes() == {"gpu.nvidia.com": "nvidia.com/gpu", "mig.nvidia.com": None}
    assert classes(driver="sim.example") == {"sim.example": None, "mig.sim.example": None}
    assert classes(driver="sim.example", extended_resource="sim.example/gpu") == {
        "sim.example": "sim.example/gpu",
        "mig.sim.example": None,
    }


def test_instances_share_what_their_gpu_is():
    whole, *instances = devices_of(DeviceConfig("nvidia", 1, model="GB200", mig=True), "n1", 1)
    own = {"type", "uuid", "parentUUID", "profile"}
    shared = {k: v for k, v in whole["attributes"].items() if k not in own}
    assert shared["addressingMode"] == {"string": "ATS"}
    for instance in instances:
        assert {k: v for k, v in instance["attributes"].items() if k not in own} == shared


@pytest.mark.parametrize("model", ["A100-40GB", "A100", "H100", "H200", "B200", "GB200"])
def test_instances_fit_together_as_far_as_their_memory_slices_do(model):
    """Counters forbid nothing that the places allow: 7 of 1g, 3 of 2g and 1 of 1g, 2 of 3g, 4g and
    3g; and of those with media extensions there is one."""
    config = DeviceConfig("nvidia", 1, model=model, mig=True)
    (total,) = counter_sets_of(config, 1)
    by_name = {d["name"]: d for d in devices_of(config, "n1", 1)}

    def fits(*wanted):
        spent = Counter()
        for shape in wanted:
            (name,) = (n for n in by_name if re.fullmatch(f"gpu-0-mig-{shape}", n))
            for counter, used in by_name[name]["consumesCounters"][0]["counters"].items():
                spent[counter] += parse_quantity(used["value"])
        counters = total["counters"]
        return all(spent[name] <= parse_quantity(counters[name]["value"]) for name in counters)

    def small(place):
        return rf"1g\d+gb-19-{place}"

    def pair(place):
        return rf"2g\d+gb-14-{place}"

    assert fits(*(small(place) for place in range(7)))
    assert fits(pair(0), pair(2), pair(4), small(6))
    assert fits(r"3g\d+gb-9-0", r"3g\d+gb-9-4")
    assert fits(r"4g\d+gb-5-0", r"3g\d+gb-9-4")
    assert fits(*(rf"1g\d+gb-15-{place}" for place in (0, 2, 4, 6)))
    assert fits(r"7g\d+gb-0-0")
    assert not fits(small(0), pair(0))
    assert not fits(small(3), r"4g\d+gb-5-0")
    assert not fits(r"1g\d+gb-me-20-0", r"1g\d+gb-me-20-1")
    assert not fits(small(0), r"7g\d+gb-0-0")


def test_engines_of_mig_instances_are_those_that_nvidia_smi_prints():
    """Rows of ``nvidia-smi mig -lgip`` of real machines: SM, CE, DEC, JPEG, OFA and GiB."""
    printed = {
        ("A100", "3g.40gb"): (42, 3, 2, 0, 0, "39.25"),
        ("A100", "7g.80gb"): (98, 7, 5, 1, 1, "79"),
        ("H100", "2g.20gb"): (32, 2, 2, 2, 0, "19.625"),
        ("H200", "1g.35gb"): (26, 1, 1, 1, 0, "32.25"),
        ("H200", "7g.141gb"): (132, 8, 7, 7, 1, "139.75"),
        ("B200", "1g.23gb"): (18, 2, 1, 1, 0, "20.5"),
        ("B200", "2g.45gb"): (36, 4, 2, 2, 0, "44.25"),
        ("GB200", "2g.47gb"): (38, 4, 2, 2, 0, "45.5"),
    }
    engines = ("multiprocessors", "copyEngines", "decoders", "jpegEngines", "ofaEngines")
    for (model, profile), (*counts, gib) in printed.items():
        devices = devices_of(DeviceConfig("nvidia", 1, model=model, mig=True), "n1", 1)[1:]
        capacity = next(
            d["capacity"] for d in devices if d["attributes"]["profile"] == {"string": profile}
        )
        assert [int(capacity[name]["value"]) for name in engines] == counts, (model, profile)
        assert parse_quantity(capacity["memory"]["value"]) == parse_quantity(f"{gib}Gi"), profile


def test_network_cards_stand_beside_the_gpus_of_their_pcie_root():
    roots = [
        [
            d["attributes"]["resource.kubernetes.io/pcieRoot"]
            for d in devices_of(DeviceConfig(profile, 4), "n1", 4)
        ]
        for profile in ("nvidia", "nic")
    ]
    assert roots[0] == roots[1]
    assert roots[0][0] == roots[0][1] != roots[0][2]


@pytest.mark.parametrize(
    "expression",
    [
        "net.rdma == true && net.virtual == false",
        "net.numaNode == 0",
        'net.ifName.startsWith("eth") && net.rdmaDevice == "mlx5_0" && !net.ebpf',
        'net.pciAddress == device.attributes["resource.kubernetes.io"].pciBusID',
    ],
)
def test_dranets_own_selectors_match_a_network_card(expression):
    (card,) = devices_of(DeviceConfig("nic", 1), "n1", 1)
    prepared = prepare_device("dra.net", card["attributes"], {})
    full = re.sub(r"\bnet\.(?=[a-z])", 'device.attributes["dra.net"].', expression)
    assert compile_device_selector(full).matches_prepared(prepared)


def test_network_cards_have_addresses_of_their_own():
    cards = [d for node in ("a", "b") for d in devices_of(DeviceConfig("nic", 8), node, 8)]
    addresses = {card["attributes"]["dra.net/mac"]["string"] for card in cards}
    assert len(addresses) == 16
    assert all(re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", address) for address in addresses)


def test_health_on_the_node_taints_devices_in_place():
    async def main():
        async with with_devices(EXAMPLE) as world:
            key = "kubarium.dev/device-health.gpu.example.com"

            async def say(text):
                patch = {"metadata": {"annotations": {key: text}}}
                await world.client.patch(NODES, "n1", patch)
                await world.context.clock.sleep(1)
                (slice_,) = await slices(world)
                return slice_

            hurt = await say("gpu-1=Unhealthy:NoExecute")
            assert hurt["spec"]["pool"]["generation"] == 1
            well, ill = hurt["spec"]["devices"]
            assert "taints" not in well
            (taint,) = ill["taints"]
            assert taint.pop("timeAdded")
            assert taint == {
                "key": "gpu.example.com/unhealthy",
                "value": "true",
                "effect": "NoExecute",
            }
            wrong = await say("gpu-1=Poorly")
            assert wrong["metadata"]["resourceVersion"] == hurt["metadata"]["resourceVersion"]
            message = await world.event("n1", "InvalidDeviceHealth")
            assert "'gpu-1=Poorly': must be DEVICE=Healthy" in message
            healed = await say(None)
            assert not any("taints" in d for d in healed["spec"]["devices"])

    virtual.run(main())


def net_config(**burst):
    return {
        "source": "FromClaim",
        "opaque": {
            "driver": "net.example.com",
            "parameters": {
                "apiVersion": "net.resource.example.com/v1alpha1",
                "kind": "NetConfig",
                "bwBurst": burst,
            },
        },
    }


def other(driver, claim_document):
    by_name = {claim_document["metadata"]["name"]: claim_document}
    return prepare_pod(pod_with(["a"]), lambda ns, name: by_name.get(name), {driver: None})["c"]


def test_bursts_of_a_network_configuration():
    document = claim(
        "claim-a", "nic-0", driver="net.example.com", config=[net_config(ingressBurst=8000)]
    )
    assert other("net.example.com", document) == {
        "NET_DEVICE_0_INGRESS_BURST": "8000",
        "NET_DEVICE_NIC_0_RESOURCE_CLAIM": "uid-claim-a",
        "KUBERNETES_NODE_NAME": "n1",
        "DRA_RESOURCE_DRIVER_NAME": "net.example.com",
        "DRA_ADMIN_ACCESS": "false",
    }


@pytest.mark.parametrize(
    ("driver", "config", "words"),
    [
        ("net.example.com", net_config(egressBurst=2**40), "burst cannot be more than 4GB"),
        (
            "cpu.example.com",
            net_config(),
            "^NodePrepareResources failed for ResourceClaim claim-a: "
            "error preparing devices for claim uid-claim-a: "
            "prepare failed: error getting opaque device configs: error decoding config parameters:"
            ' no kind "NetConfig" is registered for version "net.resource.example.com/v1alpha1"$',
        ),
        (
            "gpu.example.com",
            opaque("TimeSlicing", timeSlicingConfig={"interval": "Ages"}),
            "prepare failed: error applying config: error validating GPU config: .*Ages",
        ),
        (
            "gpu.example.com",
            opaque("SpacePartitioning", spacePartitioningConfig={"partitionCount": -1}),
            "invalid partition count: -1",
        ),
    ],
)
def test_opaque_configuration_that_a_driver_refuses(driver, config, words):
    config = {**config, "opaque": {**config["opaque"], "driver": driver}}
    document = claim("claim-a", "xxx-0", driver=driver, config=[config])
    with pytest.raises(ClaimProblem, match=words):
        other(driver, document)


def of_another_version(document):
    document["opaque"]["parameters"]["apiVersion"] = "example.com/v2"
    return document


UNREADABLE = "error getting opaque device configs: error decoding config parameters: no kind "


@pytest.mark.parametrize("config", [opaque("MPS", ["r7"]), nvidia_config("GpuConfig", ["r7"])])
def test_a_driver_reads_every_configuration_that_is_for_it(config):
    """``GetOpaqueDeviceConfigs`` of both drivers: also one for requests that got no device of it.
    Whether it makes sense is asked where it applies."""
    driver, pod = config["opaque"]["driver"], pod_with(["a"])
    assert prepared(pod, claim("claim-a", "gpu-0", driver=driver, config=[config]))["c"]
    wrong = of_another_version(config)
    with pytest.raises(ClaimProblem, match=f'{UNREADABLE}"GpuConfig"'):
        prepared(pod, claim("claim-a", "gpu-0", driver=driver, config=[wrong]))
    wrong["opaque"]["parameters"] = {}
    with pytest.raises(ClaimProblem, match="Object 'Kind' is missing in"):
        prepared(pod, claim("claim-a", "gpu-0", driver=driver, config=[wrong]))


def test_a_driver_that_gives_no_device_reads_no_configuration():
    others = [of_another_version(nvidia_config("GpuConfig"))]
    assert prepared(pod_with(["a"]), claim("claim-a", "gpu-0", config=others))["c"]


def domain_config(requests=(), kind="ComputeDomainChannelConfig", **parameters):
    version = "resource.nvidia.com/v1beta1"
    parameters = {"apiVersion": version, "kind": kind, "domainID": "uid-of-domain"} | parameters
    given = {"driver": "compute-domain.nvidia.com", "parameters": parameters}
    return {"source": "FromClaim", "requests": list(requests), "opaque": given}


def channel_of(*configs):
    driver = "compute-domain.nvidia.com"
    return other(driver, claim("claim-a", "channel-0", config=configs, driver=driver))


def channel(**parameters):
    return channel_of(domain_config(**parameters))


def test_configurations_of_a_domain_are_for_its_channels_or_its_daemons():
    daemons = domain_config(kind="ComputeDomainDaemonConfig")
    assert channel_of(domain_config(), daemons) == {"NVIDIA_IMEX_CHANNELS": "0"}
    with pytest.raises(ClaimProblem, match="error validating config: domainID cannot be empty"):
        channel_of(daemons)
    words = "configResultsMap: cannot apply ComputeDomainDaemonConfig to request: r0"
    with pytest.raises(ClaimProblem, match=words):
        channel_of(domain_config(["r0"], "ComputeDomainDaemonConfig"))
    with pytest.raises(ClaimProblem, match=f"error generating configResultsMap: {UNREADABLE}"):
        channel_of(domain_config(), domain_config(["r7"], "Channel"))
    foreign = nvidia_config("GpuConfig")
    foreign["opaque"]["driver"] = "compute-domain.nvidia.com"
    with pytest.raises(ClaimProblem, match="runtime object is not a recognized configuration"):
        channel_of(foreign)


def test_a_container_is_told_of_its_channels():
    assert channel() == {"NVIDIA_IMEX_CHANNELS": "0"}
    assert channel(allocationMode="All") == {"NVIDIA_IMEX_CHANNELS": "all"}
    with pytest.raises(ClaimProblem, match="domainID cannot be empty"):
        channel(domainID="")


@pytest.mark.parametrize("model", ["A100-40GB", "A100", "H100", "H200", "B200", "GB200"])
def test_gpus_that_claims_share_by_memory(model):
    """``applyConsumableShares`` with option ``memory``."""
    config = DeviceConfig("nvidia", 1, model=model, allow_multiple=True)
    plain = devices_of(DeviceConfig("nvidia", 1, model=model), "n1", 1)[0]
    (shared,) = devices_of(config, "n1", 1)
    memory = shared["capacity"]["memory"]
    assert shared["allowMultipleAllocations"] is True
    assert memory["value"] == plain["capacity"]["memory"]["value"]
    assert memory["requestPolicy"] == {
        "default": memory["value"],
        "validRange": {"min": "1Mi", "max": memory["value"], "step": "1Mi"},
    }
    assert shared["attributes"] == plain["attributes"]
    assert parse_quantity(memory["value"]) % parse_quantity("1Mi") == 0


def test_shares_of_a_gpu_go_without_mps():
    limits = {"mpsConfig": {"defaultActiveThreadPercentage": 50}}
    config = [nvidia_config("GpuConfig", strategy="MPS", **limits)]
    document = claim("claim-a", "gpu-0", config=config, driver="gpu.nvidia.com", shareID="s")
    with pytest.raises(ClaimProblem, match="MPS sharing is not supported when consumable shares"):
        prepared(pod_with(["a"]), document)


def test_limits_of_mps_are_by_the_containers_own_count():
    limits = {
        "defaultPinnedDeviceMemoryLimit": "10Gi",
        "defaultPerDevicePinnedMemoryLimit": {"1": "2Gi"},
    }
    config = [nvidia_config("GpuConfig", ["r0", "r1"], strategy="MPS", mpsConfig=limits)]
    document = claim("claim-a", "gpu-1", "gpu-4", "gpu-6", config=config, driver="gpu.nvidia.com")
    containers = [
        {"name": "all", "resources": {"claims": [{"name": "a"}]}},
        {"name": "one", "resources": {"claims": [{"name": "a", "request": "r1"}]}},
        {"name": "free", "resources": {"claims": [{"name": "a", "request": "r2"}]}},
    ]
    env = prepared(pod_with(["a"], containers), document)
    name = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
    assert env["all"]["CUDA_VISIBLE_DEVICES"] == "1,4,6"
    assert [env[container].get(name) for container in ("all", "one", "free")] == [
        "0=10240M,1=2048M",
        "0=2048M",
        None,
    ]


def test_limits_of_mps_count_the_devices_of_each_configuration_by_themselves():
    limits = {"mpsConfig": {"defaultPerDevicePinnedMemoryLimit": {"0": "2Gi"}}}
    config = [nvidia_config("GpuConfig", [name], strategy="MPS", **limits) for name in ("r0", "r1")]
    document = claim("claim-a", "gpu-1", "gpu-4", config=config, driver="gpu.nvidia.com")
    env = prepared(pod_with(["a"]), document)["c"]
    assert env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=2048M,1=2048M"


@pytest.mark.parametrize(
    ("key", "words"),
    [("2", "invalid device index: 2"), ("-1", "index: -1"), ("x", "key as an integer: x")],
)
def test_limits_of_devices_that_a_claim_does_not_have_are_refused(key, words):
    limits = {"mpsConfig": {"defaultPerDevicePinnedMemoryLimit": {key: "2Gi"}}}
    config = [nvidia_config("GpuConfig", strategy="MPS", **limits)]
    document = claim("claim-a", "gpu-1", "gpu-4", config=config, driver="gpu.nvidia.com")
    with pytest.raises(ClaimProblem, match=words):
        prepared(pod_with(["a"]), document)


def test_a_node_more_costs_no_look_at_the_slices_of_all_others(monkeypatch):
    looks, pages = [], Reads.list

    def counted(reads, kind, namespace, options):
        if kind.resource == RESOURCE_SLICES:
            looks.append(options)
        return pages(reads, kind, namespace, options)

    async def main(nodes):
        looks.clear()
        specs = tuple(NodeSpec(f"n{number}", devices=(EXAMPLE,)) for number in range(nodes))
        config = NodeConfig(specs, SIMULATED)
        async with world_on(virtual.VirtualClock(), config) as world:
            before = len(looks)
            assert len(await slices(world)) == nodes
            return before

    monkeypatch.setattr(Reads, "list", counted)
    assert virtual.run(main(40)) == virtual.run(main(2))
