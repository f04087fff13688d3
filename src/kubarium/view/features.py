"""Which declared features of a node a pod needs, read off its spec (KEP-5328).

Source: component-helpers ``nodedeclaredfeatures/features``: of its features those that speak of
scheduling and whose fields the API of 1.37 has. Others are about updates of running pods only
(resizes), or need fields that came later.
"""

from __future__ import annotations

from kubarium.api.resource import Document

RESTART_ALL = "RestartAllContainersOnContainerExits"
HOST_NETWORK_USERS = "UserNamespacesHostNetworkSupport"
BIND_MOUNT_OPTIONS = "VolumeBindMountOptions"


def needed_features(spec: Document) -> tuple[str, ...]:
    """The names of the features, sorted; mostly none."""
    found = []
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    if any(
        rule.get("action") == "RestartAllContainers"
        for container in containers
        for rule in container.get("restartPolicyRules") or ()
    ):
        found.append(RESTART_ALL)
    if spec.get("hostNetwork") and spec.get("hostUsers") is False:
        found.append(HOST_NETWORK_USERS)
    if any(
        mount.get("bindMountOptions")
        for container in containers
        for mount in container.get("volumeMounts") or ()
    ):
        found.append(BIND_MOUNT_OPTIONS)
    return tuple(found)
