"""GPUs of this machine on nodes: dealt out, handed to containers, watched, measured, or absent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubarium.api.kinds import DEVICE_CLASSES, NODES, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.node.config import DeviceConfig, NodeSpec
from kubarium.node.drivers.exposition import exposition
from kubarium.node.drivers.health import read_health
from kubarium.node.drivers.nvml import library
from kubarium.node.drivers.nvml.machine import MachineGpus
from kubarium.node.drivers.prepare import container_edits, prepare_pod
from kubarium.node.drivers.readings import Holder
from kubarium.node.runtimes.process.rootfs import accelerators
from tests.node.conftest import process_world
from tests.node.nvml.fake import FakeNvml, mig_board, two_boards

DRIVER = "gpu.nvidia.com"
ALL = DeviceConfig("nvml", 0)


def machine(nvml, *specs, root=None):
    found = MachineGpus(None, specs, lambda: nvml, *([root] if root else []))
    found.open()
    return found


def node(name, count=0):
    return NodeSpec(name, devices=(DeviceConfig("nvml", count),))


def test_a_gpu_belongs_to_one_node_only():
    found = machine(FakeNvml(*two_boards()), node("a", 1), node("b"), node("c"))
    assert [[gpu.name for gpu in share.gpus] for share in found.shares] == [
        ["gpu-0"],
        ["gpu-1"],
        [],
    ]
    assert found.lines() == [
        "NVIDIA GPUs of this machine: 2 × NVIDIA H100 80GB HBM3, driver 535.104.5"
    ]
    greedy = machine(FakeNvml(*two_boards()), node("a", 3))
    assert greedy.lines()[1] == "node a asks for 3 GPUs and has 2"


def claim(*devices, config=None):
    results = [
        {"request": "gpu", "driver": DRIVER, "pool": "n1", "device": device} for device in devices
    ]
    given = [{"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": config}}]
    return {
        "metadata": {"name": "c", "namespace": "default", "uid": "u"},
        "status": {
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "pod-uid"}],
            "allocation": {
                "devices": {"results": results, "config": given if config else []},
            },
        },
    }


POD = {
    "metadata": {"name": "p", "namespace": "default", "uid": "pod-uid"},
    "spec": {
        "nodeName": "n1",
        "resourceClaims": [{"name": "gpus", "resourceClaimName": "c"}],
        "containers": [
            {"name": "main", "resources": {"claims": [{"name": "gpus"}]}},
            {"name": "sidecar"},
        ],
    },
}


def handed_out(nvml, *devices, root, config=None):
    (share,) = machine(nvml, node("n1"), root=root).shares
    given = claim(*devices, config=config)
    return container_edits(POD, lambda ns, name: given, {f"{DRIVER}/n1": share})


def a_dev(root, *names):
    for name in names:
        path = root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_a_container_gets_its_own_gpus_and_nobody_elses(tmp_path):
    root = a_dev(tmp_path, "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
    edits = handed_out(FakeNvml(*two_boards()), "gpu-1", root=root)
    assert edits["main"].env == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-bbbb",
        "CUDA_VISIBLE_DEVICES": "GPU-bbbb",
    }
    assert edits["main"].nodes == ("nvidia1", "nvidiactl", "nvidia-uvm")
    for name in ("sidecar", ""):
        assert edits[name].env == {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}
        assert edits[name].nodes == ()


def test_a_mig_instance_comes_with_its_capabilities(tmp_path):
    root = a_dev(tmp_path, "nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap21")
    access = root / "proc/driver/nvidia/capabilities/gpu0/mig/gi2"
    access.mkdir(parents=True)
    (access / "access").write_text("DeviceFileMinor: 21\nDeviceFileMode: 292\n")
    edits = handed_out(FakeNvml(mig_board()), "gpu-0-mig-3g20gb-9-0", root=root)
    assert edits["main"].env["CUDA_VISIBLE_DEVICES"] == "MIG-2"
    assert edits["main"].nodes == ("nvidia0", "nvidiactl", "nvidia-caps/nvidia-cap21")


def test_a_container_sees_the_files_that_it_was_given():
    present = ["nvidia0", "nvidia1", "nvidiactl", "dri", "sda", "null"]
    assert accelerators(present, ["nvidia1", "nvidiactl"]) == ["dri", "nvidia1", "nvidiactl"]
    assert accelerators(present, ()) == ["dri"]
    assert accelerators(present, None) == ["dri", "nvidia0", "nvidia1", "nvidiactl"]


def sharing(**settings):
    return {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "GpuConfig",
        "sharing": settings,
    }


def test_what_of_sharing_cannot_be_honoured_is_said(tmp_path):
    def notes(config):
        return handed_out(FakeNvml(*two_boards()), "gpu-0", root=tmp_path, config=config)["main"]

    assert notes(sharing(strategy="TimeSlicing")).notes == ()
    long = notes(sharing(strategy="TimeSlicing", timeSlicingConfig={"interval": "Long"}))
    assert long.notes == ("time slices of length Long are not set; the GPU's own hold",)
    limits = {"defaultActiveThreadPercentage": 50, "defaultPinnedDeviceMemoryLimit": "10Gi"}
    mps = notes(sharing(strategy="MPS", mpsConfig=limits))
    assert "no control daemon is started" in mps.notes[0]
    assert mps.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert mps.env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=10240M"


def test_simulated_gpus_of_the_same_driver_stand_beside_real_ones(tmp_path):
    (share,) = machine(FakeNvml(*two_boards()), node("n1"), root=tmp_path).shares
    drivers = {DRIVER: DeviceConfig("nvidia", 8), f"{DRIVER}/n1": share}
    given = claim("gpu-0")
    real = prepare_pod(POD, lambda ns, name: given, drivers)
    assert real["main"]["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa"
    given["status"]["allocation"]["devices"]["results"][0]["pool"] = "n2"
    other = {**POD, "spec": {**POD["spec"], "nodeName": "n2"}}
    assert prepare_pod(other, lambda ns, name: given, drivers)["main"] == {
        "NVIDIA_VISIBLE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": "0",
    }


def test_a_simulated_gpu_beside_real_ones_is_nobodys_number(tmp_path):
    (share,) = machine(FakeNvml(*two_boards()), node("n1"), root=tmp_path).shares
    drivers = {"gpu.sim.example": DeviceConfig("nvidia", 8), f"{DRIVER}/n1": share}
    given = claim("gpu-1")
    given["status"]["allocation"]["devices"]["results"][0]["driver"] = "gpu.sim.example"
    edits = container_edits(POD, lambda ns, name: given, drivers)
    assert edits["main"].env["CUDA_VISIBLE_DEVICES"] == ""
    assert edits["main"].nodes == ()


def test_readings_come_from_the_gpu(tmp_path):
    boards = two_boards()
    boards[1].broken["PowerUsage"] = 3
    found = machine(FakeNvml(*boards), node("n1"), root=tmp_path)
    first, second = found.readings(found.shares[0], {})
    assert (first.utilization, first.memory_utilization) == (42, 17)
    assert (first.power_w, first.temperature_c, first.sm_clock_mhz) == (321.5, 55, 1980)
    assert (first.memory_used, first.memory_total) == (512 << 20, 81559 << 20)
    assert second.power_w is None
    boards[0].broken["UtilizationRates"] = 15
    lost = found.readings(found.shares[0], {})[0]
    assert (lost.state, lost.power_w) == ("Unhealthy", None)


def test_instances_tell_their_memory_and_the_gpu_its_work(tmp_path):
    found = machine(FakeNvml(mig_board()), node("n1"), root=tmp_path)
    whole, small, large = found.readings(found.shares[0], {})
    assert (whole.device, whole.utilization) == ("gpu-0", 42)
    assert (small.device, small.utilization) == ("gpu-0-mig-1g5gb-19-6", None)
    assert (small.uuid, small.mig_profile, small.mig_instance) == ("MIG-1", "1g.5gb", "7")
    assert large.memory_used == 100 << 20


def test_what_is_said_of_a_node_is_how_its_gpus_are(tmp_path):
    boards = two_boards()
    found = machine(FakeNvml(*boards), node("n1"), root=tmp_path)
    said = {"gpu-0": read_health("xid-79")}
    first, second = found.readings(found.shares[0], {}, said)
    assert (first.state, first.xid, second.state) == ("Unhealthy", 79, "Healthy")


def test_who_holds_an_instance_holds_its_gpu_by_the_instances_name(tmp_path):
    found = machine(FakeNvml(mig_board()), node("n1"), root=tmp_path)
    holder = Holder("team-a", "train-0", "main", "claim")
    held = {(DRIVER, "gpu-0-mig-3g20gb-9-0"): [holder]}
    readings = found.readings(found.shares[0], held)
    assert [len(reading.holders) for reading in readings] == [1, 0, 1]
    assert {reading.parent for reading in readings} == {"", "GPU-cccc"}
    series = [
        (s.labels["UUID"], s.labels["GPU_I_ID"], s.labels["pod"], s.labels["dra_device_name"])
        for family in text_string_to_metric_families(exposition("n1", readings).decode())
        for s in family.samples
        if s.name == "DCGM_FI_DEV_FB_USED"
    ]
    assert series == [
        ("GPU-cccc", "", "train-0", "gpu-0-mig-3g20gb-9-0"),
        ("GPU-cccc", "7", "", ""),
        ("GPU-cccc", "2", "train-0", "gpu-0-mig-3g20gb-9-0"),
    ]


# In an agent ------------------------------------------------------------------------------------


CLAIM = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "metadata": {"name": "c", "namespace": "default"},
    "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}},
}


async def give(world, pod, device):
    """Allocate a device to the claim, as a scheduler would."""
    result = {"request": "gpu", "driver": DRIVER, "pool": "node-1", "device": device}
    consumer = {"resource": "pods", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": [consumer]}
    claim = await world.client.get(RESOURCE_CLAIMS, "c", "default")
    await world.client.update(
        RESOURCE_CLAIMS, {**claim, "status": status}, "default", subresource="status"
    )


def run(main, nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    asyncio.run(main())


def test_an_agent_publishes_hands_out_watches_and_measures(monkeypatch):
    boards = two_boards()
    nvml = FakeNvml(*boards)

    async def main():
        nodes = (NodeSpec("node-1", devices=(ALL,)),)
        async with process_world(nodes=nodes) as world:
            (slice_,) = (await world.client.list(RESOURCE_SLICES)).items
            assert [d["name"] for d in slice_["spec"]["devices"]] == ["gpu-0", "gpu-1"]
            classes = [
                c["metadata"]["name"] for c in (await world.client.list(DEVICE_CLASSES)).items
            ]
            assert classes == ["gpu.nvidia.com", "mig.nvidia.com"]

            await world.create(RESOURCE_CLAIMS, CLAIM)
            pod = await world.pod(
                "user",
                'echo "mine: $CUDA_VISIBLE_DEVICES"',
                container={"resources": {"claims": [{"name": "gpu"}]}},
                resourceClaims=[{"name": "gpu", "resourceClaimName": "c"}],
            )
            await give(world, pod, "gpu-1")
            assert await world.output("user") == "mine: GPU-bbbb\n"
            await world.pod("other", 'echo "mine: $CUDA_VISIBLE_DEVICES, $NVIDIA_VISIBLE_DEVICES"')
            assert await world.output("other") == "mine: , void\n"

            nvml.happen(boards[0], 79)

            async def tainted():
                (slice_,) = (await world.client.list(RESOURCE_SLICES)).items
                return slice_["spec"]["devices"][0].get("taints")

            (taint,) = await world.until(tainted, "the GPU is tainted")
            assert (taint["key"], taint["value"]) == ("gpu.nvidia.com/xid", "79")
            assert "gpu-0 is Unhealthy" in await world.event("node-1", "DeviceUnhealthy")

            text = world.agent.metrics("node-1").decode()
            assert "DCGM_FI_DEV_GPU_UTIL{" in text
            assert 'UUID="GPU-bbbb"' in text
            assert "DCGM_FI_DEV_SM_CLOCK" in text
        assert not nvml.is_open

    run(main, nvml, monkeypatch)


def test_a_device_file_that_a_container_makes_opens_nothing():
    async def main():
        async with process_world() as world:
            if world.agent.isolation().level == "plain":
                pytest.skip("this machine lets no container have a /dev of its own")
            script = (
                "mknod /dev/nvidia7 c 1 5; exec 2>/dev/null; head -c 1 /dev/nvidia7 || echo shut"
            )
            await world.pod("maker", f"{script}; wc -c </dev/null")
            assert await world.output("maker") == "shut\n0\n"

    asyncio.run(main())


def test_nodes_of_one_agent_differ_in_what_is_behind_a_driver(monkeypatch):
    async def main():
        simulated = (DeviceConfig("nvidia", 2),)
        nodes = (NodeSpec("node-2", devices=(ALL,)), NodeSpec("node-1", devices=simulated))
        async with process_world(nodes=nodes) as world:
            slices = (await world.client.list(RESOURCE_SLICES)).items
            uuids = {
                s["spec"]["nodeName"]: s["spec"]["devices"][0]["attributes"]["uuid"]["string"]
                for s in slices
            }
            assert uuids["node-2"] == "GPU-aaaa"
            assert uuids["node-1"] != "GPU-aaaa"
            await world.create(RESOURCE_CLAIMS, CLAIM)
            pod = await world.pod(
                "user",
                'echo "mine: $CUDA_VISIBLE_DEVICES"',
                container={"resources": {"claims": [{"name": "gpu"}]}},
                resourceClaims=[{"name": "gpu", "resourceClaimName": "c"}],
                nodeName="node-1",
            )
            await give(world, pod, "gpu-1")
            assert await world.output("user") == "mine: 1\n"

    run(main, FakeNvml(*two_boards()), monkeypatch)


class Absent:
    """The module where the NVIDIA driver is not installed, or does not answer."""

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__("the error's own words")
            self.value = value

    def __init__(self, value):
        self.value = value

    def nvmlInit(self):
        raise self.NVMLError(self.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (12, "libnvidia-ml.so.1 is not on this machine"),
        (9, "the NVIDIA driver is not loaded"),
        (999, "NVML does not start: the error's own words"),
    ],
)
def test_without_a_driver_the_node_says_so_and_runs_pods_all_the_same(monkeypatch, value, words):
    async def main():
        nodes = (NodeSpec("node-1", devices=(ALL, DeviceConfig("gpu.example.com", 2))),)
        async with process_world(nodes=nodes) as world:
            assert words in await world.event("node-1", "NoGpus")
            assert words in world.agent.hardware()[0]
            slices = (await world.client.list(RESOURCE_SLICES)).items
            devices = {s["spec"]["driver"]: len(s["spec"]["devices"]) for s in slices}
            assert devices == {"gpu.example.com": 2, "gpu.nvidia.com": 0}
            await world.pod("user", "echo here")
            assert await world.output("user") == "here\n"
            await world.client.get(NODES, "node-1")

    run(main, Absent(value), monkeypatch)


def test_a_machine_without_gpus_says_so():
    assert machine(FakeNvml(), node("a")).lines() == [
        "NVIDIA GPUs of this machine: none (NVML finds no GPU on this machine)"
    ]


def test_a_module_that_breaks_is_a_reason():
    def breaks():
        raise OSError("wrong ELF class")

    found = MachineGpus(None, [node("a")], breaks)
    found.open()
    assert found.reason == "NVML does not start: wrong ELF class"
    assert found.shares[0].gpus == ()


def test_nodes_that_ask_for_none_never_touch_nvml():
    def explode():
        raise AssertionError("loaded")

    assert not MachineGpus(None, [NodeSpec("n", devices=(DeviceConfig("nvidia", 8),))], explode)


# The real library -------------------------------------------------------------------------------


def test_without_the_python_module_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(library.NoNvml, match=r"install kubarium\[nvidia\]"):
        library.load()


def test_the_real_module_without_the_drivers_library():
    pytest.importorskip("pynvml")
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has the NVIDIA driver")
    with pytest.raises(library.NoNvml, match=r"libnvidia-ml\.so\.1 is not on this machine"):
        library.load()


LIBRARY = r"""
#include <string.h>
typedef struct { unsigned minor; const char *uuid; } Board;
static Board boards[3] = {{0, "GPU-aaaa"}, {1, "GPU-bbbb"}, {2, "GPU-cccc"}};
static Board part = {2, "MIG-dddd"};
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem;
  char bus_id[32]; } Pci;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version, value; } Mode;
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { Board *device; unsigned long long type, data; unsigned gi, ci; } Event;
typedef struct { Board *device; unsigned id, profile, start, size; } Instance;
typedef struct { unsigned sm, ce, dec, enc, jpeg, ofa, gi, ci; unsigned long long mb; } Engines;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, "580.95.05", n); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Board **b) { *b = &boards[i]; return 0; }
int nvmlDeviceGetUUID(Board *b, char *v, unsigned n) { strncpy(v, b->uuid, n); return 0; }
int nvmlDeviceGetName(Board *b, char *v, unsigned n) {
  strncpy(v, b == &part ? "NVIDIA H200 MIG 1g.18gb" : "NVIDIA H200", n); return 0; }
