"""The everyday verbs of every kubectl that is installed, each against the same cluster."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import kubectls

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not kubectls(), reason="kubectl is not installed"),
]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: c
          image: busybox
          command: ["sh", "-c", "echo started; exec sleep 600"]
"""


class Kubectl:
    """One binary, in a namespace of its own."""

    def __init__(self, cluster, binary: str) -> None:
        self.cluster = cluster
        self.binary = binary
        version = subprocess.run(
            [binary, "version", "--client", "-o", "json"], capture_output=True, text=True
        )
        known = json.loads(version.stdout)["clientVersion"]
        self.minor = int(known["minor"].rstrip("+"))
        self.namespace = f"minor-{self.minor}-{'path' if binary == kubectls()[0] else 'beside'}"

    def __call__(self, *arguments: str, ok: bool = True, stdin: str = "") -> str:
        done = subprocess.run(
            [self.binary, "-n", self.namespace, *arguments],
            env=self.cluster.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, f"{arguments}: {done.returncode}: {said}"
        assert "Traceback" not in said
        assert "Unhandled Error" not in said
        return said


@pytest.fixture(params=kubectls() or [""], ids=lambda path: Path(path).name)
def kubectl(request, module_cluster):
    binary = Kubectl(module_cluster, request.param)
    binary("create", "namespace", binary.namespace)
    yield binary
    binary("delete", "namespace", binary.namespace, "--wait=false")


def test_everyday_verbs(kubectl, tmp_path):
    manifest = tmp_path / "web.yaml"
    manifest.write_text(DEPLOYMENT)
    path = str(manifest)

    # create, apply, diff
    said = kubectl("create", "-f", path, "--dry-run=server", "-o", "yaml")
    assert "progressDeadlineSeconds: 600" in said
    assert "web created" in kubectl("apply", "-f", path)
    assert "web unchanged" in kubectl("apply", "-f", path)
    assert kubectl("diff", "-f", path) == ""
    manifest.write_text(DEPLOYMENT.replace("replicas: 1", "replicas: 2"))
    changed = kubectl("diff", "-f", path, ok=False)
    assert "+  replicas: 2" in changed
    assert "web configured" in kubectl("apply", "-f", path)
    assert "serverside-applied" in kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", path
    )
    others = DEPLOYMENT.replace("replicas: 1", "replicas: 3")
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    said = kubectl(*other, ok=False, stdin=others)
    assert "conflict" in said
    assert ".spec.replicas" in said

    # rollout, scale, wait
    assert "successfully rolled out" in kubectl("rollout", "status", "deploy/web", "--timeout=40s")
    assert "scaled" in kubectl("scale", "deploy/web", "--replicas=1")
    assert "condition met" in kubectl(
        "wait", "deploy/web", "--for=condition=Available", "--timeout=30s"
    )
    assert "restarted" in kubectl("rollout", "restart", "deploy/web")
    kubectl("rollout", "status", "deploy/web", "--timeout=40s")
    assert "REVISION" in kubectl("rollout", "history", "deploy/web")

    # reading
    table = kubectl("get", "deploy", "-o", "wide")
    assert "UP-TO-DATE" in table
    assert "SELECTOR" in table
    pods = kubectl("get", "pods", "-o", "wide", "--show-labels")
    assert "NOMINATED NODE" in pods
    assert "app=web" in pods
    assert kubectl("get", "deploy/web", "-o", "jsonpath={.spec.replicas}") == "1"
    assert "web" in kubectl("get", "deploy", "-l", "app in (web)", "-o", "name")
    assert "No resources found" in kubectl("get", "pods", "--field-selector=status.phase=Failed")
    assert json.loads(kubectl("get", "--raw", "/version"))["major"] == "1"
    described = kubectl("describe", "deploy/web")
    assert "ScalingReplicaSet" in described
    assert "Scheduled" in kubectl("describe", "pods", "-l", "app=web")
    assert "Allocatable" in kubectl("describe", "nodes")
    assert "started" in kubectl("logs", "-l", "app=web")
    assert "started" in kubectl("logs", "deploy/web", "--tail=1", "--timestamps")
    assert "Scheduled" in kubectl("get", "events", "--sort-by=.metadata.creationTimestamp")

    # changing
    assert "labeled" in kubectl("label", "deploy/web", "tier=front")
    assert "annotate" in kubectl("annotate", "deploy/web", "note=x")
    for kind, patch in (
        ("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"c","tty":false}]}}}}'),
        ("merge", '{"metadata":{"labels":{"tier":null}}}'),
        ("json", '[{"op":"remove","path":"/metadata/annotations/note"}]'),
    ):
        assert "web patched" in kubectl("patch", "deploy/web", "--type", kind, "-p", patch)
    assert "env updated" in kubectl("set", "env", "deploy/web", "A=b")
    kubectl("rollout", "status", "deploy/web", "--timeout=40s")
    # Without the version that was read, as kubectl edit would retry: its controller writes as well.
    edited = json.loads(kubectl("get", "deploy/web", "-o", "json"))
    edited["spec"]["replicas"] = 0
    del edited["metadata"]["resourceVersion"]
    assert "web replaced" in kubectl("replace", "-f", "-", stdin=json.dumps(edited))
    assert "created" in kubectl("create", "configmap", "c", "--from-literal=a=b")
    assert "created" in kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    assert "created" in kubectl("create", "job", "j", "--image=busybox", "--", "echo", "hi")
    assert "condition met" in kubectl("wait", "job/j", "--for=condition=Complete", "--timeout=30s")
    assert "hi" in kubectl("logs", "-f", "job/j")

    # deleting
    assert "deleted" in kubectl("delete", "-f", path, "--timeout=30s")
    assert "deleted" in kubectl("delete", "job,cm,secret", "--all", "--timeout=30s")
    kubectl("wait", "pods", "--all", "--for=delete", "--timeout=30s")


def test_discovery_explain_and_access(kubectl):
    resources = kubectl("api-resources")
    for name in ("deployments", "resourceclaims", "clusterqueues", "jobsets", "podgroups"):
        assert name in resources
    assert "apps/v1" in kubectl("api-versions")
    explained = kubectl("explain", "pod.spec.containers.resources")
    assert "claims" in explained
    assert "DESCRIPTION" in explained
    assert "nominalQuota" in kubectl("explain", "clusterqueue.spec", "--recursive")
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    denied = kubectl("auth", "can-i", "create", "pods", "--as=someone", ok=False)
    assert denied.startswith("no")
    assert "Server Version" in kubectl("version")
    assert "is running at" in kubectl("cluster-info")


def test_errors(kubectl):
    assert '(NotFound): pods "nope" not found' in kubectl("get", "pod", "nope", ok=False)
    assert "the server doesn't have a resource type" in kubectl("get", "things", ok=False)
    assert "Forbidden" in kubectl("get", "pods", "--as=someone", ok=False)
    said = kubectl("create", "deployment", "A_b", "--image=x", ok=False)
    assert 'Invalid value: "A_b"' in said
    kubectl("create", "configmap", "twice")
    assert "already exists" in kubectl("create", "configmap", "twice", ok=False)
    unknown = DEPLOYMENT.replace("replicas: 1", "replicaz: 1")
    assert 'unknown field "spec.replicaz"' in kubectl("apply", "-f", "-", stdin=unknown, ok=False)
    wrong = DEPLOYMENT.replace("replicas: 1", "replicas: one")
    assert "spec.replicas" in kubectl("apply", "-f", "-", stdin=wrong, ok=False)


def test_a_watch_shows_changes_as_they_come(kubectl):
    watching = subprocess.Popen(
        [kubectl.binary, "-n", kubectl.namespace, "get", "cm", "-w", "--output-watch-events"],
        env=kubectl.cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "EVENT" in watching.stdout.readline()
        kubectl("create", "configmap", "seen", "--from-literal=a=b")
        lines = [watching.stdout.readline() for _ in range(2)]
        assert any("ADDED" in line and "seen" in line for line in lines), lines
        kubectl("delete", "configmap", "seen")
        assert "DELETED" in watching.stdout.readline()
    finally:
        watching.kill()
        watching.wait()
        watching.stdout.close()


STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: c, image: busybox}]
"""


def test_deleting_a_pod_of_a_stateful_set_does_not_wait_for_its_replacement(start_cluster):
    """Simulated pods end within milliseconds: kubectl reads the old one and lists only the new."""
    cluster = start_cluster("--simulated", "--nodes", "1", "--in-memory")
    manifest = cluster.home / "db.yaml"
    manifest.write_text(STATEFUL_SET)
    cluster.kubectl("apply", "-f", str(manifest))
    uids = []
    for _ in range(8):
        cluster.wait_until(lambda: "db-0" in cluster.kubectl("get", "pods", "-o", "name"))
        cluster.kubectl("wait", "--for=condition=Ready", "pod/db-0", "--timeout=30s")
        uids.append(cluster.get("pod", "db-0")["metadata"]["uid"])
        cluster.kubectl("delete", "pod", "db-0", "--wait", "--timeout=20s")
    assert len(dict.fromkeys(uids)) == 8
