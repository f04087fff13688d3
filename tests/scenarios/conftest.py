"""A cluster that a whole module shares, and a client that can send what no decent client would."""

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.conftest import RunningCluster

JSON = "application/json"


@dataclass
class Said:
    """An answer of the API server."""

    code: int
    body: Any
    warnings: list[str] = field(default_factory=list)

    @property
    def reason(self) -> str:
        return self.body.get("reason", "") if isinstance(self.body, dict) else ""

    @property
    def message(self) -> str:
        return self.body.get("message", "") if isinstance(self.body, dict) else str(self.body)


class RawClient:
    """One request a connection, bytes as given, with the administrator's certificate."""

    def __init__(self, kubeconfig: Path) -> None:
        document = yaml.safe_load(kubeconfig.read_text())
        cluster, user = document["clusters"][-1]["cluster"], document["users"][-1]["user"]
        self._address = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        for name in ("client-certificate", "client-key"):
            path = kubeconfig.parent / f"raw-{name}.pem"
            path.write_bytes(base64.b64decode(user[f"{name}-data"]))
        self._tls.load_cert_chain(
            kubeconfig.parent / "raw-client-certificate.pem",
            kubeconfig.parent / "raw-client-key.pem",
        )

    @property
    def address(self) -> tuple[str, int]:
        assert self._address.hostname
        assert self._address.port
        return self._address.hostname, self._address.port

    def connect(self) -> ssl.SSLSocket:
        """A connection to write bytes to."""
        plain = socket.create_connection(self.address, 10)
        return self._tls.wrap_socket(plain, server_hostname=self.address[0])

    def __call__(
        self, method: str, path: str, body: Any = None, content_type: str = JSON, **headers: str
    ) -> Said:
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        sent = {"Accept": JSON} | headers
        if body is not None:
            sent["Content-Type"] = content_type
        connection = http.client.HTTPSConnection(*self.address, context=self._tls, timeout=20)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        warnings = response.headers.get_all("Warning") or []
        try:
            return Said(response.status, json.loads(content), warnings)
        except ValueError:
            return Said(response.status, content.decode(errors="replace"), warnings)


def server_log(cluster: RunningCluster) -> str:
    # Not below that: folders of pods come and go while one looks.
    return "\n".join(path.read_text() for path in cluster.home.glob("clusters/*/server.log"))


@contextmanager
def cluster_of(home: Path, text: str) -> Iterator[RunningCluster]:
    """A cluster as the cluster file ``text`` says, which is written to ``home``."""
    described = home / "cluster.yaml"
    described.write_text(text)
    cluster = RunningCluster(home, "-f", str(described))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory):
    """One cluster for all tests of a module; its log must not hold a traceback at the end."""
    described = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
    - name: node
      count: 2
      devices: [{profile: gpu.example.com, count: 2}]
"""
    with cluster_of(tmp_path_factory.mktemp("cluster"), described) as cluster:
        yield cluster
        log = server_log(cluster)
    assert "Traceback" not in log, log[-4000:]


@pytest.fixture(scope="module")
def api(module_cluster) -> RawClient:
    return RawClient(module_cluster.kubeconfig)
