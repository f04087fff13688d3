"""Opaque configuration of the drivers that are played: what is taken, what is refused and how."""

from __future__ import annotations

import pytest

from kubarium.api.device_configs import (
    ConfigRefused,
    Sharing,
    complaints,
    compute_domain,
    example_gpu,
    example_net,
    nvidia_gpu,
)

EXAMPLE = {"apiVersion": "gpu.resource.example.com/v1alpha1", "kind": "GpuConfig"}
NVIDIA = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}


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
        (compute_domain, NVIDIA, 'no kind "GpuConfig"'),
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
