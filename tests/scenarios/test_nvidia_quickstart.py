"""The NVIDIA driver's quickstart on simulated GPUs: what its readers are to see.

The demos are told here in our own words; where the upstream data folder has the published manifests
(``manifests/dra-driver-nvidia-gpu``), those of resource.k8s.io/v1 are played as they are; gpu-test7
and gpu-test8 are published for v1beta1 and told here for v1.
"""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from kubarium.api.kinds import DEPLOYMENTS, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.api.logs import LogOptions
from kubarium.base.errors import ApiError
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_real, run_virtual

DRIVER = "gpu.nvidia.com"
SPECS = ("demo", "specs", "quickstart")


def gpus(count=8, **options):
    devices = [{"profile": "nvidia", "count": count, **options}]
    capacity = {"cpu": "96", "memory": "512Gi"}
    return ClusterFile([NodePool("dgx", 1, "simulated", capacity, devices=devices)])


@pytest.fixture
def demo(shared):
    """A published manifest by its path; its own claims are in namespaces of its own."""

    def read(name):
        folder = shared.joinpath("manifests", "dra-driver-nvidia-gpu", *SPECS)
        path = folder / f"{name}.yaml"
        if not path.is_file():
            pytest.skip("the NVIDIA driver's manifests are absent from the upstream data folder")
        return [d for d in yaml.safe_load_all(path.read_text()) if d]

    return read


async def apply(cluster, documents):
    for document in documents:
        await cluster.apply(document)


async def running(cluster, namespace, count):
    async def ask():
        pods = await cluster.pods(namespace)
        good = [p for p in pods if p.get("status", {}).get("phase") == "Running"]
        return pods if len(good) == count == len(pods) else []

    return await cluster.until(ask, 60, f"{count} pods of {namespace} run")


async def all_placed(cluster, namespace, count):
    """Until so many pods run, or have ended as some demos do at once."""

    async def ask():
        phases = [p.get("status", {}).get("phase") for p in await cluster.pods(namespace)]
        return len(phases) == count and set(phases) <= {"Running", "Succeeded"}

    await cluster.until(ask, 60, f"{count} pods of {namespace} are placed")


async def given(cluster, namespace):
    """Devices by claim."""
    claims = (await cluster.client.list(RESOURCE_CLAIMS, namespace)).items
    return {
        claim["metadata"]["name"]: [
            result["device"] for result in claim["status"]["allocation"]["devices"]["results"]
        ]
        for claim in claims
    }


def play(story, file):
    run_virtual(story, file=file)


# In our own words -------------------------------------------------------------------------------


def template(name, *requests, constraints=(), config=()):
    devices = {"requests": list(requests)}
    devices |= {"constraints": list(constraints)} if constraints else {}
    devices |= {"config": list(config)} if config else {}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": devices}},
    }


def request(name, device_class=DRIVER, expression="", **extra):
    exactly = {"deviceClassName": device_class, **extra}
    if expression:
        exactly["selectors"] = [{"cel": {"expression": expression}}]
    return {"name": name, "exactly": exactly}


