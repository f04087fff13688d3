"""How to reach a cluster that is being served: address, authority, administrator's kubeconfig."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubarium.cluster import kubeconfig
from kubarium.server.pki import Authority

ADMINISTRATOR = "kubernetes-admin"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class Access:
    """A listening API server."""

    host: str
    port: int
    authority: Authority

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def ca_pem(self) -> bytes:
        return self.authority.ca_pem

    def kubeconfig(
        self, context: str, user_name: str = ADMINISTRATOR, groups: Sequence[str] = (MASTERS,)
    ) -> dict[str, Any]:
        """A kubeconfig with a client certificate, an administrator's unless another is named."""
        pair = self.authority.client(user_name, groups)
        user = {
            "client-certificate-data": b64encode(pair.certificate_pem).decode(),
            "client-key-data": b64encode(pair.key_pem).decode(),
        }
        return kubeconfig.entry(context, self.url, b64encode(self.ca_pem).decode(), user)
