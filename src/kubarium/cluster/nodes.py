"""Node pools of a cluster file as the node agents take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubarium.api.compute_domains import DRIVER, GPU_CLIQUE_LABEL
from kubarium.cluster.devices import device_configs, nvlink_nodes
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.cluster.network import Choice
from kubarium.node.config import PROCESS, ImageConfig, NodeConfig, NodeSpec
from kubarium.node.drivers.typed import stable_uuid
from kubarium.node.images import builtin_images
from kubarium.node.kubelet_config import read_kubelet_config
from kubarium.node.shutdown import LATE_S


def node_configs(
    file: ClusterFile,
    root: Path | None,
    api_host: str,
    api_port: int,
    api_ca: str,
    network: Choice | None = None,
    pods_survive: bool = False,
) -> list[NodeConfig]:
    """One agent for each runtime that the pools name. ``root`` holds pods' files (process only)."""
    configs = []
    for runtime in dict.fromkeys(pool.runtime for pool in file.pools):
        specs = [spec for pool in file.pools if pool.runtime == runtime for spec in _specs_of(pool)]
        names = {spec.name for spec in specs}
        configs.append(
            NodeConfig(
                nodes=tuple(specs),
                runtime=runtime,
                root=str(root) if root and runtime == PROCESS else "",
                images=_images(file),
                health_events=tuple(e for e in file.health_events if e.node in names),
                api_host=api_host,
                api_port=api_port,
                api_ca=api_ca,
                network=network.plan if network and runtime == PROCESS else None,
                no_network=network.why if network else "",
                pods_survive=pods_survive and runtime == PROCESS,
            )
        )
    return configs


def shutdown_s(file: ClusterFile) -> float:
    """How long all nodes need at most to shut down as they are configured to; 0 if none is."""
    totals = [0.0]
    for pool in file.pools:
        groups = read_kubelet_config(pool.kubelet).shutdown
        totals.append(sum(group.period_s + LATE_S for group in groups))
    return max(totals)


def has_fabric(pools: list[NodePool]) -> bool:
    """Whether any GPUs are joined by NVLink across nodes, so that ComputeDomains make sense."""
    return any(nvlink_nodes(item) for pool in pools for item in pool.devices)


def _specs_of(pool: NodePool) -> list[NodeSpec]:
    devices = device_configs(pool.devices)
    return [
        NodeSpec(
            name=name,
            capacity=pool.capacity,
            labels=_cliques(pool, index) | pool.labels_of(index),
            taints=tuple(pool.taints),
            devices=devices,
            kubelet=read_kubelet_config(pool.kubelet),
        )
        for index, name in enumerate(pool.node_names())
    ]


def _cliques(pool: NodePool, index: int) -> dict[str, str]:
    """The NVLink partition of a node: neighbours of the pool share one, as in a rack."""
    size = next((size for item in pool.devices if (size := nvlink_nodes(item))), 0)
    if not size:
        return {}
    fabric = stable_uuid(pool.name, DRIVER, index // size)
    return {GPU_CLIQUE_LABEL: f"{fabric}.0"}


def _images(file: ClusterFile) -> tuple[ImageConfig, ...]:
    known = {entry.name: entry for entry in builtin_images()}
    return tuple(
        _image(known.get(image.get("like", ""), ImageConfig("")), name, image)
        for name, image in file.images.items()
    )


def _image(base: ImageConfig, name: str, given: Mapping[str, Any]) -> ImageConfig:
    """As ``base``, but for what is given; of variables, each by itself."""
    # As with a real image, another entrypoint has another cmd.
    cmd = () if "entrypoint" in given else base.cmd
    return replace(
        base,
        name=name,
        entrypoint=tuple(given.get("entrypoint", base.entrypoint)),
        cmd=tuple(given.get("cmd", cmd)),
        env={**base.env, **given.get("env", {})},
        path=tuple(given.get("path", base.path)),
        working_dir=given.get("workingDir", base.working_dir),
        uid=given.get("uid", base.uid),
    )