def pod(name, claims, containers):
    """``claims``: name to template; ``containers``: name to [(claim, request or "")]."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "resourceClaims": [
                {"name": c, "resourceClaimTemplateName": t} for c, t in claims.items()
            ],
            "containers": [
                {
                    "name": container,
                    "image": "ubuntu:22.04",
                    "resources": {
                        "claims": [
                            {"name": c, "request": r} if r else {"name": c} for c, r in wanted
                        ]
                    },
                }
                for container, wanted in containers.items()
            ],
        },
    }


def test_two_containers_share_one_gpu_and_two_claims_do_not():
    async def story(cluster):
        await apply(cluster, [template("one", request("gpu"))])
        await cluster.apply(pod("shared", {"g": "one"}, {"a": [("g", "")], "b": [("g", "")]}))
        await cluster.apply(
            pod("apart", {"x": "one", "y": "one"}, {"a": [("x", "")], "b": [("y", "")]})
        )
        await running(cluster, "default", 2)
        devices = [d for found in (await given(cluster, "default")).values() for d in found]
        assert len(devices) == 3 == len(set(devices))

    play(story, gpus())


def test_one_container_with_two_gpus():
    async def story(cluster):
        await apply(cluster, [template("two", request("gpus", count=2))])
        await cluster.apply(pod("both", {"g": "two"}, {"a": [("g", "")]}))
        await running(cluster, "default", 1)
        [devices] = (await given(cluster, "default")).values()
        assert len(set(devices)) == 2

    play(story, gpus())


def profile(text):
    return f"device.attributes['{DRIVER}'].profile == '{text}'"


MIG = template(
    "mig",
    request("a", "mig.nvidia.com", profile("1g.5gb")),
    request("b", "mig.nvidia.com", profile("1g.5gb")),
    request("c", "mig.nvidia.com", profile("2g.10gb")),
    request("d", "mig.nvidia.com", profile("3g.20gb")),
    constraints=[{"requests": [], "matchAttribute": f"{DRIVER}/parentUUID"}],
)


def test_mig_instances_of_one_parent_until_the_gpus_are_full():
    async def story(cluster):
        await cluster.apply(MIG)
        for number in range(5):
            wanted = {name: [("mig", name)] for name in "abcd"}
            await cluster.apply(pod(f"pod-{number}", {"mig": "mig"}, wanted))
        await cluster.clock.sleep(30)
        phases = [p.get("status", {}).get("phase") for p in await cluster.pods()]
        assert sorted(phases) == ["Pending"] + ["Running"] * 4
        found = await given_now(cluster)
        parents = [{device.split("-mig-")[0] for device in devices} for devices in found]
        assert sorted(next(iter(p)) for p in parents) == [f"gpu-{n}" for n in range(4)]
        for devices in found:
            taken = [slice_ for device in devices for slice_ in memory_slices(device)]
            assert len(taken) == len(set(taken)) == 8
        # The whole GPUs are not to be had any more.
        await cluster.apply(template("whole", request("gpu")))
        await cluster.apply(pod("whole", {"g": "whole"}, {"a": [("g", "")]}))
        await cluster.clock.sleep(5)
        assert not (await cluster.get(PODS, "whole"))["spec"].get("nodeName")

    play(story, gpus(4, model="A100-40GB", mig=True))


async def given_now(cluster):
    claims = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
    return [
        [r["device"] for r in claim["status"]["allocation"]["devices"]["results"]]
        for claim in claims
        if claim.get("status", {}).get("allocation")
    ]


def memory_slices(device):
    size = {"1g5gb": 1, "2g10gb": 2, "3g20gb": 4}[device.split("-")[3]]
    start = int(device.rpartition("-")[2])
    return range(start, start + size)


def sharing(strategy, **settings):
    return {
        "requests": [],
        "opaque": {
            "driver": DRIVER,
            "parameters": {
                "apiVersion": "resource.nvidia.com/v1beta1",
                "kind": "GpuConfig",
                "sharing": {"strategy": strategy, **settings},
            },
        },
    }


def test_time_slicing_and_mps_are_taken():
    slices = sharing("TimeSlicing", timeSlicingConfig={"interval": "Long"}) | {"requests": ["ts"]}
    limits = {"defaultActiveThreadPercentage": 50, "defaultPinnedDeviceMemoryLimit": "10Gi"}
    mps = sharing("MPS", mpsConfig=limits) | {"requests": ["mps"]}

    async def story(cluster):
        await cluster.apply(template("both", request("ts"), request("mps"), config=[slices, mps]))
        wanted = {
            "ts0": [("g", "ts")],
            "ts1": [("g", "ts")],
            "mps0": [("g", "mps")],
            "mps1": [("g", "mps")],
        }
        await cluster.apply(pod("both", {"g": "both"}, wanted))
        await running(cluster, "default", 1)
        [devices] = (await given(cluster, "default")).values()
        assert len(set(devices)) == 2

    play(story, gpus())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (sharing("TimeSlicing", timeSlicingConfig={"interval": "Huge"}), "unknown time-slice int"),
        (sharing("MPS", mpsConfig={"defaultActiveThreadPercentage": 101}), "greater than 100"),
        (sharing("MPS", mpsConfig={"defaultPinnedDeviceMemoryLimit": "1k"}), "set too low"),
        (sharing("MPS", timeSlicingConfig={}), "cannot use TimeSlicingConfig with the 'MPS'"),
        (sharing("Turns"), "unknown GPU sharing strategy: Turns"),
    ],
)
def test_the_webhooks_refusals(config, words):
    async def story(cluster):
        with pytest.raises(ApiError) as caught:
            await cluster.apply(template("bad", request("gpu"), config=[config]))
        assert words in str(caught.value)
        assert "spec.spec.devices.config[0].opaque.parameters" in str(caught.value)

    play(story, gpus())


def test_gpus_and_nics_of_one_pcie_root():
    aligned = {
        "requests": ["gpu", "nic"],
        "matchAttribute": "resource.kubernetes.io/pcieRoot",
    }

    async def story(cluster):
        documents = [
            template("pair", request("gpu"), request("nic", "dra.net"), constraints=[aligned])
        ]
        await apply(cluster, documents)
        for number in range(4):
            await cluster.apply(pod(f"p{number}", {"pair": "pair"}, {"c": [("pair", "")]}))
        await running(cluster, "default", 4)
        roots = await attribute_of_devices(cluster, "resource.kubernetes.io/pcieRoot")
        for gpu, nic in (await given(cluster, "default")).values():
            assert roots[gpu] == roots[nic]

    file = gpus(4)
    file.pools[0].devices.append({"profile": "nic", "count": 4})
    play(story, file)


async def attribute_of_devices(cluster, name):
    slices = (await cluster.client.list(RESOURCE_SLICES)).items
    return {
        device["name"]: device["attributes"][name]["string"]
        for slice_ in slices
        for device in slice_["spec"].get("devices") or ()
    }


def test_nvidia_smi_lists_the_containers_own_gpus(tmp_path):
    """Real processes: each container's ``nvidia-smi -L``, as the demos' readers compare it."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an nvidia-smi of its own")

    def listing(name, claims, wanted):
        document = pod(name, claims, wanted)
        document["spec"]["restartPolicy"] = "Never"
        for container in document["spec"]["containers"]:
            container["command"] = ["bash", "-c", "nvidia-smi -L"]
        return document

    async def printed(cluster, name, container):
        async def ended():
            found = await cluster.get(PODS, name)
            return found.get("status", {}).get("phase") in ("Succeeded", "Failed")

        await cluster.until(ended, 30, f"{name} ended")
        options = LogOptions(container=container)
        return b"".join([p async for p in cluster.embedded.logs("default", name, options)]).decode()

    async def story(cluster):
        await apply(
            cluster, [template("one", request("gpu")), template("two", request("gpus", count=2))]
        )
        await cluster.apply(
            listing("apart", {"x": "one", "y": "two"}, {"a": [("x", "")], "b": [("y", "")]})
        )
        first, both = await printed(cluster, "apart", "a"), await printed(cluster, "apart", "b")
        line = r"GPU (\d): NVIDIA A100-SXM4-40GB \(UUID: (GPU-[0-9a-f-]{36})\)\n"
        assert [number for number, _ in re.findall(line, both)] == ["0", "1"]
        uuids = re.findall(line, first + both)
        assert len({uuid for _, uuid in uuids}) == 3
        await cluster.apply(MIG)
        wanted = {name: [("mig", name)] for name in "abcd"}
        await cluster.apply(listing("cut", {"mig": "mig"}, wanted))
        text = await printed(cluster, "cut", "d")
        assert re.fullmatch(
            line + r"  MIG 3g\.20gb +Device  0: \(UUID: MIG-[0-9a-f-]{36}\)\n", text
        )

    devices = [{"profile": "nvidia", "count": 4, "model": "A100-40GB", "mig": True}]
    cluster_file = ClusterFile([NodePool("dgx", 1, "process", devices=devices)])
    run_real(story, tmp_path, file=cluster_file)


