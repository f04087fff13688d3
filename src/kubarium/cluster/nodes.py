"""Node pools of a cluster file as the node agents take them."""

from __future__ import annotations

from pathlib import Path

from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.cluster.network import Choice
from kubarium.node.config import PROCESS, DeviceConfig, ImageConfig, NodeConfig, NodeSpec


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
        configs.append(
            NodeConfig(
                nodes=tuple(specs),
                runtime=runtime,
                root=str(root) if root and runtime == PROCESS else "",
                images=_images(file),
                api_host=api_host,
                api_port=api_port,
                api_ca=api_ca,
                network=network.plan if network and runtime == PROCESS else None,
                no_network=network.why if network else "",
                pods_survive=pods_survive and runtime == PROCESS,
            )
        )
    return configs


def _specs_of(pool: NodePool) -> list[NodeSpec]:
    devices = tuple(
        DeviceConfig(
            profile=item["profile"],
            count=item.get("count", 1),
            driver=item.get("driver", ""),
            model=item.get("model", ""),
            name=item.get("name", ""),
            attributes=item.get("attributes", {}),
            capacity=item.get("capacity", {}),
            device_class=item.get("deviceClass", ""),
            partitions=item.get("partitions", 0),
            mig=item.get("mig", False),
            allow_multiple=item.get("allowMultiple", False),
            binding_conditions=item.get("bindingConditions", False),
            extended_resource=item.get("extendedResourceName", ""),
            cpus=item.get("cpus", 4),
        )
        for item in pool.devices
    )
    return [
        NodeSpec(
            name=name,
            capacity=pool.capacity,
            labels=pool.labels_of(index),
            taints=tuple(pool.taints),
            devices=devices,
        )
        for index, name in enumerate(pool.node_names())
    ]


def _images(file: ClusterFile) -> tuple[ImageConfig, ...]:
    return tuple(
        ImageConfig(
            name=name,
            entrypoint=tuple(image.get("entrypoint", ())),
            cmd=tuple(image.get("cmd", ())),
            env=image.get("env", {}),
            path=tuple(image.get("path", ())),
            working_dir=image.get("workingDir", ""),
            uid=image.get("uid"),
        )
        for name, image in file.images.items()
    )
