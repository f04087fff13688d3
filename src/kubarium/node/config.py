"""What a cluster file says about nodes, as the agent takes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.node.kubelet_config import KubeletConfig, read_kubelet_config
from kubarium.node.network.plan import NetworkPlan

PROCESS, SIMULATED = "process", "simulated"
DEFAULT_PODS = "110"


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """A device's health changes ``at_s`` seconds after the nodes began.

    ``health`` and ``effect`` are words of ``node.drivers.health``; it lasts ``for_s`` seconds, or
    (None) until the device's next event.
    """

    at_s: float
    node: str
    driver: str
    device: str
    health: str
    effect: str = ""
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class FailureModel:
    """Devices fail by themselves: exponential times between failures and to repair, by seed."""

    mtbf_s: float
    mttr_s: float
    health: str = "Unhealthy"
    effect: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """Devices of one driver on each node of a pool.

    ``profile``: ``gpu.example.com``, ``net.example.com`` or ``cpu.example.com`` (the
    dra-example-driver's), ``nvidia`` (``model`` then names one of A100, A100-40GB, H100, H200,
    B200, GB200), ``nvml`` (this machine's own GPUs: ``count`` of them, 0 is all that are left),
    ``nic`` (network cards beside the simulated GPUs, aligned by PCIe root) or ``free`` (everything
    is given: ``driver``, ``name`` as a pattern with ``{index}``, ``attributes`` and ``capacity``; a
    string value in either may hold ``{index}``, ``{node}`` and ``{uuid}``).

    ``partitions`` cuts each example GPU into that many parts over shared counters; ``mig`` offers
    every MIG profile of an NVIDIA GPU beside the whole one; ``allow_multiple`` lets claims share an
    example GPU; ``binding_conditions`` makes pods wait until the driver has made a device ready;
    ``extended_resource`` is the DeviceClass's name for plain requests; ``cpus`` the size of a NUMA
    device of the cpu profile; with ``failures`` devices fail and recover by themselves.
    """

    profile: str
    count: int
    driver: str = ""
    model: str = ""
    name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    capacity: Mapping[str, Any] = field(default_factory=dict)
    device_class: str = ""
    partitions: int = 0
    mig: bool = False
    allow_multiple: bool = False
    binding_conditions: bool = False
    extended_resource: str = ""
    cpus: int = 4
    failures: FailureModel | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """A mapping of an image name to what is on the machine.

    ``name`` is compared without tag and, if it has no slash, without registry and path; ``*`` at
    its end matches any rest. ``entrypoint`` and ``cmd`` are the image's; ``path`` is put in front
    of PATH. ``modules`` are the Python modules that the image would bring along: where this
    machine lacks one, the image cannot be stood in for. ``programs`` likewise, each with the
    Debian package that has it. ``files`` (path to text) and ``folders`` are what the image has of
    its own where the machine's files would be seen; ``$(POD_IP)`` in a text is the pod's address,
    and folders are its user's. ``instead``: what needs
    no MPI, for images whose own runtime does.
    """

    name: str
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    working_dir: str = ""
    uid: int | None = None
    modules: tuple[str, ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    instead: str = ""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node. Capacity that is not named is the machine's (process) or a plain default."""

    name: str
    capacity: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    kubelet: KubeletConfig = field(default_factory=lambda: read_kubelet_config({}))


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The nodes of one agent, and how their pods run.

    ``root`` is a directory of the agent's own (process runtime only): pods, logs, claims. The API
    server's address and CA are what pods are given; ``isolation`` limits what is tried ("" = the
    best that the machine allows, else one of the levels in ``node.isolation``).
    """

    nodes: tuple[NodeSpec, ...]
    runtime: str = PROCESS
    root: str = ""
    images: tuple[ImageConfig, ...] = ()
    api_host: str = ""
    api_port: int = 0
    api_ca: str = ""
    cluster_domain: str = "cluster.local"
    isolation: str = ""
    serve_services: bool = True
    # The pods' own network; None: they share the machine's, for the reason given.
    network: NetworkPlan | None = None
    no_network: str = ""
    # Whether pods go on when the agent is killed, for the next one to find.
    pods_survive: bool = False
    # Whether registries may be asked for images (by skopeo, where it is installed).
    pulls: bool = True
    health_events: tuple[HealthEvent, ...] = ()


def machine_capacity() -> dict[str, str]:
    """CPUs and memory of this machine, as a kubelet reports them."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{pages * page_bytes // 1024}Ki",
        "ephemeral-storage": "10Gi",
        "pods": DEFAULT_PODS,
    }


SIMULATED_CAPACITY = {
    "cpu": "32",
    "memory": "256Gi",
    "ephemeral-storage": "100Gi",
    "pods": DEFAULT_PODS,
}