# As published -----------------------------------------------------------------------------------

WHOLE, CUT = gpus(8, model="A100"), gpus(4, model="A100-40GB", mig=True)


@pytest.mark.parametrize(
    ("name", "file", "pods", "devices"),
    [
        ("v1/gpu-test1", WHOLE, 2, [1, 1]),
        ("v1/gpu-test2", WHOLE, 1, [1]),
        ("v1/gpu-test3", WHOLE, 2, [1]),
        ("v1/gpu-test4", CUT, 4, [4, 4, 4, 4]),
        ("v1/gpu-test5", WHOLE, 1, [2]),
        ("../extended-resources/gpu-full", WHOLE, 1, [1]),
    ],
)
def test_the_published_demos(demo, name, file, pods, devices):
    documents = demo(name)

    async def story(cluster):
        await apply(cluster, documents)
        namespace = documents[0]["metadata"]["name"]
        await all_placed(cluster, namespace, pods)
        found = await given(cluster, namespace)
        assert sorted(len(d) for d in found.values()) == sorted(devices)
        all_of_them = [device for d in found.values() for device in d]
        assert len(all_of_them) == len(set(all_of_them))

    play(story, file)


@pytest.mark.parametrize("has_index", [False, True])
def test_the_selector_demo_names_an_attribute_that_the_driver_has_no_more(demo, has_index):
    """gpu-test6 asks for GPUs 0, 2, 4 and 6 by ``index``, which the driver does not publish now."""
    documents = demo("v1/gpu-test6")
    options = {"attributes": {"index": "{index}"}} if has_index else {}

    async def story(cluster):
        await apply(cluster, documents)
        if not has_index:
            await cluster.clock.sleep(30)
            assert await given_in(cluster, "gpu-test6") == []
            deployment = await cluster.get(DEPLOYMENTS, "pod", "gpu-test6")
            assert not deployment["status"].get("availableReplicas")
            return
        await running(cluster, "gpu-test6", 4)
        found = await given_in(cluster, "gpu-test6")
        assert sorted(found) == ["gpu-0", "gpu-2", "gpu-4", "gpu-6"]

    play(story, gpus(8, model="A100", **options))


async def given_in(cluster, namespace):
    claims = (await cluster.client.list(RESOURCE_CLAIMS, namespace)).items
    return [
        result["device"]
        for claim in claims
        for result in (claim.get("status", {}).get("allocation") or {})
        .get("devices", {})
        .get("results", ())
    ]
