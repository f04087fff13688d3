"""How servers beside the API server learn whom to believe: ``extension-apiserver-authentication``.

Whatever serves on its own and asks this API who its callers are (schedulers and controllers with a
secure port, metrics adapters, webhooks made with the upstream libraries) reads this ConfigMap at
its start. Its form is that of kube-apiserver's cluster authentication trust controller.
"""

from __future__ import annotations

import json

from kubarium.api.kinds import CONFIG_MAPS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Client
from kubarium.server.pki import Authority

NAMESPACE, NAME = "kube-system", "extension-apiserver-authentication"
ROLE = f"{NAME}-reader"
FRONT_PROXY = "front-proxy-client"

_API = "rbac.authorization.k8s.io"
_READERS = ("system:kube-controller-manager", "system:kube-scheduler")


def policy() -> list[Document]:
    """The role that reads it, and its binding for upstream's components."""
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": [NAME],
        "verbs": ["get", "list", "watch"],
    }
    marks = {
        "namespace": NAMESPACE,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }
    users = [{"apiGroup": _API, "kind": "User", "name": name} for name in _READERS]
    return [
        {
            "apiVersion": f"{_API}/v1",
            "kind": "Role",
            "metadata": {"name": ROLE, **marks},
            "rules": [rule],
        },
        {
            "apiVersion": f"{_API}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"system::{ROLE}", **marks},
            "roleRef": {"apiGroup": _API, "kind": "Role", "name": ROLE},
            "subjects": users,
        },
    ]


def config_map(authority: Authority) -> Document:
    """Who signs clients' certificates, and from whom headers that name a user are taken."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {
            "client-ca-file": authority.ca_pem.decode(),
            "requestheader-allowed-names": json.dumps([FRONT_PROXY]),
            "requestheader-client-ca-file": authority.front_proxy_ca().decode(),
            "requestheader-extra-headers-prefix": json.dumps(["X-Remote-Extra-"]),
            "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
            "requestheader-username-headers": json.dumps(["X-Remote-User"]),
        },
    }


async def publish(client: Client, authority: Authority) -> None:
    """Make the object say so: at every start, for the authority may have a new certificate."""
    wanted = config_map(authority)
    try:
        await client.create(CONFIG_MAPS, wanted, NAMESPACE)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        found = await client.get(CONFIG_MAPS, NAME, NAMESPACE)
        if found.get("data") != wanted["data"]:
            await client.update(CONFIG_MAPS, {**found, "data": wanted["data"]}, NAMESPACE)
