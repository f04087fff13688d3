"""Static pods: manifests in a node's directory, their mirrors, and what befalls either."""

from __future__ import annotations

import json
import os
import time

import pytest
import yaml

from kubarium.api.kinds import NODES, PODS
from kubarium.base.errors import ApiError
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_virtual
from tests.scenarios.conftest import RawClient, cluster_of
from tests.scenarios.test_crash import (
    MARKER,
    agents,
    marked_processes,
    running,
    status,
    until,
)


def manifest(name="web", **spec):
    container = {"name": "main", "image": "busybox"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container]} | spec,
    }


def write(folder, name, content):
    """As an editor or a deployment tool does: whole or not at all."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / f".{name}.tmp").write_text(text)
    os.replace(folder / f".{name}.tmp", folder / name)


def nodes(folder, count=1):
    kubelet = {"staticPodPath": str(folder)}
    return ClusterFile([NodePool("node", count, "simulated", kubelet=kubelet)])


async def gone(cluster, name):
    async def ask():
        try:
            await cluster.get(PODS, name)
        except ApiError as error:
            return error.code == 404
        return False

    await cluster.until(ask, what=f"{name} is gone")


async def changed(cluster, name, before):
    async def ask():
        try:
            found = await cluster.get(PODS, name)
        except ApiError:
            return None
        ready = any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in found.get("status", {}).get("conditions", ())
        )
        return found if found["metadata"]["uid"] != before["metadata"]["uid"] and ready else None

    return await cluster.until(ask, what=f"another {name}")


def test_a_mirror_shows_the_pod_and_may_not_be_deleted_for_good(tmp_path):
    write(tmp_path, "web.yaml", manifest())

    async def story(cluster):
        await cluster.until_true(PODS, "web-node-0", "Ready")
        await cluster.until_true(PODS, "web-node-1", "Ready")
        found = await cluster.get(PODS, "web-node-0")
        node = await cluster.get(NODES, "node-0")
        notes = found["metadata"]["annotations"]
        assert notes["kubernetes.io/config.source"] == "file"
        assert notes["kubernetes.io/config.mirror"] == notes["kubernetes.io/config.hash"]
        assert "kubernetes.io/config.seen" in notes
        [owner] = found["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Node", node["metadata"]["uid"])
        assert found["spec"]["nodeName"] == "node-0"
        assert {"operator": "Exists", "effect": "NoExecute"} in found["spec"]["tolerations"]
        ident = found["status"]["containerStatuses"][0]["containerID"]

        await cluster.client.delete(PODS, "web-node-0", "default", grace_period_s=0)
        again = await changed(cluster, "web-node-0", found)
        assert again["status"]["containerStatuses"][0]["containerID"] == ident, "it went on"
        await cluster.client.delete(PODS, "web-node-0", "default")
        again = await changed(cluster, "web-node-0", again)
        assert again["status"]["containerStatuses"][0]["containerID"] == ident
        assert "deletionTimestamp" not in again["metadata"]

    run_virtual(story, file=nodes(tmp_path, 2))


def test_a_changed_manifest_is_another_pod_and_a_removed_one_ends_it(tmp_path):
    write(tmp_path, "web.yaml", manifest())

    async def story(cluster):
        await cluster.until_true(PODS, "web-node-0", "Ready")
        before = await cluster.get(PODS, "web-node-0")
        changes = manifest()
        changes["spec"]["containers"][0]["env"] = [{"name": "A", "value": "b"}]
        write(tmp_path, "web.yaml", changes)
        after = await changed(cluster, "web-node-0", before)
        assert after["spec"]["containers"][0]["env"] == [{"name": "A", "value": "b"}]
        hashes = [
            p["metadata"]["annotations"]["kubernetes.io/config.hash"] for p in (before, after)
        ]
        assert hashes[0] != hashes[1]
        (tmp_path / "web.yaml").unlink()
        await gone(cluster, "web-node-0")
        await cluster.clock.sleep(3)
        assert not cluster.embedded.agents[0]._runner.actors, "nothing is kept of it"
        write(
            tmp_path,
            "web.json",
            '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "j"},'
            '"spec": {"containers": [{"name": "main", "image": "busybox"}]}}',
        )
        await cluster.until_true(PODS, "j-node-0", "Ready")

    run_virtual(story, file=nodes(tmp_path))


BAD = {
    "broken.yaml": ("{a: [", "yaml"),
    "service.yaml": ("apiVersion: v1\nkind: Service\n", "holds a v1 Service"),
    "empty.yaml": ("", ""),
    "binary.yaml": ("\x00\x01", ""),
    "nameless.yaml": (yaml.safe_dump(manifest("")), "metadata.name"),
    "typo.yaml": (yaml.safe_dump(manifest("typo", containers="none")), "containers"),
    "nothing.yaml": (yaml.safe_dump(manifest("nothing", containers=[])), "spec.containers"),
    "secret.yaml": (
        yaml.safe_dump(manifest("s", volumes=[{"name": "v", "secret": {"secretName": "x"}}])),
        "static pods may not reference secrets",
    ),
    "account.yaml": (
        yaml.safe_dump(manifest("a", serviceAccountName="robot")),
        "static pods may not reference serviceaccounts",
    ),
    "twice.yaml": (yaml.safe_dump(manifest("good")), "is in good.yaml already"),
}


def test_what_is_no_pod_is_reported_and_harms_nobody(tmp_path):
    write(tmp_path, "good.yaml", manifest("good"))
    for name, (content, _) in BAD.items():
        write(tmp_path, name, content)
    write(tmp_path, "README.txt", "not a manifest")

    async def story(cluster):
        await cluster.until_true(PODS, "good-node-0", "Ready")
        await cluster.clock.sleep(30)
        said = [e["message"] for e in await cluster.events("InvalidStaticPod")]
        for name, (_, part) in BAD.items():
            [message] = [text for text in said if f"/{name}: " in text]
            assert part.lower() in message.lower(), message
        assert not any("README" in text for text in said)
        await cluster.until_true(NODES, "node-0", "Ready")
        assert [p["metadata"]["name"] for p in await cluster.pods()] == ["good-node-0"]
        write(tmp_path, "broken.yaml", manifest("mended"))
        await cluster.until_true(PODS, "mended-node-0", "Ready")
        write(tmp_path, "good.yaml", "{")
        await gone(cluster, "good-node-0")

    run_virtual(story, file=nodes(tmp_path))


def test_what_is_no_file_is_reported_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").mkdir()
    (tmp_path / "c.yaml").symlink_to("/dev/zero")
    write(tmp_path, "web.yaml", manifest())

    async def story(cluster):
        await cluster.until_true(PODS, "web-node-0", "Ready")
        await cluster.clock.sleep(5)
        said = sorted(e["message"] for e in await cluster.events("InvalidStaticPod"))
        assert said == [f"{tmp_path}/{name}.yaml: is no regular file" for name in "abc"]

    run_virtual(story, file=nodes(tmp_path))


def test_a_directory_may_come_later(tmp_path):
    async def story(cluster):
        await cluster.clock.sleep(5)
        (tmp_path / "later").mkdir()
        write(tmp_path / "later", "web.yml", manifest())
        await cluster.until_true(PODS, "web-node-0", "Ready")

    run_virtual(story, file=nodes(tmp_path / "later"))


AWAY = {"kubarium.dev/shutdown": "configured"}
CUT_OFF = {
    "fault.kubarium.dev/uid": json.dumps({"ident": "uid/0", "action": "DisconnectNode", "at": 0})
}


@pytest.mark.parametrize("order", [AWAY, CUT_OFF], ids=["off", "cut off"])
def test_a_node_that_comes_back_runs_its_static_pod_and_not_the_mirror(tmp_path, order):
    write(tmp_path, "web.yaml", manifest())

    async def story(cluster):
        other = manifest("other", nodeName="node-0", tolerations=[{"operator": "Exists"}])
        await cluster.apply(other)
        for name in ("web-node-0", "other"):
            await cluster.until_true(PODS, name, "Ready")
        before = set(cluster.embedded.agents[0]._runner.actors)
        await cluster.client.patch(NODES, "node-0", {"metadata": {"annotations": order}})

        async def silent():
            return (await cluster.condition(NODES, "node-0", "Ready"))["status"] == "Unknown"

        await cluster.until(silent, 120, "it is silent")
        over = {"metadata": {"annotations": dict.fromkeys(order)}}
        await cluster.client.patch(NODES, "node-0", over)
        await cluster.until_true(NODES, "node-0", "Ready")
        await cluster.until_true(PODS, "web-node-0", "Ready")
        status = (await cluster.client.get(PODS, "web-node-0", "default"))["status"]
        assert (status["phase"], status.get("reason")) == ("Running", None)
        if order is CUT_OFF:
            await cluster.until_true(PODS, "other", "Ready")
        assert set(cluster.embedded.agents[0]._runner.actors) == before

    run_virtual(story, file=nodes(tmp_path))


FILE = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: node
    kubelet: {staticPodPath: static}
"""


