"""Names that the two halves of NVIDIA's ComputeDomain support share: its controller and its driver.

Source: kubernetes-sigs/dra-driver-nvidia-gpu ``cmd/compute-domain-controller`` and
``cmd/compute-domain-kubelet-plugin``.
"""

from __future__ import annotations

DRIVER = "compute-domain.nvidia.com"
API_VERSION = "resource.nvidia.com/v1beta1"

# On Nodes, ResourceClaimTemplates and cliques: the uid of the domain. Also the finalizer.
DOMAIN_LABEL = "resource.nvidia.com/computeDomain"
TARGET_LABEL = "resource.nvidia.com/computeDomainTarget"
CLIQUE_LABEL = "resource.nvidia.com/computeDomain.cliqueID"
# On Nodes: the NVLink partition that their GPUs are in.
GPU_CLIQUE_LABEL = "nvidia.com/gpu.clique"

CHANNEL_CLASS = "compute-domain-default-channel.nvidia.com"
DAEMON_CLASS = "compute-domain-daemon.nvidia.com"
CHANNEL_CONFIG = "ComputeDomainChannelConfig"

# Where the driver is installed and its cliques live.
NAMESPACE = "dra-driver-nvidia-gpu"

READY, NOT_READY = "Ready", "NotReady"


def clique_name(domain_uid: str, clique: str) -> str:
    """The name of the ComputeDomainClique of a domain in one NVLink partition."""
    return f"{domain_uid}.{clique}"
