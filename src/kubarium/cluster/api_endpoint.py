"""Where the API server is, as its own service's Endpoints and EndpointSlice.

As kube-apiserver writes them: the ``kubernetes`` service in ``default`` has no selector, its
endpoints are kept by the server itself, and are not mirrored from one to the other.
"""

from __future__ import annotations

from kubarium.api.kinds import ENDPOINT_SLICES, ENDPOINTS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Client

NAMESPACE, NAME = "default", "kubernetes"


def documents(host: str, port: int) -> list[Document]:
    """Endpoints and EndpointSlice for a server that listens there."""
    skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    served = {"name": "https", "port": port, "protocol": "TCP"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": skip},
            "subsets": [{"addresses": [{"ip": host}], "ports": [served]}],
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "addressType": "IPv6" if ":" in host else "IPv4",
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
            "ports": [served],
        },
    ]


async def publish(client: Client, host: str, port: int) -> None:
    """Make both say so: at every start, for the port may be another one."""
    resources = {"Endpoints": ENDPOINTS, "EndpointSlice": ENDPOINT_SLICES}
    for wanted in documents(host, port):
        resource = resources[wanted["kind"]]
        try:
            await client.create(resource, wanted, NAMESPACE)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await client.get(resource, NAME, NAMESPACE)
            changed = {**found, **{k: v for k, v in wanted.items() if k != "metadata"}}
            if changed != found:
                await client.update(resource, changed, NAMESPACE)
