"""Pods that ask for what is not there or take what is not theirs: contained, reported on the pod,
the node stays Ready, its other pods go on, and nothing is left of them."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import RawClient, cluster_of, server_log
from tests.scenarios.test_crash import (
    MARKER,
    PODS,
    marked_in_shell,
    marked_processes,
    running,
    status,
    until,
)

pytestmark = pytest.mark.timeout(240)
MERGE = "application/strategic-merge-patch+json"
FILE = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: node
    kubelet: {podPidsLimit: 200}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with cluster_of(tmp_path_factory.mktemp("hostile"), FILE) as started:
        yield started


@pytest.fixture
def api(cluster):
    return RawClient(cluster.kubeconfig)


def pod(name, script="", limits=None, volumes=(), **fields):
    container = {"name": "c", "image": "busybox"}
    if script:
        container["command"] = ["sh", "-c", f"{script} # {MARKER}"]
    if limits:
        container["resources"] = {"limits": limits}
    container |= fields.pop("container", {})
    if volumes:
        container["volumeMounts"] = [{"name": v["name"], "mountPath": "/data"} for v in volumes]
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "volumes": list(volumes),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec | fields}


def hostile_shells():
    return [p for p in marked_in_shell() if not p.cmdline()[-1].startswith("sleep 1000")]


@pytest.fixture
def run(api):
    """Create pods; at the end they are deleted, and nothing of theirs runs."""
    names = []

    def create(document):
        assert api("POST", PODS, document).code == 201
        names.append(document["metadata"]["name"])
        return document["metadata"]["name"]

    yield create
    for name in names:
        api("DELETE", f"{PODS}/{name}")
    until(lambda: all(api("GET", f"{PODS}/{name}").code == 404 for name in names), "deleted")
    until(lambda: not [*marked_processes(), *hostile_shells()], "its processes have ended")


@pytest.fixture(autouse=True)
def node_stays_well(cluster):
    """Ready all the time, without a traceback; a pod beside the bad one goes on."""
    api = RawClient(cluster.kubeconfig)
    assert api("POST", PODS, pod("witness", "sleep 1000")).code == 201
    until(lambda: running(api, "witness"), "the witness runs")
    yield
    api = RawClient(cluster.kubeconfig)
    conditions = api("GET", "/api/v1/nodes/node-0").body["status"]["conditions"]
    by_type = {c["type"]: c["status"] for c in conditions}
    assert (by_type["Ready"], by_type["PIDPressure"]) == ("True", "False")
    assert running(api, "witness")["restartCount"] == 0
    assert cluster.kubectl("exec", "witness", "--", "echo", "inside").split() == ["inside"]
    assert api("POST", PODS, pod("next", "echo fine")).code == 201
    until(lambda: status(api, "next").get("phase") == "Succeeded", "pods still start")
    for name in ("witness", "next"):
        assert api("DELETE", f"{PODS}/{name}").code == 200
    until(lambda: api("GET", f"{PODS}/witness").code == 404, "deleted")
    assert "Traceback" not in server_log(cluster)


def ended(api, name):
    found = status(api, name)
    if found.get("phase") not in ("Failed", "Succeeded"):
        return None
    return found["containerStatuses"][0]["state"].get("terminated") or {"reason": "none"}


def waits(api, name, *reasons):
    statuses = status(api, name).get("containerStatuses") or [{}]
    waiting = (statuses[0].get("state") or {}).get("waiting") or {}
    return waiting if waiting.get("reason") in reasons else None


def event(api, name, reason):
    events = api("GET", "/api/v1/namespaces/default/events").body["items"]
    return next(
        (e for e in events if e["reason"] == reason and e["involvedObject"]["name"] == name), None
    )


def test_a_command_that_does_not_exist(api, run):
    run(pod("nocommand", container={"command": ["/no/such/program"]}))
    found = until(lambda: ended(api, "nocommand"), "it fails")
    assert found["reason"] == "StartError"
    assert "/no/such/program" in found["message"]


def test_an_unknown_image(api, run):
    run(pod("noimage", container={"image": "registry.example/never/was:1"}))
    found = until(lambda: waits(api, "noimage", "ErrImagePull", "ImagePullBackOff"), "it waits")
    assert "registry.example/never/was:1" in found["message"]


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"hostPath": {"path": "/no/such/place", "type": "Directory"}}, "is not a directory"),
        ({"configMap": {"name": "never"}}, 'configmap "never" not found'),
        ({"persistentVolumeClaim": {"claimName": "never"}}, "never"),
        ({"nfs": {"server": "nowhere", "path": "/"}}, "cannot mount volumes of type nfs"),
    ],
    ids=["hostPath", "configMap", "claim", "nfs"],
)
def test_a_mount_that_is_missing(api, run, volume, said):
    kind = next(iter(volume)).lower()
    name = run(pod(f"nomount-{kind}", "sleep 1000", volumes=[{"name": "v"} | volume]))

    def told():
        unscheduled = event(api, name, "FailedScheduling")
        return event(api, name, "FailedMount") or unscheduled

    assert said in until(told, "it is said")["message"]
    assert status(api, name)["phase"] == "Pending"


def test_a_limit_below_what_is_used(api, run):
    hog = "exec python3 -c 'b = bytearray(200 << 20)'"
    run(pod("hog", hog, limits={"memory": "50Mi"}))
    found = until(lambda: ended(api, "hog"), "it is killed")
    assert (found["reason"], found["exitCode"]) == ("OOMKilled", 137)


def test_a_fork_bomb(api, run, cluster):
    run(pod("bomb", f"while :; do (while :; do sleep {MARKER} & done) & sleep {MARKER} & done"))
    most = 0

    def exploded():
        nonlocal most
        most = max(most, len(marked_processes()))
        return most > 120 or ended(api, "bomb")

    until(exploded, "it explodes")
    assert most <= 210
    if most < 100:  # over before it was looked at: it says itself that it could not go on
        said = cluster.kubectl("logs", "bomb", check=False)
        assert "fork" in said or event(api, "bomb", "TooManyProcesses"), said


def test_a_disk_that_is_filled(api, run):
    fill = "while :; do head -c 3000000 /dev/zero >> /data/f; sleep 0.05; done"
    volume = {"name": "v", "emptyDir": {"sizeLimit": "20Mi"}}
    run(pod("fills", fill, volumes=[volume]))
    until(lambda: status(api, "fills").get("phase") == "Failed", "it is evicted")
    found = status(api, "fills")
    assert found["reason"] == "Evicted"
    assert found["message"] == 'Usage of EmptyDir volume "v" exceeds the limit "20Mi". '


def test_a_writable_layer_that_is_filled(api, run):
    fill = "head -c 1500000000 /dev/zero > /var/tmp/f || exit 3"
    run(pod("layer", fill))
    found = until(lambda: ended(api, "layer"), "it cannot")
    assert found["exitCode"] != 0


def test_folders_nested_deeper_than_any_path(api, run, cluster):
    dig = (
        "exec python3 -c \"import os; os.chdir('/data'); "
        "[(os.mkdir('d' * 20), os.chdir('d' * 20)) for _ in range(2000)]\""
    )
    name = run(pod("digs", dig, volumes=[{"name": "v", "emptyDir": {}}]))
    assert until(lambda: ended(api, name), "it has dug")["exitCode"] == 0
    uid = api("GET", f"{PODS}/{name}").body["metadata"]["uid"]
    left = lambda: [*cluster.home.glob(f"clusters/*/nodes/pods/{uid}")]  # noqa: E731
    assert left()
    assert api("DELETE", f"{PODS}/{name}").code == 200
    until(lambda: not left(), "its files go")


def test_a_log_that_is_flooded(api, run, cluster):
    run(pod("talks", "yes 'on and on and on and on and on and on and on and on'"))
    until(lambda: event(api, "talks", "Started"), "it talks")

    def logs():
        return sum(p.stat().st_size for p in cluster.home.rglob("logs/c/*") if p.is_file())

    until(lambda: logs() > 30 << 20, "a lot", 60)
    for _ in range(20):
        assert logs() < 60 << 20, "five files of ten mebibytes"
        until(lambda: True, "")


def test_processes_that_hide_and_heed_nothing(api, run):
    script = "trap '' TERM HUP INT; for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; exec sleep "
    run(pod("hides", script + f"{MARKER}' & done; sleep {MARKER}; sleep {MARKER}; sleep 1000"))
    until(lambda: len(marked_processes()) >= 4, "they hide")


AMOUNTS = {"memory": "64Mi", "cpu": "50m"}
RESIZES = {
    "a resource that cannot be": (
        {"limits": AMOUNTS | {"ephemeral-storage": "1Gi"}},
        "spec: Forbidden: only cpu and memory resources are mutable",
    ),
    "another quality of service": (
        {"limits": AMOUNTS | {"memory": "128Mi"}},
        "Pod QOS Class may not change as a result of resizing",
    ),
    "taken away": (
        {"limits": {"memory": None}, "requests": {"memory": None}},
        "resource limits cannot be removed",
    ),
    "a negative amount": (
        {"limits": {"memory": "-1"}, "requests": {"memory": "-1"}},
        "must be greater than or equal to 0",
    ),
    "no amount": ({"limits": {"memory": "lots"}}, "quantit"),
}


def test_a_resize_of_what_may_not_be_resized(api, run):
    document = pod("fixed", "sleep 1000", limits=AMOUNTS)
    document["spec"]["containers"][0]["resources"]["requests"] = AMOUNTS
    run(document)
    until(lambda: running(api, "fixed"), "it runs")
    for what, (resources, message) in RESIZES.items():
        change = {"spec": {"containers": [{"name": "c", "resources": resources}]}}
        said = api("PATCH", f"{PODS}/fixed/resize", change, MERGE)
        assert (said.code in (400, 422), message in said.message) == (True, True), (
            what,
            said.message,
        )
    image = {"spec": {"containers": [{"name": "c", "image": "other"}]}}
    said = api("PATCH", f"{PODS}/fixed/resize", image, MERGE)
    before = api("GET", f"{PODS}/fixed").body["spec"]["containers"][0]
    assert (before["image"], before["resources"]["limits"]) == ("busybox", AMOUNTS)
    huge = {"memory": "900Gi", "cpu": "50m"}
    change = {"containers": [{"name": "c", "resources": {"limits": huge, "requests": huge}}]}
    assert api("PATCH", f"{PODS}/fixed/resize", {"spec": change}, MERGE).code == 200

    def pending():
        conditions = status(api, "fixed")["conditions"]
        return next((c for c in conditions if c["type"] == "PodResizePending"), None)

    assert until(pending, "it is said")["reason"] == "Infeasible"
    container = running(api, "fixed")
    assert container["resources"]["limits"] == AMOUNTS
    gone = api("PATCH", f"{PODS}/never/resize", {"spec": change}, MERGE)
    assert gone.code == 404
