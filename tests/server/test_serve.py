"""Real sockets: TLS with client certificates, port 0, shutdown; and unmodified kubectls."""

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import yaml

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, NAMESPACES
from kubarium.base.chance import Chance
from kubarium.base.errors import ConfigError
from kubarium.client.http import HttpClient
from kubarium.cluster.clock import RealClock
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import Authenticator
from kubarium.server.http import ApiApplication
from kubarium.server.local import LocalClient
from kubarium.server.pki import Authority
from kubarium.server.policy import bootstrap_policy
from kubarium.server.serve import TlsFiles, serve
from kubarium.server.tokens import ServiceAccountTokens, store_lookup
from kubarium.store import MemoryStore


class LiveServer:
    """An API server on an ephemeral TLS port, in a thread with a loop of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        clock = RealClock()
        self.authority = Authority.open(folder, clock)
        store = MemoryStore()
        tokens = ServiceAccountTokens(
            self.authority.service_account_key(), store_lookup(store), clock, Chance()
        )
        self.server = ApiServer(
            store,
            Catalog.builtin(),
            clock,
            Chance(),
            token_authenticators=[tokens],
            token_issuer=tokens,
        )
        self.server.log_source = self._log
        self.application = ApiApplication(
            self.server, Authenticator([tokens], self.server.authorizer.confirm_access)
        )
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(20)

    async def _log(self, namespace, name, options):
        for number in range(options.tail_lines or 3):
            yield f"line {number} of {name}\n".encode()

    async def _run(self):
        client = LocalClient(self.server, "system:admin")
        for name in ("default", "kube-system"):
            await client.create(NAMESPACES, {"metadata": {"name": name}})
        resources = {"ClusterRole": CLUSTER_ROLES, "ClusterRoleBinding": CLUSTER_ROLE_BINDINGS}
        for document in bootstrap_policy():
            if document["kind"] in resources:
                await client.create(resources[document["kind"]], document)
        pair = self.authority.server()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(
            serve(
                self.application,
                self.server.watches.end_all,
                tls=TlsFiles(pair.certificate_path, pair.key_path, self.authority.ca_path),
                ready=self._listening,
            )
        )
        await asyncio.wait([self._task])

    def _listening(self, port):
        self.port = port
        self._ready.set()

    def stop(self):
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def context(self, user="", groups=()):
        context = ssl.create_default_context(cafile=str(self.authority.ca_path))
        if user:
            pair = self.authority.client(user, groups)
            context.load_cert_chain(pair.certificate_path, pair.key_path)
        return context

    def kubeconfig(self):
        pair = self.authority.client("admin", ["system:masters"])
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.authority.ca_path),
        }
        user = {
            "client-certificate": str(pair.certificate_path),
            "client-key": str(pair.key_path),
        }
        path = self.folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "current-context": "c",
        }
        path.write_text(yaml.safe_dump(document))
        return path


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    server = LiveServer(tmp_path_factory.mktemp("pki"))
    yield server
    server.stop()


async def exchange(port, context, text):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(text.replace("\n", "\r\n").encode())
    await writer.drain()
    data = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return data


def ask(live, path, user="", groups=()):
    """(status, document) of a GET over TLS."""
    text = f"GET {path} HTTP/1.1\nHost: x\nConnection: close\n\n"
    data = asyncio.run(exchange(live.port, live.context(user, groups), text))
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), orjson.loads(body)


def test_client_certificates_say_who_asks(live):
    status, document = ask(live, "/api/v1/namespaces", "alice", ["system:masters"])
    assert status == 200
    assert document["kind"] == "NamespaceList"
    status, document = ask(live, "/api/v1/nodes", "bob")
    assert status == 403
    assert 'User "bob" cannot list resource "nodes"' in document["message"]
    status, document = ask(live, "/api/v1/nodes")
    assert status == 403
    assert 'User "system:anonymous"' in document["message"]
    assert ask(live, "/version")[0] == 200


def node_client(live, pair):
    server, authority = f"https://127.0.0.1:{live.port}", live.authority.ca_path
    files = (pair.certificate_path, pair.key_path)
    return HttpClient.with_certificate(server, authority, *files, user_agent="kubelet")


def test_a_node_agent_shows_its_certificate_and_asks_no_proxy(live, monkeypatch):
    for name in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def main():
        pair = live.authority.client("carol", ["system:masters"])
        async with node_client(live, pair) as client:
            return await client.list(NAMESPACES)

    names = [item["metadata"]["name"] for item in asyncio.run(main()).items]
    assert names == ["default", "kube-system"]


def test_a_certificate_that_cannot_be_used_is_named(live, tmp_path):
    pair = live.authority.client("carol", ["system:masters"])
    place = tmp_path / "odd.crt"
    for text in (None, "no certificate"):
        if text is not None:
            place.write_text(text)
        with pytest.raises(ConfigError, match=r"odd\.crt: the credentials cannot be used"):
            node_client(live, replace(pair, certificate_path=place))


def test_certificates_of_others_are_not_believed(live, tmp_path):
    stranger = Authority.open(tmp_path, RealClock()).client("admin", ["system:masters"])
    context = live.context()
    context.load_cert_chain(stranger.certificate_path, stranger.key_path)
    text = "GET /api/v1/nodes HTTP/1.1\nHost: x\nConnection: close\n\n"
    try:
        answer = asyncio.run(exchange(live.port, context, text))
    except (ssl.SSLError, ConnectionError):
        answer = b""  # the alert arrived before or after our end was closed
    assert answer == b""


def test_stopping_ends_the_watches(tmp_path):
    server = LiveServer(tmp_path)

    async def watch():
        context = server.context("admin", ["system:masters"])
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        writer.write(b"GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        data = await asyncio.wait_for(reader.readuntil(b"kube-system"), 20)
        stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
        rest = await asyncio.wait_for(reader.read(), 20)
        await stopping
        writer.close()
        return data + rest

    begun = time.monotonic()
    data = asyncio.run(watch())
    assert data.endswith(b"0\r\n\r\n")  # the last chunk: an orderly end, not a broken pipe
    assert time.monotonic() - begun < 10


# kubectl


def installed():
    """The newest and the oldest kubectl on the machine."""
    found = shutil.which("kubectl")
    if not found:
        return []
    beside = sorted(Path(found).resolve().parent.glob("kubectl.1.*"))
    return [str(beside[-1]), str(beside[0])] if len(beside) > 1 else [found]


class Kubectl:
    def __init__(self, live, binary, home):
        self.binary = binary
        environment = {"KUBECONFIG": str(live.kubeconfig()), "HOME": str(home)}
        self.environment = os.environ | environment

    def __call__(self, *arguments, stdin="", check=True):
        done = subprocess.run(
            [self.binary, *arguments],
            input=stdin,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
            return done.stdout
        return done.stdout + done.stderr

    def json(self, *arguments):
        return json.loads(self(*arguments, "-o", "json"))


@pytest.fixture(scope="module", params=installed() or [""], ids=lambda p: Path(p).name or "none")
def kubectl(live, request, tmp_path_factory):
    """kubectl, in a namespace of its own for each binary."""
    if not request.param:
        pytest.skip("kubectl is not installed")
    run = Kubectl(live, request.param, tmp_path_factory.mktemp("home"))
    namespace = "t" + Path(request.param).name.replace(".", "-").lower()
    run("create", "namespace", namespace)
    config = ["config", "set-context", "--current", f"--namespace={namespace}"]
    run.environment["KUBECONFIG"] = shutil.copy(
        run.environment["KUBECONFIG"], tmp_path_factory.mktemp("config") / "config"
    )
    run(*config)
    return run


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec: {containers: [{name: c, image: busybox}]}
"""


