"""What every namespace gets: the ServiceAccount ``default`` and the cluster's CA certificate."""

from __future__ import annotations

from kubarium.api.kinds import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key

DEFAULT_ACCOUNT = "default"
ROOT_CA = "kube-root-ca.crt"
_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal "
    "endpoints such as the internal service IP or kubernetes.default.svc. No other usage is "
    "guaranteed across distributions of Kubernetes clusters."
)


class NamespaceDefaults(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context, root_ca: str = "") -> None:
        """``root_ca``: the CA certificate in PEM; without it no ConfigMap is published."""
        self._context = context
        self._root_ca = root_ca
        self.controller = Controller("serviceaccount-controller", context, self._reconcile)
        self._namespaces = self.controller.watches(NAMESPACES, _as_key)
        self._accounts = self.controller.watches(SERVICE_ACCOUNTS, _namespace_if_default)
        self._config_maps = self.controller.watches(CONFIG_MAPS, _namespace_if_ca)

    async def _reconcile(self, key: Key) -> float | None:
        name = key[1]
        namespace = self._namespaces.get(name)
        if namespace is None or writes.is_terminating(namespace):
            return None
        if self._accounts.get(DEFAULT_ACCOUNT, name) is None:
            account = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": DEFAULT_ACCOUNT, "namespace": name},
            }
            await self._create(SERVICE_ACCOUNTS, account)
        if self._root_ca:
            await self._publish(name)
        return None

    async def _publish(self, namespace: str) -> None:
        data = {"ca.crt": self._root_ca}
        held = self._config_maps.get(ROOT_CA, namespace)
        if held is None:
            document = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": ROOT_CA,
                    "namespace": namespace,
                    "annotations": {"kubernetes.io/description": _DESCRIPTION},
                },
                "data": data,
            }
            await self._create(CONFIG_MAPS, document)
        elif held.get("data") != data:
            await writes.update(self._context, CONFIG_MAPS, {**held, "data": data})

    async def _create(self, resource: Resource, document: Document) -> None:
        namespace = document["metadata"]["namespace"]
        try:
            await writes.create(self._context, resource, document, namespace)
        except ApiError as error:
            # Gone or going meanwhile, or made by another hand.
            if error.reason not in ("AlreadyExists", "NotFound", "Forbidden"):
                raise


def _as_key(namespace: Document) -> list[Key]:
    return [("", namespace["metadata"]["name"])]


def _namespace_if_default(account: Document) -> list[Key]:
    metadata = account["metadata"]
    return [("", metadata["namespace"])] if metadata["name"] == DEFAULT_ACCOUNT else []


def _namespace_if_ca(config_map: Document) -> list[Key]:
    metadata = config_map["metadata"]
    return [("", metadata["namespace"])] if metadata["name"] == ROOT_CA else []
