"""The scheduler's configuration as an object of the cluster, for those who ask why a pod waits."""

from __future__ import annotations

from kubarium.api.kinds import CONFIG_MAPS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Client
from kubarium.view.profiles import CONFIG_NAME, CONFIG_NAMESPACE, config_map
from kubarium.view.scheduling import SchedulerConfig

_API = "rbac.authorization.k8s.io"
_READER = "kubarium:scheduler-config-reader"


def policy() -> list[Document]:
    """Whoever may use the cluster may know by which rules pods are placed."""
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [CONFIG_NAME],
        "verbs": ["get"],
    }
    metadata = {"name": _READER, "namespace": CONFIG_NAMESPACE}
    everybody = {"apiGroup": _API, "kind": "Group", "name": "system:authenticated"}
    return [
        {"apiVersion": f"{_API}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{_API}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _API, "kind": "Role", "name": _READER},
            "subjects": [everybody],
        },
    ]


async def publish(client: Client, config: SchedulerConfig) -> None:
    """Make the object say what the scheduler does: at every start, for the file may be another."""
    wanted = config_map(config)
    try:
        found = await client.get(CONFIG_MAPS, CONFIG_NAME, CONFIG_NAMESPACE)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        if wanted is not None:
            await client.create(CONFIG_MAPS, wanted, CONFIG_NAMESPACE)
        return
    if wanted is None:
        await client.delete(CONFIG_MAPS, CONFIG_NAME, CONFIG_NAMESPACE)
    elif found.get("data") != wanted["data"]:
        await client.update(CONFIG_MAPS, {**found, "data": wanted["data"]}, CONFIG_NAMESPACE)
