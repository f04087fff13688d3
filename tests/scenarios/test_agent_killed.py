"""kill -9 of the node agent alone, in the states that it alone knows of."""

import pytest

from tests.scenarios.conftest import RawClient
from tests.scenarios.test_crash import (
    MARKER,
    PODS,
    agents,
    back_up,
    cluster,  # noqa: F401 (a fixture)
    nothing_left,
    running,
    shell,
    status,
    until,
)

pytestmark = pytest.mark.timeout(180)
AMOUNTS = {"memory": "64Mi", "cpu": "50m"}


def kill_agent(cluster):  # noqa: F811
    [agent] = agents(cluster)
    agent.kill()
    until(lambda: [a for a in agents(cluster) if a.pid != agent.pid], "a new agent")


def condition(found, kind):
    return next((c for c in found["conditions"] if c["type"] == kind), None)


def test_back_off_resizes_probes_and_init_containers_outlive_the_agent(cluster):  # noqa: F811
    api = RawClient(cluster.kubeconfig)
    grows = shell("grows", f"sleep 1000 # {MARKER}")
    grows["spec"]["containers"][0]["resources"] = {"requests": AMOUNTS, "limits": AMOUNTS}
    crashes = shell("crashes", "exit 3", "Always")
    probe = {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1}
    starts = shell("starts", f"sleep 1000 # {MARKER}", "Always")
    starts["spec"]["containers"][0]["startupProbe"] = probe | {"failureThreshold": 60}
    prepares = shell("prepares", f"cat /data/count; sleep 1000 # {MARKER}")
    once = {"name": "once", "image": "busybox", "command": ["sh", "-c", "echo x >> /data/count"]}
    slow = once | {"name": "slow", "command": ["sh", "-c", "sleep 3"]}
    mount = [{"name": "data", "mountPath": "/data"}]
    prepares["spec"] |= {"initContainers": [once, slow], "volumes": [{"name": "data"}]}
    for container in (*prepares["spec"]["initContainers"], *prepares["spec"]["containers"]):
        container["volumeMounts"] = mount
    prepares["spec"]["volumes"][0]["emptyDir"] = {}
    for pod in (grows, crashes, starts, prepares):
        assert api("POST", PODS, pod).code == 201
    until(lambda: running(api, "grows"), "it runs")
    more = AMOUNTS | {"memory": "4Ti"}
    resize = {"containers": [{"name": "c", "resources": {"requests": more, "limits": more}}]}
    patch = "application/strategic-merge-patch+json"
    assert api("PATCH", f"{PODS}/grows/resize", {"spec": resize}, patch).code == 200
    until(lambda: condition(status(api, "grows"), "PodResizePending"), "it cannot be")

    def loops():
        [container] = status(api, "crashes").get("containerStatuses") or [{}]
        waiting = (container.get("state") or {}).get("waiting") or {}
        return container if waiting.get("reason") == "CrashLoopBackOff" else None

    before = until(loops, "a crash loop")
    until(lambda: "slow" in str(status(api, "prepares").get("initContainerStatuses")), "it began")
    kill_agent(cluster)
    after = until(loops, "a crash loop still")
    assert after["restartCount"] == before["restartCount"]
    assert after["state"] == before["state"], "the same wait"
    kill_agent(cluster)

    found = status(api, "grows")
    assert condition(found, "PodResizePending")["reason"] == "Infeasible"
    [container] = found["containerStatuses"]
    assert container["resources"]["limits"] == AMOUNTS
    assert container["allocatedResources"] == AMOUNTS
    assert container["restartCount"] == 0
    [container] = status(api, "starts")["containerStatuses"]
    assert (container["started"], container["restartCount"]) == (False, 0)
    cluster.kubectl("exec", "starts", "--", "touch", "/tmp/up")
    until(lambda: status(api, "starts")["containerStatuses"][0]["started"], "the probe goes on")
    until(lambda: running(api, "prepares"), "it is prepared")
    assert api("GET", f"{PODS}/prepares/log").body.split() == ["x"], "prepared once"
    counts = [c["restartCount"] for c in status(api, "prepares")["initContainerStatuses"]]
    assert counts == [0, 0]


def test_after_kill_9_of_the_agent_and_down_nothing_is_left(cluster):  # noqa: F811
    api = RawClient(cluster.kubeconfig)
    hidden = shell("hides", f"setsid sleep {MARKER} & sleep {MARKER}; sleep 1000", "Always")
    mounts = shell("mounts", f"sleep {MARKER}", "Always")
    mounts["spec"]["volumes"] = [{"name": "v", "emptyDir": {"medium": "Memory"}}]
    mounts["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/data"}]
    for pod in (hidden, mounts):
        assert api("POST", PODS, pod).code == 201
    for name in ("hides", "mounts"):
        until(lambda name=name: running(api, name), f"{name} runs")
    [agent] = agents(cluster)
    agent.kill()
    cluster.kubarium("down")
    nothing_left(cluster)
    [folder] = cluster.home.glob("clusters/*/nodes")
    assert not list(folder.glob("pods/*"))
    assert not [path for path in cluster.home.rglob("*") if path.is_socket()]
    api = back_up(cluster)
    until(lambda: running(api, "hides") and running(api, "mounts"), "both start anew")
