"""What devices measure: plausible, repeatable, and under the names that dashboards read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kubarium.base.quantity import parse_quantity
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.exposition import exposition
from kubarium.node.drivers.health import read_health
from kubarium.node.drivers.nvidia import MODELS
from kubarium.node.drivers.profiles import devices_of
from kubarium.node.drivers.readings import Holder, Reading, level_of, simulated
from kubarium.node.drivers.smi import program

NVIDIA = "gpu.nvidia.com"
H100 = DeviceConfig("nvidia", 4, model="H100")


def read(config=H100, held=None, health=None, now=1000.0, node="n1"):
    by_device = {(NVIDIA, device): holders for device, holders in (held or {}).items()}
    devices = devices_of(config, node, config.count)
    return {
        reading.device: reading
        for reading in simulated(config, NVIDIA, node, devices, by_device, health or {}, now)
    }


def working(level=None):
    return [Holder("team-a", "train-0", "main", "train-0-gpu", level)]


def test_an_idle_gpu_rests_and_a_held_one_works():
    found = read(held={"gpu-1": working()})
    idle, busy = found["gpu-0"], found["gpu-1"]
    assert idle.utilization == 0
    assert 60 < idle.power_w < 80
    assert idle.memory_used < 1 << 30
    assert 67 <= busy.utilization <= 100
    assert busy.power_w > 450
    assert busy.temperature_c > idle.temperature_c + 20
    assert busy.memory_used > 40 << 30


def test_a_pod_says_how_hard_it_works():
    def pod(text):
        return {"metadata": {"annotations": {"kubarium.dev/gpu-utilization": text}}}

    assert [level_of(pod(t)) for t in ("40", "0", "101", "much")] == [40.0, 0.0, None, None]
    assert read(held={"gpu-0": working(0.0)})["gpu-0"].utilization == 0
    assert 37 <= read(held={"gpu-0": working(40.0)})["gpu-0"].utilization <= 43


@given(
    st.sampled_from(sorted(MODELS)),
    st.floats(0, 1e7),
    st.one_of(st.none(), st.floats(0, 100)),
    st.text("abc", max_size=3),
)
def test_values_stay_within_the_product(model, now, level, node):
    config = DeviceConfig("nvidia", 2, model=model)
    physics = MODELS[model].physics
    for reading in read(config, {"gpu-1": working(level)}, now=now, node=node).values():
        assert 0 <= reading.utilization <= 100
        assert 0 < reading.memory_used <= reading.memory_total
        assert 0.9 * physics.idle_w <= reading.power_w <= physics.power_w
        assert physics.idle_c - 3 <= reading.temperature_c <= physics.warm_c + 3
        assert reading.memory_total == parse_quantity(MODELS[model].memory)


def test_the_same_moment_reads_the_same():
    held = {"gpu-0": working(), "gpu-2": working()}
    assert read(held=held) == read(held=held)
    later = read(held=held, now=1100.0)
    assert later["gpu-1"] == read(held=held)["gpu-1"]
    assert later["gpu-0"].utilization != read(held=held)["gpu-0"].utilization


def test_a_gpu_works_as_hard_as_its_instances():
    config = DeviceConfig("nvidia", 1, model="H100", mig=True)
    found = read(config, {"gpu-0-mig-3g40gb-9-0": working(100.0)})
    assert set(found) == {"gpu-0", "gpu-0-mig-3g40gb-9-0"}
    assert found["gpu-0-mig-3g40gb-9-0"].mig_profile == "3g.40gb"
    assert 45 <= found["gpu-0"].utilization <= 55
    assert found["gpu-0"].memory_used == found["gpu-0-mig-3g40gb-9-0"].memory_used
    assert found["gpu-0-mig-3g40gb-9-0"].power_w is None
    assert found["gpu-0"].power_w > 200


def test_a_lost_gpu_does_no_work():
    health = {"gpu-0": read_health("gpu-lost"), "gpu-1": read_health("xid-79")}
    found = read(held={"gpu-0": working(), "gpu-1": working()}, health=health)
    assert found["gpu-0"].utilization == 0
    assert found["gpu-0"].state == "Unhealthy"
    assert found["gpu-1"].xid == 79


def samples(text, name):
    return [
        sample
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name
    ]


def test_dcgms_names_and_labels():
    readings = list(
        read(held={"gpu-1": [*working(), Holder("team-a", "eval", "main", "c2")]}).values()
    )
    text = exposition("n1", readings)
    used = samples(text, "DCGM_FI_DEV_FB_USED")
    free = samples(text, "DCGM_FI_DEV_FB_FREE")
    assert [u.value + f.value for u, f in zip(used, free, strict=True)] == pytest.approx(
        [81559] * 5, abs=1
    )
    idle, first, second = samples(text, "DCGM_FI_DEV_GPU_UTIL")[:3]
    assert (idle.value, idle.labels["pod"]) == (0, "")
    assert first.labels == {
        "gpu": "1",
        "UUID": readings[1].uuid,
        "pci_bus_id": "00000000:2B:00.0",
        "device": "nvidia1",
        "modelName": "NVIDIA H100 80GB HBM3",
        "GPU_I_PROFILE": "",
        "GPU_I_ID": "",
        "Hostname": "n1",
        "DCGM_FI_DRIVER_VERSION": "580.95.5",
        "namespace": "team-a",
        "pod": "train-0",
        "container": "main",
        "dra_claim_name": "train-0-gpu",
        "dra_claim_namespace": "team-a",
        "dra_driver_name": "gpu.nvidia.com",
        "dra_pool_name": "n1",
        "dra_device_name": "gpu-1",
        "dra_mig_profile": "",
        "dra_mig_device_uuid": "",
    }
    assert (second.labels["pod"], second.value) == ("eval", first.value)
    for name in ("DEV_POWER_USAGE", "DEV_GPU_TEMP", "DEV_XID_ERRORS", "DEV_MEM_COPY_UTIL"):
        assert len(samples(text, f"DCGM_FI_{name}")) == 5


def test_opentelemetrys_names():
    health = {"gpu-0": read_health("xid-79"), "gpu-2": read_health("unmonitored")}
    readings = list(read(held={"gpu-1": working(50.0)}, health=health).values())
    text = exposition("n1", readings)
    assert 0.46 < samples(text, "hw_gpu_utilization_ratio")[1].value < 0.54
    assert samples(text, "hw_gpu_memory_limit_bytes")[0].value == 81559 << 20
    assert samples(text, "hw_power_watts")[0].value > 50
    assert samples(text, "hw_temperature_celsius")[0].value > 20
    (error,) = samples(text, "hw_errors_total")
    assert (error.labels["hw_name"], error.labels["error_type"]) == ("gpu-0", "xid_79")
    states = {
        sample.labels["hw_name"]: sample.labels["hw_state"]
        for sample in samples(text, "hw_status")
        if sample.value
    }
    assert states == {"gpu-0": "failed", "gpu-1": "ok", "gpu-2": "degraded", "gpu-3": "ok"}


def test_series_are_unique():
    config = DeviceConfig("nvidia", 2, model="H100", mig=True)
    held = {
        "gpu-0-mig-1g10gb-19-0": working(),
        "gpu-0-mig-1g10gb-19-1": working(),
        "gpu-1": [*working(), *[Holder("team-a", "train-1", "main", "train-1-gpu")]],
    }
    text = exposition("n1", list(read(config, held).values()))
    keys = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(keys) == len(set(keys)) > 50


def test_what_a_device_does_not_tell_is_left_out():
    text = exposition("n1", [Reading("d", "n1", "gpu-0", 0, "GPU-x", "M")]).decode()
    assert "DCGM_FI_DEV_XID_ERRORS" in text
    assert "DCGM_FI_DEV_GPU_UTIL" not in text
    assert "hw_power_watts" not in text
    unread = exposition("n1", [Reading("d", "n1", "gpu-0", 0, "GPU-x", "M", memory_total=1 << 30)])
    assert samples(unread, "hw_gpu_memory_limit_bytes")[0].value == 1 << 30
    assert samples(unread, "hw_gpu_memory_utilization_ratio") == []
    assert exposition("n1", []) == b""


# `nvidia-smi mig -lgi` of an A100: profile, placement, instance id.
@pytest.mark.parametrize(
    ("device", "number"),
    [
        ("gpu-0-mig-7g80gb-0-0", "0"),
        ("gpu-0-mig-3g40gb-9-4", "1"),
        ("gpu-0-mig-3g40gb-9-0", "2"),
        ("gpu-0-mig-2g20gb-14-4", "3"),
        ("gpu-0-mig-2g20gb-14-0", "5"),
        ("gpu-0-mig-2g20gb-14-2", "6"),
        ("gpu-0-mig-1g10gb-19-4", "7"),
        ("gpu-0-mig-1g10gb-19-6", "9"),
        ("gpu-0-mig-1g10gb-19-0", "11"),
        ("gpu-0-mig-1g10gb-19-3", "14"),
    ],
)
def test_instances_have_the_numbers_that_the_driver_would_give(device, number):
    config = DeviceConfig("nvidia", 1, model="A100", mig=True)
    found = read(config, {device: working()})
    assert (found["gpu-0"].mig_instance, found[device].mig_instance) == ("", number)


def test_a_part_goes_by_its_gpu_in_dcgm_and_has_it_as_parent_elsewhere():
    config = DeviceConfig("nvidia", 1, model="H100", mig=True)
    part = "gpu-0-mig-1g10gb-19-0"
    found = read(config, {part: working()})
    whole = found["gpu-0"].uuid
    text = exposition("n1", list(found.values()))
    labels = [s.labels for s in samples(text, "DCGM_FI_DEV_FB_USED")]
    assert [(v["UUID"], v["GPU_I_ID"], v["GPU_I_PROFILE"]) for v in labels] == [
        (whole, "", ""),
        (whole, "11", "1g.10gb"),
    ]
    assert [(v["dra_mig_profile"], v["dra_mig_device_uuid"]) for v in labels] == [
        ("", ""),
        ("1g.10gb", found[part].uuid),
    ]
    parents = {s.labels["hw_name"]: s.labels["hw_parent"] for s in samples(text, "hw_status")}
    assert parents == {"gpu-0": "", part: whole}


def test_a_part_has_the_uuid_that_nvidia_smi_lists():
    config = DeviceConfig("nvidia", 1, model="H100", mig=True)
    part = "gpu-0-mig-1g10gb-19-0"
    found = read(config, {part: working()})
    assert found[part].uuid in program(config, NVIDIA, "n1", [part])


def test_compute_instances_of_one_gpu_instance_are_one_series_of_dcgms():
    both = [
        Reading(
            "d", "n1", name, 0, uuid, "M", mig_instance="2", memory_used=1 << 30, parent="GPU-x"
        )
        for name, uuid in (("gpu-0-mig-a", "MIG-1"), ("gpu-0-mig-b", "MIG-2"))
    ]
    text = exposition("n1", both)
    assert len(samples(text, "DCGM_FI_DEV_FB_USED")) == 1
    assert len(samples(text, "hw_gpu_memory_usage_bytes")) == 2


SHARED = DeviceConfig("gpu.example.com", 1, allow_multiple=True)


def sharing(claim, memory, compute, level=None):
    consumed = ({"memory": memory, "compute": compute},)
    return Holder("team-a", f"pod-of-{claim}", "main", claim, level, consumed=consumed)


@given(st.floats(0, 1e6), st.sampled_from([None, 5.0, 100.0]), st.text("abc", max_size=3))
def test_who_shares_a_gpu_uses_no_more_than_its_shares(now, level, node):
    holders = [sharing("a", "10Gi", "7", level), sharing("b", "6Gi", "3", level)]
    held = {("gpu.example.com", "gpu-0"): holders}
    devices = devices_of(SHARED, node, 1)
    (one,) = simulated(SHARED, "gpu.example.com", node, devices, held, {}, now)
    assert 0 < one.memory_used <= 16 << 30
    assert 0 < one.utilization <= 10
    assert one.memory_total == 80 << 30


def test_containers_of_one_claim_have_its_share_once_and_a_whole_device_has_no_shares():
    def used(*holders):
        held = {("gpu.example.com", "gpu-0"): holders}
        devices = devices_of(SHARED, "n1", 1)
        return simulated(SHARED, "gpu.example.com", "n1", devices, held, {}, 0.0)[0].memory_used

    one = sharing("a", "10Gi", "7")
    assert used(one, one) == used(one) < 10 << 30
    assert used(one, sharing("b", "10Gi", "7")) > used(one)
    assert used(one, Holder("team-a", "p", "main", "c")) > 40 << 30
