"""What NVML says of a machine, as the vendor's driver publishes it."""

from __future__ import annotations

import pytest

from kubarium.node.drivers.nvml.discovery import device_documents, discover, pci_place
from tests.node.nvml.fake import Board, FakeNvml, Mig, mig_board, two_boards


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


# What each function tells, where a GPU or an old driver may not know it.
TOLD = {
    "Name": "productName",
    "PciInfo": "resource.kubernetes.io/pciBusID",
    "CudaComputeCapability": "cudaComputeCapability",
    "AddressingMode": "addressingMode",
    "DriverVersion": "driverVersion",
    "CudaDriverVersion": "cudaDriverVersion",
}


@pytest.mark.parametrize("number", [3, 13, 999])  # not supported, no such function, unknown
@pytest.mark.parametrize("function", TOLD)
def test_a_function_that_fails_costs_its_attribute_only(tmp_path, function, number):
    board = Board("GPU-old", 3)
    nvml = FakeNvml(board)
    (whole,) = documents(nvml, tmp_path)
    (nvml if function.endswith("DriverVersion") else board).broken[function] = number
    (left,) = documents(nvml, tmp_path)
    assert whole["attributes"].keys() - left["attributes"].keys() == {TOLD[function]}
    assert left["capacity"] == whole["capacity"]


def test_a_gpu_that_shares_the_machines_memory_has_none_of_its_own(tmp_path):
    board = Board("GPU-small", 0, name="NVIDIA GB10", broken={"MemoryInfo": 3})
    (device,) = documents(FakeNvml(board), tmp_path)
    assert "capacity" not in device


@pytest.mark.parametrize("function", ["Brand", "Architecture"])
def test_kinds_that_are_not_told_are_unknown(tmp_path, function):
    (device,) = documents(FakeNvml(Board("GPU-old", 3, broken={function: 3})), tmp_path)
    assert device["attributes"][function.lower()] == {"string": "Unknown"}


def test_without_a_minor_number_the_index_is_the_gpus(tmp_path):
    first, second = two_boards()
    second.broken["MinorNumber"] = 3  # as in a guest without device files
    assert [d["name"] for d in documents(FakeNvml(first, second), tmp_path)] == ["gpu-0", "gpu-1"]


def test_long_names_fit_into_an_attribute(tmp_path):
    (device,) = documents(FakeNvml(Board("GPU-long", 0, name="NVIDIA " + "X" * 88)), tmp_path)
    assert device["attributes"]["productName"]["string"] == "NVIDIA " + "X" * 57


def test_compute_instances_of_one_gpu_instance_are_devices_of_their_own(tmp_path):
    board = mig_board()
    name = "NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"
    board.migs = [Mig(f"MIG-{ci}", name, 2, ci, 9, 0, 4, 20096, 14) for ci in range(3)]
    assert [d["name"] for d in documents(FakeNvml(board), tmp_path)] == [
        "gpu-0-mig-1c3g20gb-9-0",
        "gpu-0-mig-1c3g20gb-9-0-1",
        "gpu-0-mig-1c3g20gb-9-0-2",
    ]


def test_instances_have_the_addressing_mode_of_their_gpu(tmp_path):
    device, _ = documents(FakeNvml(mig_board()), tmp_path)
    assert device["attributes"]["addressingMode"] == {"string": "HMM"}


def test_an_instance_whose_engines_are_not_told_is_published_without_them(tmp_path):
    board = mig_board()
    board.migs[0].broken["Attributes"] = 3
    small, _ = documents(FakeNvml(board), tmp_path)
    assert small["capacity"] == {"memorySlice6": {"value": "1"}}


def test_an_instance_whose_name_tells_no_profile_is_a_problem(tmp_path):
    board = mig_board()
    board.migs[0].name = "NVIDIA A100-SXM4-40GB"
    inventory = discover(FakeNvml(board), tmp_path)
    assert [i.profile for i in inventory.gpus[0].instances] == ["3g.20gb"]
    assert inventory.problems == (
        "GPU 0: MIG device 0: its name tells no profile: 'NVIDIA A100-SXM4-40GB'",
    )


def test_a_gpu_in_mig_mode_that_does_not_tell_its_instances(tmp_path):
    board = mig_board()
    board.broken["MaxMigDeviceCount"] = 3
    inventory = discover(FakeNvml(board), tmp_path)
    assert inventory.gpus[0].instances == ()
    assert "does not tell its MIG devices" in inventory.problems[0]


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("535.104.05", "535.104.5"),
        ("550.54", "550.54.0"),
        ("570.86.15-rc1.2", "570.86.15"),
        ("595.10.01.99", "595.10.1"),
        ("unknown", None),
        ("", None),
    ],
)
def test_versions_of_drivers(monkeypatch, tmp_path, told, version):
    monkeypatch.setattr(FakeNvml, "nvmlSystemGetDriverVersion", lambda self: told)
    (device,) = documents(FakeNvml(Board("GPU-a", 0)), tmp_path)
    assert device["attributes"].get("driverVersion", {}).get("version") == version


def test_a_name_that_is_no_text_hides_no_gpu(monkeypatch, tmp_path):
    def name(self, handle):
        return b"\xff\xfe".decode()

    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetName", name)
    (device,) = documents(FakeNvml(Board("GPU-a", 0)), tmp_path)
    assert "productName" not in device["attributes"]


def test_a_gpu_that_is_lost_while_it_is_asked_is_a_problem(tmp_path):
    lost, well = two_boards()
    lost.broken["Brand"] = 15
    inventory = discover(FakeNvml(lost, well), tmp_path)
    assert [gpu.name for gpu in inventory.gpus] == ["gpu-1"]
