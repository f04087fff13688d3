"""Opaque configuration of the drivers that are played: what is taken, what is refused and how."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.device_configs import (
    ConfigRefused,
    Sharing,
    complaints,
    compute_domain,
    example_cpu,
    example_gpu,
    example_net,
    nvidia_gpu,
)

EXAMPLE = {"apiVersion": "gpu.resource.example.com/v1alpha1", "kind": "GpuConfig"}
NVIDIA = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}
NET = {"apiVersion": "net.resource.example.com/v1alpha1", "kind": "NetConfig"}
DOMAIN = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainChannelConfig"}


def shared(strategy, **settings):
    return {"sharing": {"strategy": strategy, **settings}}


def test_defaults_of_the_example_driver():
    assert example_gpu({}) == Sharing("TimeSlicing", "Default")
    assert example_gpu(EXAMPLE | shared("SpacePartitioning")) == Sharing(
        "SpacePartitioning", partitions=1
    )


def test_defaults_of_the_nvidia_driver():
    assert nvidia_gpu({}) is None
    assert nvidia_gpu(NVIDIA | shared("TimeSlicing")) == Sharing("TimeSlicing", "Default")
    assert nvidia_gpu(NVIDIA | shared("MPS")) == Sharing("MPS")


def test_limits_of_mps():
    limits = {
        "defaultActiveThreadPercentage": 0,
        "defaultPinnedDeviceMemoryLimit": "10Gi",
        "defaultPerDevicePinnedMemoryLimit": {"1": "512Mi"},
    }
    assert nvidia_gpu(NVIDIA | shared("MPS", mpsConfig=limits)) == Sharing(
        "MPS", thread_percentage=0, memory_mib=10240, memory_by_device={"1": 512}
    )


@pytest.mark.parametrize(
    ("check", "config", "words"),
    [
        (example_gpu, NVIDIA, 'no kind "GpuConfig" is registered for version "resource.nvidia'),
        (example_gpu, EXAMPLE | shared("Turns"), "unknown GPU sharing strategy: Turns"),
        (
            example_gpu,
            EXAMPLE | shared("TimeSlicing", spacePartitioningConfig={}),
            "cannot use SpacePartitioningConfig with the 'TimeSlicing' strategy",
        ),
        (
            example_gpu,
            EXAMPLE | shared("TimeSlicing", timeslicingConfig={}),
            'unknown field "sharing.timeslicingConfig"',
        ),
        (nvidia_gpu, NVIDIA | shared("TimeSlicing", mpsConfig={}), "cannot use MpsConfig"),
        (
            nvidia_gpu,
            NVIDIA | shared("MPS", mpsConfig={"defaultActiveThreadPercentage": -1}),
            "must not be negative",
        ),
        (
            nvidia_gpu,
            NVIDIA | shared("MPS", mpsConfig={"defaultPinnedDeviceMemoryLimit": "much"}),
            "invalid limit: default value",
        ),
        (nvidia_gpu, NVIDIA | {"sharng": {}}, 'strict decoding error: unknown field "sharng"'),
        (nvidia_gpu, NVIDIA | {"sharing": {}}, "unknown GPU sharing strategy: , supported"),
        (
            nvidia_gpu,
            NVIDIA | {"kind": "MigDeviceConfig"} | shared("TimeSlicing", timeSlicingConfig={}),
            'unknown field "sharing.timeSlicingConfig"',
        ),
        (
            example_gpu,
            EXAMPLE | {"sharing": "TimeSlicing"},
            "json: cannot unmarshal string into Go struct field GpuConfig.sharing of type object",
        ),
        (
            example_gpu,
            EXAMPLE | shared("SpacePartitioning", spacePartitioningConfig={"partitionCount": 1.5}),
            "cannot unmarshal number into Go struct field "
            "GpuConfig.sharing.spacePartitioningConfig.partitionCount of type int",
        ),
        (example_gpu, EXAMPLE | {"sharing": {}}, "unknown GPU sharing strategy: "),
        (
            example_gpu,
            EXAMPLE | shared("TimeSlicing", timeSlicingConfig={"interval": "Never"}),
            "unknown time-slice interval: Never",
        ),
        (
            example_gpu,
            EXAMPLE | shared("SpacePartitioning", spacePartitioningConfig={"partitionCount": -1}),
            "invalid partition count: -1",
        ),
        (example_net, NET | {"burst": 1}, 'unknown field "burst"'),
        (compute_domain, NVIDIA, "runtime object is not a recognized configuration"),
        (nvidia_gpu, DOMAIN | {"domainID": "a"}, "runtime object is not a recognized"),
        (compute_domain, DOMAIN | {"kind": "Channel"}, 'no kind "Channel" is registered for'),
        (example_cpu, NET, 'no kind "NetConfig" is registered for version "net.resource'),
        (nvidia_gpu, {"kind": "GpuConfig"}, "Object 'apiVersion' is missing in '{\"kind\": "),
        (nvidia_gpu, NVIDIA | {"kind": ["GpuConfig"]}, "cannot unmarshal array into Go struct"),
        (compute_domain, NVIDIA | {"kind": "ComputeDomainChannelConfig"}, "domainID cannot be"),
        (
            example_net,
            {
                "apiVersion": "net.resource.example.com/v1alpha1",
                "kind": "NetConfig",
                "bwBurst": {"ingressBurst": -1},
            },
            "invalid ingressBurst",
        ),
    ],
)
def test_what_a_driver_refuses(check, config, words):
    with pytest.raises(ConfigRefused) as caught:
        check(config)
    assert words in str(caught.value)


def test_each_wrong_configuration_of_a_claim_is_named():
    def opaque(driver, parameters):
        return {"opaque": {"driver": driver, "parameters": parameters}}

    found = complaints(
        [
            opaque("gpu.example.com", EXAMPLE | shared("Turns")),
            opaque("gpu.somebody.else", {"kind": "Anything"}),
            opaque("gpu.nvidia.com", NVIDIA),
            opaque("compute-domain.nvidia.com", {}),
        ],
        "spec",
    )
    assert [error.path for error in found] == [
        "spec.devices.config[0].opaque.parameters",
        "spec.devices.config[3].opaque.parameters",
    ]
    assert found[0].detail == "object is invalid: unknown GPU sharing strategy: Turns"


KINDS = [
    (example_gpu, EXAMPLE),
    (example_net, NET),
    (nvidia_gpu, NVIDIA),
    (nvidia_gpu, NVIDIA | {"kind": "MigDeviceConfig"}),
    (nvidia_gpu, NVIDIA | {"kind": "VfioDeviceConfig"}),
    (compute_domain, DOMAIN),
]
NAMES = [
    "sharing", "strategy", "timeSlicingConfig", "interval", "spacePartitioningConfig",
    "partitionCount", "mpsConfig", "defaultActiveThreadPercentage",
    "defaultPinnedDeviceMemoryLimit", "defaultPerDevicePinnedMemoryLimit", "multiUser", "bwBurst",
    "ingressBurst", "egressBurst", "domainID", "allocationMode", "iommu", "backendPolicy", "0",
]  # fmt: skip
words = st.sampled_from(["TimeSlicing", "SpacePartitioning", "MPS", "Long", "10Gi", "", "All"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), anything, max_size=3))
def test_whatever_is_given_is_taken_or_refused(kind, settings):
    check, head = kind
    with contextlib.suppress(ConfigRefused):
        check(head | settings)


def test_parameters_without_a_kind_are_refused():
    (error,) = complaints([{"opaque": {"driver": "gpu.nvidia.com", "parameters": {}}}], "spec")
    assert error.detail == "error decoding object: Object 'Kind' is missing in '{}'"