@pytest.mark.kubectl
def test_kubectl_applies_changes_and_deletes(kubectl):
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web created\n"
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace("replicas: 3", "replicas: 4")
    assert kubectl("apply", "-f", "-", stdin=changed) == "deployment.apps/web configured\n"
    assert kubectl.json("get", "deployment", "web")["spec"]["replicas"] == 4
    kubectl("scale", "deployment/web", "--replicas=2")
    kubectl("label", "deployment/web", "tier=front")
    kubectl("annotate", "deployment/web", "note=x")
    kubectl("patch", "deployment/web", "-p", '{"spec":{"paused":true}}')
    kubectl("set", "image", "deployment/web", "c=nginx:2")
    document = kubectl.json("get", "deployment", "web")
    assert document["spec"]["replicas"] == 2
    assert document["spec"]["paused"] is True
    assert document["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:2"
    assert document["metadata"]["labels"] == {"tier": "front"}
    lines = kubectl("get", "deployments").splitlines()
    assert lines[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert lines[1].split()[:2] == ["web", "0/2"]
    kubectl("delete", "deployment", "web", "--wait=true", "--timeout=20s")
    assert "NotFound" in kubectl("get", "deployment", "web", check=False)


@pytest.mark.kubectl
def test_kubectl_applies_on_the_server_and_reports_conflicts(kubectl):
    kubectl("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=DEPLOYMENT)
    changed = DEPLOYMENT.replace("replicas: 3", "replicas: 5")
    command = ["apply", "--server-side", "--field-manager=two", "-f", "-"]
    refused = kubectl(*command, stdin=changed, check=False)
    assert 'conflict with "one"' in refused
    assert ".spec.replicas" in refused
    kubectl(*command, "--force-conflicts", stdin=changed)
    assert kubectl.json("get", "deployment", "web")["spec"]["replicas"] == 5
    kubectl("delete", "deployment", "web", "--wait=false", "--cascade=background")


@pytest.mark.kubectl
def test_kubectl_creates_what_it_builds_itself(kubectl):
    """Typed commands: since 1.32 their bodies are protobuf."""
    kubectl("create", "configmap", "settings", "--from-literal=color=red")
    assert kubectl.json("get", "configmap", "settings")["data"] == {"color": "red"}
    kubectl("create", "deployment", "made", "--image=nginx", "--replicas=2")
    assert kubectl.json("get", "deployment", "made")["spec"]["replicas"] == 2
    kubectl("create", "job", "once", "--image=busybox", "--", "sleep", "1")
    job = kubectl.json("get", "job", "once")
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["sleep", "1"]
    kubectl("create", "secret", "generic", "hidden", "--from-literal=a=b")
    assert kubectl.json("get", "secret", "hidden")["data"] == {"a": "Yg=="}
    kubectl("create", "serviceaccount", "bot")
    token = kubectl("create", "token", "bot").strip()
    assert token.count(".") == 2
    kubectl("expose", "deployment", "made", "--port=80")
    assert kubectl.json("get", "service", "made")["spec"]["clusterIP"].startswith("127.96.")
    dry = kubectl("create", "configmap", "dry", "--dry-run=server", "-o", "name")
    assert dry == "configmap/dry\n"
    assert "NotFound" in kubectl("get", "configmap", "dry", check=False)


@pytest.mark.kubectl
def test_kubectl_runs_waits_describes_and_reads_logs(kubectl):
    kubectl("apply", "-f", "-", stdin=POD)
    assert "Pending" in kubectl("get", "pods")
    assert "Status:" in kubectl("describe", "pod", "p")
    assert kubectl("logs", "p", "--tail=2") == "", "it has no node yet"
    node = '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}}'
    kubectl("apply", "-f", "-", stdin=node)
    binding = '{"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "node-0"}}'
    namespace = kubectl.json("get", "pod", "p")["metadata"]["namespace"]
    path = f"/api/v1/namespaces/{namespace}/pods/p/binding"
    kubectl("create", "--raw", path, "-f", "-", stdin=binding)
    assert kubectl("logs", "p", "--tail=2") == "line 0 of p\nline 1 of p\n"
    kubectl(
        "patch",
        "pod",
        "p",
        "--subresource=status",
        "-p",
        '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}',
    )
    assert "condition met" in kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=10s")
    kubectl("delete", "pod", "p", "--grace-period=0", "--force")
    assert "NotFound" in kubectl("get", "pod", "p", check=False)


@pytest.mark.kubectl
def test_kubectl_finds_its_way(kubectl):
    resources = kubectl("api-resources")
    assert "deployments" in resources
    assert "resourceclaims" in resources
    assert "apps/v1" in kubectl("api-versions")
    assert "List of containers" in kubectl("explain", "pod.spec.containers")
    assert kubectl("auth", "can-i", "delete", "nodes").strip() == "yes"
    assert "no" in kubectl("auth", "can-i", "get", "pods", "--as=bob", check=False)
    assert "ok" in kubectl("get", "--raw", "/readyz")
    nothing = "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}\n"
    assert 'no matches for kind "Nothing"' in kubectl(
        "apply", "-f", "-", stdin=nothing, check=False
    )


@pytest.mark.kubectl
def test_kubectl_names_the_wrong_field(kubectl):
    typo = POD.replace("image:", "imgae:")
    answer = kubectl("apply", "-f", "-", stdin=typo, check=False)
    assert 'unknown field "spec.containers[0].imgae"' in answer
    wrong = POD.replace("name: p,", "name: P_P,")
    assert "metadata.name: Invalid value" in kubectl("apply", "-f", "-", stdin=wrong, check=False)


@pytest.mark.kubectl
def test_kubectl_watches(kubectl):
    watching = subprocess.Popen(
        [kubectl.binary, "get", "configmaps", "-w", "--no-headers"],
        env=kubectl.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        kubectl("create", "configmap", "seen", "--from-literal=a=b")
        for line in watching.stdout:
            if line.startswith("seen"):
                break
        else:
            raise AssertionError("the watch ended without showing the new object")
    finally:
        watching.terminate()
        watching.wait(10)
        watching.stdout.close()