int nvmlDeviceGetMinorNumber(Board *b, unsigned *v) { *v = b->minor; return 0; }
int nvmlDeviceGetBrand(Board *b, unsigned *v) { *v = 14; return 0; }
int nvmlDeviceGetArchitecture(Board *b, unsigned *v) { *v = 9; return 0; }
int nvmlDeviceGetCudaComputeCapability(Board *b, int *x, int *y) { *x = 9; *y = 0; return 0; }
int nvmlDeviceGetMemoryInfo(Board *b, Memory *m) {
  m->total = 150754820096ULL; m->used = 1073741824ULL; m->free = m->total - m->used; return 0; }
int nvmlDeviceGetPciInfo_v3(Board *b, Pci *p) {
  strcpy(p->bus_id, b->minor ? "00000000:5D:00.0" : "00000000:1B:00.0"); return 0; }
int nvmlDeviceGetAddressingMode(Board *b, Mode *m) { m->value = 1; return 0; }
int nvmlDeviceGetMigMode(Board *b, unsigned *c, unsigned *p) {
  *c = *p = b == &boards[2]; return b == &boards[0] ? 3 : 0; }
int nvmlDeviceGetMaxMigDeviceCount(Board *b, unsigned *n) { *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(Board *b, unsigned i, Board **m) {
  *m = &part; return i == 2 ? 0 : 6; }
int nvmlDeviceGetGpuInstanceId(Board *b, unsigned *v) { *v = 9; return 0; }
int nvmlDeviceGetComputeInstanceId(Board *b, unsigned *v) { *v = 0; return 0; }
int nvmlDeviceGetGpuInstanceById(Board *b, unsigned i, Board **v) { *v = &part; return 0; }
int nvmlGpuInstanceGetInfo(Board *b, Instance *i) {
  i->id = 9; i->profile = 19; i->start = 6; i->size = 1; return 0; }
int nvmlDeviceGetAttributes_v2(Board *b, Engines *e) {
  memset(e, 0, sizeof *e); e->sm = 16; e->ce = e->dec = e->jpeg = 1; e->mb = 16384; return 0; }
int nvmlDeviceGetUtilizationRates(Board *b, Rates *r) { r->gpu = 97; r->memory = 61; return 0; }
int nvmlDeviceGetPowerUsage(Board *b, unsigned *v) { *v = 689000; return 0; }
int nvmlDeviceGetTemperature(Board *b, unsigned s, unsigned *v) { *v = 71; return 0; }
int nvmlDeviceGetClockInfo(Board *b, unsigned k, unsigned *v) { *v = 1980; return 0; }
int nvmlDeviceGetSupportedEventTypes(Board *b, unsigned long long *v) { *v = 0x1F; return 0; }
int nvmlDeviceRegisterEvents(Board *b, unsigned long long t, void *s) { return 0; }
int nvmlEventSetCreate(void **s) { *s = boards; return 0; }
int nvmlEventSetFree(void *s) { return 0; }
int nvmlEventSetWait_v2(void *s, Event *e, unsigned ms) {
  static int number = 0;
  e->device = &boards[1]; e->type = 8; e->data = 94; e->gi = e->ci = 0xFFFFFFFF;
  if (number++ == 0) return 0;
  e->device = &boards[2]; e->type = 2; e->data = 0; e->gi = 9; e->ci = 0;
  return number == 2 ? 0 : 10; }
const char *nvmlErrorString(int code) { return "an error"; }
"""

PROGRAM = """
import json
from kubarium.node.config import DeviceConfig, NodeSpec
from kubarium.node.drivers.nvml.machine import MachineGpus
gpus = MachineGpus(None, [NodeSpec("n1", devices=(DeviceConfig("nvml", 0),))])
gpus.open()
for _ in range(3):
    gpus._watch.wait(10)
(share,) = gpus.shares
print(json.dumps({
    "lines": gpus.lines(),
    "devices": share.documents(),
    "identity": share.identity("gpu-1"),
    "power": [r.power_w for r in gpus.readings(share, {})],
    "health": {name: health.text() for name, health in gpus._health().items()},
}))
gpus.close()
"""


def test_the_real_module_over_a_library_of_two_gpus_and_one_that_is_cut(tmp_path):
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make a stand-in for the driver's library with")
    source = tmp_path / "nvml.c"
    source.write_text(LIBRARY)
    target = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["lines"] == ["NVIDIA GPUs of this machine: 3 × NVIDIA H200, driver 580.95.5"]
    first, second, part = found["devices"]
    assert first["attributes"]["uuid"] == {"string": "GPU-aaaa"}
    assert first["attributes"]["cudaDriverVersion"] == {"version": "13.0.0"}
    assert first["attributes"]["addressingMode"] == {"string": "HMM"}
    assert second["attributes"]["resource.kubernetes.io/pciBusID"] == {"string": "0000:5d:00.0"}
    assert first["capacity"] == {"memory": {"value": "143771Mi"}}
    assert found["identity"] == "GPU-bbbb"
    assert found["power"] == [689.0, 689.0, 689.0, None]
    assert part["name"] == "gpu-2-mig-1g18gb-19-6"
    assert part["attributes"]["parentUUID"] == {"string": "GPU-cccc"}
    assert part["attributes"]["profile"] == {"string": "1g.18gb"}
    assert part["capacity"] == {
        "multiprocessors": {"value": "16"},
        "copyEngines": {"value": "1"},
        "decoders": {"value": "1"},
        "encoders": {"value": "0"},
        "jpegEngines": {"value": "1"},
        "ofaEngines": {"value": "0"},
        "memory": {"value": "16Gi"},
        "memorySlice6": {"value": "1"},
    }
    assert found["health"] == {
        "gpu-1": "xid-94:NoSchedule",
        "gpu-2-mig-1g18gb-19-6": "xid-48:NoSchedule",
    }


def test_a_module_that_lacks_functions_is_named(monkeypatch):
    class Old:
        class NVMLError(Exception):
            pass

        def nvmlInit(self):
            pass

    monkeypatch.setitem(sys.modules, "pynvml", Old())
    with pytest.raises(library.NoNvml, match="pynvml has no nvmlShutdown: it is too old"):
        library.load()


# A library that hangs ---------------------------------------------------------------------------


class Hanging(FakeNvml):
    """Answers of some functions come once ``answer`` is set."""

    def __init__(self, *boards):
        super().__init__(*boards)
        self.answer = threading.Event()
        self.hangs = set()

    def _ask(self, handle, name):
        if name in self.hangs:
            self.answer.wait(30)
        super()._ask(handle, name)


def test_a_driver_that_hangs_at_the_start_delays_no_node(monkeypatch):
    nvml = Hanging(*two_boards())
    nvml.hangs = {"DriverVersion"}
    monkeypatch.setattr("kubarium.node.drivers.nvml.machine.OPEN_WITHIN_S", 0.05)

    async def main():
        async with process_world(nodes=(NodeSpec("node-1", devices=(ALL,)),)) as world:
            assert "NVML has not answered for 0 s" in await world.event("node-1", "NoGpus")
            await world.pod("user", "echo here")
            assert await world.output("user") == "here\n"
            nvml.answer.set()

            async def published():
                slices = (await world.client.list(RESOURCE_SLICES)).items
                return [d["name"] for s in slices for d in s["spec"].get("devices") or ()]

            found = await world.until(published, "the GPUs are published when NVML answers")
            assert found == ["gpu-0", "gpu-1"]
            assert "2 × NVIDIA H100" in world.agent.hardware()[0]
        assert not nvml.is_open

    run(main, nvml, monkeypatch)


def test_measurements_that_take_too_long_are_done_without(monkeypatch, tmp_path):
    nvml = Hanging(*two_boards())
    found = machine(nvml, node("n1"), root=tmp_path)
    nvml.hangs = {"UtilizationRates"}
    monkeypatch.setattr("kubarium.node.drivers.nvml.machine.READ_WITHIN_S", 0.05)
    for _ in range(2):  # the second time nobody waits
        first, _ = found.readings(found.shares[0], {})
        assert (first.state, first.power_w, first.uuid) == ("Unknown", None, "GPU-aaaa")
    nvml.answer.set()

    def measured():
        return found.readings(found.shares[0], {})[1].power_w

    while measured() is None:
        pass
    assert measured() == 321.5
    found.close()
    assert not nvml.is_open


def test_the_end_leaves_a_thread_behind_that_waits_forever(monkeypatch, tmp_path):
    nvml = Hanging(*two_boards())
    found = machine(nvml, node("n1"), root=tmp_path)
    nvml.hangs = {"EventSetWait"}
    monkeypatch.setattr("kubarium.node.drivers.nvml.machine.CLOSE_WITHIN_S", 0.05)
    answer = found._events.ask(lambda: found._watch.wait(10))
    while not nvml.waiting:
        pass
    found.close()
    assert not answer.done()
    nvml.answer.set()
    answer.result(10)