@pytest.mark.timeout(120)
def test_a_static_pod_of_processes_outlives_its_agent_and_ends_with_its_manifest(tmp_path):
    static = tmp_path / "static"
    static.mkdir()
    counting = manifest("count")
    script = f"n=0; while true; do echo $n; n=$((n+1)); sleep 0.1; done # {MARKER}"
    counting["spec"]["containers"][0]["command"] = ["sh", "-c", script]
    counting["spec"]["terminationGracePeriodSeconds"] = 1
    write(static, "count.yaml", counting)
    with cluster_of(tmp_path, FILE) as cluster:
        api = RawClient(cluster.kubeconfig)
        before = until(lambda: known(api) and running(api, "count-node-0"), "it runs")
        assert cluster.kubectl("exec", "count-node-0", "--", "echo", "inside").split() == ["inside"]
        [agent] = agents(cluster)
        agent.kill()
        until(lambda: [a for a in agents(cluster) if a.pid != agent.pid], "a new agent")
        time.sleep(1)
        after = until(lambda: running(api, "count-node-0"), "found again")
        assert after["containerID"] == before["containerID"]
        assert after["restartCount"] == 0

        def said():
            answer = api("GET", "/api/v1/namespaces/default/pods/count-node-0/log")
            return answer.body.splitlines() if answer.code == 200 else None

        lines = until(said, "its log")
        assert lines == [str(n) for n in range(len(lines))]
        (static / "count.yaml").unlink()
        until(lambda: not known(api), "the mirror goes")
        assert not [p for p in marked_processes() if "sh" in p.cmdline()[:1]]


def known(api):
    return api("GET", "/api/v1/namespaces/default/pods/count-node-0").code == 200 and status(
        api, "count-node-0"
    )
