"""What NVML says of a machine, as the vendor's driver publishes it."""

from __future__ import annotations

import pytest

from kubarium.node.drivers.nvml.discovery import device_documents, discover, pci_place
from tests.node.nvml.fake import Board, FakeNvml, mig_board, two_boards


def sysfs(tmp_path, places):
    """A /sys in which each bus id lies below a PCIe root; numa node by bus id."""
    entries = tmp_path / "bus/pci/devices"
    entries.mkdir(parents=True)
    for bus_id, (root, numa) in places.items():
        home = tmp_path / "devices" / root / "0000:00:01.0" / bus_id
        home.mkdir(parents=True)
        (home / "numa_node").write_text(f"{numa}\n")
        (entries / bus_id).symlink_to(home)
    return tmp_path


def documents(nvml, root):
    inventory = discover(nvml, root)
    return [d for gpu in inventory.gpus for d in device_documents(inventory, gpu)]


def test_a_gpu_under_the_real_drivers_names(tmp_path):
    root = sysfs(tmp_path, {"0000:1b:00.0": ("pci0000:15", 1), "0000:5d:00.0": ("pci0000:59", -1)})
    first, second = documents(FakeNvml(*two_boards()), root)
    assert first == {
        "name": "gpu-0",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": "GPU-aaaa"},
            "productName": {"string": "NVIDIA H100 80GB HBM3"},
            "brand": {"string": "Nvidia"},
            "architecture": {"string": "Hopper"},
            "cudaComputeCapability": {"version": "9.0.0"},
            "driverVersion": {"version": "535.104.5"},
            "cudaDriverVersion": {"version": "12.2.0"},
            "addressingMode": {"string": "HMM"},
            "resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:15"},
            "resource.kubernetes.io/numaNode": {"int": 1},
        },
        "capacity": {"memory": {"value": "81559Mi"}},
    }
    assert second["name"] == "gpu-1"
    assert second["attributes"]["resource.kubernetes.io/pcieRoot"] == {"string": "pci0000:59"}
    assert "resource.kubernetes.io/numaNode" not in second["attributes"]


def test_a_gpu_in_mig_mode_is_its_instances(tmp_path):
    small, large = documents(FakeNvml(mig_board()), tmp_path)
    assert small["name"] == "gpu-0-mig-1g5gb-19-6"
    assert large["name"] == "gpu-0-mig-3g20gb-9-0"
    assert large["attributes"]["type"] == {"string": "mig"}
    assert large["attributes"]["uuid"] == {"string": "MIG-2"}
    assert large["attributes"]["parentUUID"] == {"string": "GPU-cccc"}
    assert large["attributes"]["profile"] == {"string": "3g.20gb"}
    assert large["capacity"]["multiprocessors"] == {"value": "42"}
    assert large["capacity"]["memory"] == {"value": "20096Mi"}
    slices = [name for name in large["capacity"] if name.startswith("memorySlice")]
    assert slices == [f"memorySlice{number}" for number in range(4)]
    assert "memorySlice6" in small["capacity"]


def test_what_a_gpu_does_not_answer_is_left_out(tmp_path):
    board = Board("GPU-old", 3, broken={"AddressingMode": 3, "MigMode": 3})
    (device,) = documents(FakeNvml(board), tmp_path)
    assert device["name"] == "gpu-3"
    assert "addressingMode" not in device["attributes"]
    assert "resource.kubernetes.io/pcieRoot" not in device["attributes"]


def test_a_gpu_that_is_lost_does_not_hide_the_others(tmp_path):
    lost, well = two_boards()
    lost.broken["HandleByIndex"] = 15
    inventory = discover(FakeNvml(lost, well), tmp_path)
    assert [gpu.name for gpu in inventory.gpus] == ["gpu-1"]
    assert inventory.problems == ("GPU 0: error 15",)


def test_instances_that_may_not_be_read_are_said(tmp_path):
    board = mig_board()
    board.broken["GpuInstanceById"] = 4
    inventory = discover(FakeNvml(board), tmp_path)
    assert inventory.gpus[0].instances == ()
    assert len(inventory.problems) == 2


@pytest.mark.parametrize("bus_id", ["0000:1b:00.0", "nothing"])
def test_a_machine_without_sysfs(tmp_path, bus_id):
    assert pci_place(bus_id, tmp_path) == ("", None)
