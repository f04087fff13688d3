"""Pods as real processes, through the API: environment, volumes, users, names, ends, leftovers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from kubarium.api.kinds import CONFIG_MAPS, PODS, SECRETS, SERVICES
from kubarium.base.errors import ApiError
from kubarium.node import isolation
from kubarium.node.config import ImageConfig

from .conftest import none_left, process_world, processes_with

LEVELS = [isolation.PLAIN, isolation.USER_NAMESPACE, isolation.ROOT]


def available(level):
    if level == isolation.PLAIN:
        return True
    if level == isolation.ROOT:
        return os.geteuid() == 0
    done = subprocess.run(["unshare", "-Urm", "true"], capture_output=True)
    return done.returncode == 0


@pytest.fixture(params=LEVELS)
def level(request):
    if not available(request.param):
        pytest.skip(f"isolation level {request.param} is not to be had on this machine")
    return request.param


def isolated(world):
    return world.agent.isolation().level != isolation.PLAIN


# At every level --------------------------------------------------------------------------------


def test_a_pod_runs_to_its_exit_code_and_shows_it(level):
    async def main():
        async with process_world(level) as world:
            await world.pod("ok", "echo out; echo err >&2")
            await world.pod("bad", "exit 3")
            await world.pod("killed", "kill -9 $$$$")  # $$ is a literal $ in a command
            assert sorted((await world.output("ok")).split()) == ["err", "out"]
            ok = await world.phase("ok", "Succeeded")
            state = ok["status"]["containerStatuses"][0]
            assert state["state"]["terminated"]["reason"] == "Completed"
            assert state["containerID"].startswith("kubarium://")
            bad = (await world.phase("bad", "Failed"))["status"]["containerStatuses"][0]
            assert bad["state"]["terminated"]["exitCode"] == 3
            assert bad["state"]["terminated"]["reason"] == "Error"
            ended = (await world.phase("killed", "Failed"))["status"]["containerStatuses"][0]
            assert ended["state"]["terminated"]["exitCode"] == 137
            assert ended["state"]["terminated"]["signal"] == 9

    asyncio.run(main())


def test_environment_comes_from_everywhere(level):
    async def main():
        async with process_world(level, api_host="127.0.0.9", api_port=6443) as world:
            await world.create(
                CONFIG_MAPS,
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "c"},
                    "data": {"COLOR": "red", "size": "7"},
                },
            )
            await world.create(
                SECRETS,
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "s"},
                    "data": {"password": base64.b64encode(b"open sesame").decode()},
                },
            )
            env = [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['t']"}}},
                {
                    "name": "CPU",
                    "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
                },
                {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
                {
                    "name": "NONE",
                    "valueFrom": {
                        "configMapKeyRef": {"name": "absent", "key": "x", "optional": True}
                    },
                },
                {"name": "BOTH", "value": "$(PRE_COLOR)-$(NAME)-$$(NAME)-$(LATER)"},
                {"name": "LATER", "value": "x"},
            ]
            await world.pod(
                "env",
                "env",
                labels={"t": "gold"},
                container={
                    "env": env,
                    "envFrom": [{"prefix": "PRE_", "configMapRef": {"name": "c"}}],
                    "resources": {"limits": {"cpu": "1500m"}},
                },
            )
            lines = (await world.output("env")).splitlines()
            seen = dict(line.split("=", 1) for line in lines if "=" in line)
            pod = await world.get("env")
            assert seen["NAME"] == "env"
            assert seen["IP"] == pod["status"]["podIP"]
            assert seen["TIER"] == "gold"
            assert seen["CPU"] == "1500"
            assert seen["PW"] == "open sesame"
            assert "NONE" not in seen
            assert seen["BOTH"] == "red-env-$(NAME)-$(LATER)"
            assert seen["PRE_size"] == "7"
            assert seen["KUBERNETES_SERVICE_HOST"] == "127.0.0.9"
            assert seen["KUBERNETES_PORT_6443_TCP_PORT"] == "6443"
            assert seen["HOSTNAME"] == "env"

    asyncio.run(main())


def test_command_and_args_follow_the_image_and_expand(level):
    async def main():
        images = (ImageConfig("mine/tool", entrypoint=("echo", "tool"), cmd=("default",)),)
        async with process_world(level, images=images) as world:
            base = {"image": "registry.local:5000/mine/tool:v2", "command": None}
            await world.pod("plain", container=base)
            await world.pod(
                "args",
                container=base | {"args": ["$(X)"], "env": [{"name": "X", "value": "42"}]},
            )
            assert await world.output("plain") == "tool default\n"
            assert await world.output("args") == "tool 42\n"

    asyncio.run(main())


def test_deleting_gives_the_process_its_grace(level):
    async def main():
        async with process_world(level) as world:
            await world.pod(
                "polite",
                "trap 'echo bye; sleep 0.2; exit 0' TERM; echo up; while :; do sleep 0.05; done",
            )
            await world.pod("stubborn", "trap '' TERM; echo up; while :; do sleep 0.05; done")
            for name in ("polite", "stubborn"):
                await world.until(lambda name=name: said(world, name, "up"))
            started = time.monotonic()
            await world.client.delete(PODS, "polite", "default", grace_period_s=10)
            await world.gone("polite")
            assert 0.15 < time.monotonic() - started < 5
            started = time.monotonic()
            await world.client.delete(PODS, "stubborn", "default", grace_period_s=1)
            await world.gone("stubborn")
            assert 0.9 < time.monotonic() - started < 6

    async def said(world, name, text):
        try:
            return text in await world.log(name)
        except ApiError:
            return False

    asyncio.run(main())


def test_background_children_end_with_their_container(level):
    marker = f"sleep 7{os.getpid()}1"

    async def main():
        async with process_world(level) as world:
            await world.pod("parent", f"(setsid {marker} &) ; ({marker} &) ; sleep 0.1; echo done")
            assert await world.output("parent") == "done\n"

            assert await none_left(marker)

    asyncio.run(main())


AGENT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from node.conftest import process_world

async def main():
    async with process_world({level!r}) as world:
        await world.pod("p", {script!r})
        await world.phase("p", "Running")
        print("running", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_kill_9_of_the_agent_leaves_no_process_behind(level, tmp_path):
    marker = f"sleep 8{os.getpid()}{LEVELS.index(level)}"
    script = f"(setsid sh -c '{marker}; true' &) ; ({marker} &) ; exec {marker}"
    tests = str(Path(__file__).parent.parent)
    program = AGENT.format(tests=tests, level=level, script=script)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    agent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert agent.stdout is not None
    assert agent.stdout.readline() == "running\n"
    end = time.monotonic() + 10
    while len(processes_with(marker)) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(processes_with(marker)) >= 3
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    agent.stdout.close()
    end = time.monotonic() + 10
    while processes_with(marker) and time.monotonic() < end:
        time.sleep(0.01)
    assert processes_with(marker) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_fifteen_containers_start_in_a_moment(level):
    async def main():
        async with process_world(level) as world:
            names = [f"p{n}" for n in range(15)]
            for name in names:
                await world.pod(name)
            for name in names:
                await world.phase(name, "Running", limit_s=10)
            assert len({(await world.get(name))["status"]["podIP"] for name in names}) == 15
            pids = [world.agent.processes("default", name)["main"] for name in names]
            assert len(set(pids)) == 15

    asyncio.run(main())


# What goes wrong -------------------------------------------------------------------------------


def test_problems_are_told_in_kubelets_words():
    async def main():
        async with process_world() as world:
            await world.pod("image", container={"image": "nginx:1"})
            await world.pod("never", container={"image": "nginx", "imagePullPolicy": "Never"})
            await world.pod("name", container={"image": "UPPER CASE"})
            key = {"configMapKeyRef": {"name": "absent", "key": "k"}}
            await world.pod("config", container={"env": [{"name": "A", "valueFrom": key}]})
            await world.pod("command", container={"command": ["no-such-program"]})
            await world.pod("mount", volumes=[{"name": "v", "secret": {"secretName": "absent"}}])
            await world.pod(
                "root", container={"securityContext": {"runAsNonRoot": True, "runAsUser": 0}}
            )

            assert "images: {nginx: {cmd: [sh]}}" in await world.event("image", "Failed")
            assert "Back-off pulling image" in await world.waiting("image", "ImagePullBackOff")
            assert await world.waiting("never", "ErrImageNeverPull") == (
                'Container image "nginx" is not present with pull policy of Never'
            )
            assert "couldn't parse image name" in await world.waiting("name", "InvalidImageName")
            reason = "CreateContainerConfigError"
            assert await world.waiting("config", reason) == 'configmap "absent" not found'
            assert "runAsUser breaks non-root policy" in await world.waiting("root", reason)
            assert await world.event("mount", "FailedMount") == (
                'MountVolume.SetUp failed for volume "v" : secret "absent" not found'
            )
            failed = await world.phase("command", "Failed")
            ended = failed["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
            assert "executable file not found in $PATH" in ended["message"]

    asyncio.run(main())


def test_a_mount_succeeds_once_its_object_is_there(needs_namespaces):
    async def main():
        async with process_world() as world:
            await world.pod(
                "p",
                "cat /cfg/greeting",
                container={"volumeMounts": [{"name": "v", "mountPath": "/cfg"}]},
                volumes=[{"name": "v", "configMap": {"name": "late"}}],
            )
            await world.event("p", "FailedMount")
            await world.create(
                CONFIG_MAPS,
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "late"},
                    "data": {"greeting": "hello"},
                },
            )
            assert await world.output("p") == "hello\n"

    asyncio.run(main())


# With namespaces -------------------------------------------------------------------------------


def test_volumes_appear_at_their_paths(needs_namespaces, tmp_path):
    (tmp_path / "data.txt").write_text("from the machine")

    async def main():
        async with process_world() as world:
            await world.create(
                CONFIG_MAPS,
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "c"},
                    "data": {"a.txt": "alpha", "b.txt": "beta"},
                },
            )
            volumes = [
                {"name": "empty", "emptyDir": {}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {
                    "name": "cfg",
                    "configMap": {"name": "c", "items": [{"key": "a.txt", "path": "x/a"}]},
                },
                {"name": "host", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
                {
                    "name": "info",
                    "downwardAPI": {
                        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
                    },
                },
                {
                    "name": "all",
                    "projected": {"sources": [{"configMap": {"name": "c"}}]},
                },
            ]
            paths = {
                "empty": "/scratch/deep",
                "mem": "/mem",
                "cfg": "/etc/cfg",
                "host": "/host",
                "info": "/info",
                "all": "/var/run/all",
            }
            mounts = [
                {"name": n, "mountPath": p, "readOnly": n == "host"} for n, p in paths.items()
            ]
            mounts.append({"name": "all", "mountPath": "/one", "subPath": "b.txt"})
            script = (
                "echo kept > /scratch/deep/f; cat /scratch/deep/f /etc/cfg/x/a; echo; "
                "cat /host/data.txt; echo; cat /info/labels; echo; cat /var/run/all/b.txt; echo; "
                "cat /one; echo; (echo no > /host/new) 2>/dev/null || echo read-only; "
                "dd if=/dev/zero of=/mem/f bs=1M count=2 2>/dev/null || echo full; pwd"
            )
            entry = {"volumeMounts": mounts, "workingDir": "/work/here"}
            await world.pod("v", script, labels={"k": "v"}, container=entry, volumes=volumes)
            assert (await world.output("v")).splitlines() == [
                "kept",
                "alpha",
                "from the machine",
                'k="v"',
                "beta",
                "beta",
                "read-only",
                "full",
                "/work/here",
            ]
            assert not (tmp_path / "new").exists()

    asyncio.run(main())


def test_labels_in_a_volume_follow_the_pod():
    async def main():
        async with process_world() as world:
            items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
            volumes = [{"name": "info", "downwardAPI": {"items": items}}]
            mounts = [{"name": "info", "mountPath": "/info"}]
            follow = "while sleep 0.05; do cat ${KUBARIUM_ROOT:-}/info/labels; echo; done"
            entry = {"volumeMounts": mounts}
            await world.pod("v", follow, labels={"k": "v"}, container=entry, volumes=volumes)
            await world.phase("v", "Running")

            async def said(text):
                return text in (await world.log("v")).splitlines()

            await world.until(lambda: said('k="v"'), "its first labels")
            await world.client.patch(PODS, "v", {"metadata": {"labels": {"k": "w"}}}, "default")

            async def refreshed():
                await world.agent._runner.refresh_volumes()
                return await said('k="w"')

            await world.until(refreshed, "its new labels")

    asyncio.run(main())


def test_two_containers_share_a_volume_and_what_they_write_stays_inside(needs_namespaces):
    async def main():
        async with process_world() as world:
            shared = [{"name": "v", "mountPath": "/shared"}]
            first = {
                "name": "first",
                "image": "busybox",
                "command": ["sh", "-c", "echo hello > /shared/f; echo private > /only-here"],
                "volumeMounts": shared,
            }
            await world.pod(
                "p",
                "cat /shared/f; test -e /only-here || echo isolated",
                initContainers=[first],
                container={"volumeMounts": shared},
                volumes=[{"name": "v", "emptyDir": {}}],
            )
            assert (await world.output("p")).splitlines() == ["hello", "isolated"]

    asyncio.run(main())
    assert not Path("/only-here").exists()


def test_hostname_process_ids_and_hosts_file_are_the_pods_own(needs_namespaces):
    async def main():
        async with process_world() as world:
            await world.pod("me", "hostname; cat /etc/hostname; ls -d /proc/[0-9]* | wc -l")
            lines = (await world.output("me")).split()
            assert lines[:2] == ["me", "me"]
            assert int(lines[2]) <= 5

    asyncio.run(main())


def test_pods_of_a_headless_service_reach_one_another_by_name(needs_namespaces):
    serve = (
        "import socket;s=socket.create_server(('0.0.0.0', 0));"
        "open('/shared/port','w').write(str(s.getsockname()[1]));"
        "c,_=s.accept();c.sendall(b'hello '+socket.gethostname().encode());c.close()"
    )
    ask = (
        "import socket,time,sys\n"
        "port=int(open('/shared/port').read())\n"
        "for name in ('js-workers-0-0.js','js-workers-0-0.js.default.svc.cluster.local'):\n"
        "  for _ in range(200):\n"
        "    try: print(socket.gethostbyname(name)); break\n"
        "    except OSError: time.sleep(0.02)\n"
        "c=socket.create_connection(('js-workers-0-0.js',port)); print(c.recv(99).decode())\n"
    )

    async def main():
        async with process_world() as world:
            service = {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "js"},
                "spec": {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": True,
                    "selector": {"app": "js"},
                },
            }
            await world.create(SERVICES, service)
            folder = Path(world.agent._config.root) / "share"
            folder.mkdir()
            common = {
                "labels": {"app": "js"},
                "subdomain": "js",
                "volumes": [{"name": "v", "hostPath": {"path": str(folder)}}],
            }
            mounts = {
                "image": "python:3.12",
                "volumeMounts": [{"name": "v", "mountPath": "/shared"}],
            }
            await world.pod(
                "server",
                container=mounts | {"command": ["python", "-c", serve]},
                hostname="js-workers-0-0",
                **common,
            )

            async def port_known():
                return (folder / "port").exists() and (folder / "port").read_text()

            await world.until(port_known)
            await world.pod(
                "client",
                container=mounts | {"command": ["python", "-c", ask]},
                hostname="js-workers-1-0",
                **common,
            )
            address = (await world.get("server"))["status"]["podIP"]
            text = await world.output("client")
            assert text.splitlines() == [address, address, "hello js-workers-0-0"]

    asyncio.run(main())


def test_users_capabilities_and_a_read_only_root(needs_root):
    async def main():
        async with process_world() as world:
            script = (
                "id -u; id -g; id -G; grep -E 'CapEff|NoNewPrivs' /proc/self/status; "
                "(touch /x) 2>/dev/null || echo read-only; touch /data/f && stat -c %g /data/f"
            )
            await world.pod(
                "tight",
                script,
                container={
                    "securityContext": {
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "v", "mountPath": "/data"}],
                },
                securityContext={
                    "runAsNonRoot": True,
                    "runAsUser": 65534,
                    "runAsGroup": 65533,
                    "fsGroup": 2000,
                    "supplementalGroups": [3000],
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                volumes=[{"name": "v", "emptyDir": {}}],
            )
            lines = [line.split() for line in (await world.output("tight")).splitlines()]
            assert lines[0] == ["65534"]
            assert lines[1] == ["65533"]
            assert set(lines[2]) == {"65533", "2000", "3000"}
            assert ["CapEff:", "0000000000000000"] in lines
            assert ["NoNewPrivs:", "1"] in lines
            assert ["read-only"] in lines
            assert lines[-1] == ["2000"]
            await world.pod(
                "root", "grep CapEff /proc/self/status; mount -t tmpfs x /mnt || echo no"
            )
            output = await world.output("root")
            assert "00000000a80425fb" in output, "the usual container set"
            assert "no" in output

    asyncio.run(main())


def test_python_runs_as_another_user_with_our_packages(needs_root):
    async def main():
        async with process_world() as world:
            command = ["python", "-c", "import os, numpy; print(os.getuid(), numpy.zeros(2).sum())"]
            await world.pod(
                "py",
                container={"image": "kubarium/train:1", "command": command},
                securityContext={"runAsUser": 65534},
            )
            assert await world.output("py") == "65534 0.0\n"

    asyncio.run(main())


def test_what_cannot_be_applied_is_an_event():
    async def main():
        async with process_world(isolation.PLAIN) as world:
            await world.pod(
                "p",
                "echo $KUBARIUM_ROOT; cat $KUBARIUM_ROOT/data/f; grep -c p $KUBARIUM_HOSTS_FILE",
                container={
                    "securityContext": {"runAsUser": os.geteuid() + 7},
                    "volumeMounts": [{"name": "v", "mountPath": "/data"}],
                },
                initContainers=[
                    {
                        "name": "w",
                        "image": "busybox",
                        "command": ["sh", "-c", "echo found > $KUBARIUM_ROOT/data/f"],
                        "volumeMounts": [{"name": "v", "mountPath": "/data"}],
                    }
                ],
                volumes=[{"name": "v", "emptyDir": {}}],
            )
            output = (await world.output("p")).splitlines()
            assert output[1] == "found"
            message = await world.event("p", "SecurityContextNotApplied")
            assert f"runAsUser {os.geteuid() + 7}" in message
            assert "KUBARIUM_ROOT" in await world.event("p", "MountPathsNotVisible")

    asyncio.run(main())


# Probes, hooks, restarts, logs -----------------------------------------------------------------


def test_probes_and_hooks_run_inside_the_container():
    async def main():
        async with process_world() as world:
            both = ["sh", "-c", "test -e /tmp/up && test -e /tmp/late"]
            ready = {"exec": {"command": both}, "periodSeconds": 1}
            hook = {"postStart": {"exec": {"command": ["sh", "-c", "sleep 0.3; touch /tmp/up"]}}}
            entry = {"readinessProbe": ready, "lifecycle": hook}
            if not isolated(world):
                entry = {"readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}
            late = "while ! test -e /tmp/up; do sleep 0.1; done; sleep 0.7; touch /tmp/late; "
            late = late if isolated(world) else ""
            await world.pod("p", late + "sleep 100", container=entry)

            async def is_ready():
                pod = await world.get("p")
                statuses = pod["status"].get("containerStatuses") or [{}]
                return statuses[0].get("ready")

            await world.until(is_ready, "readiness")
            if isolated(world):
                assert "Readiness probe failed" in await world.event("p", "Unhealthy")
            live = {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}
            await world.pod("q", container={"livenessProbe": live}, restartPolicy="Always")
            message = await world.event("q", "Unhealthy")
            assert "Liveness probe failed: dial tcp" in message
            assert "connection refused" in message

            async def restarted():
                pod = await world.get("q")
                return pod["status"]["containerStatuses"][0]["restartCount"] >= 1

            await world.until(restarted, "restart after failed liveness")

    asyncio.run(main())


def test_logs_follow_tail_previous_timestamps_and_limits():
    async def main():
        async with process_world() as world:
            await world.pod("one", "for i in 1 2 3 4 5; do echo line $i; done")
            await world.phase("one", "Succeeded")
            assert await world.log("one", tail_lines=2) == "line 4\nline 5\n"
            assert await world.log("one", tail_lines=0) == ""
            assert await world.log("one", limit_bytes=9) == "line 1\nli"
            stamped = (await world.log("one", timestamps=True, tail_lines=1)).split(" ", 1)
            assert stamped[1] == "line 5\n"
            assert stamped[0].endswith("Z")
            assert await world.log("one", since_seconds=1000) != ""
            assert await world.log("one", since_time="2100-01-01T00:00:00Z") == ""
            with pytest.raises(ApiError, match="previous terminated container"):
                await world.log("one", previous=True)
            with pytest.raises(ApiError, match="container nope is not valid for pod one"):
                await world.log("one", container="nope")

            await world.pod("two", "echo run; sleep 0.3; exit 1", restartPolicy="OnFailure")
            await world.waiting("two", "CrashLoopBackOff")
            assert await world.log("two", previous=True) == "run\n"

            await world.pod("three", "for i in 1 2 3; do echo $i; sleep 0.15; done")
            await world.phase("three", "Running", "Succeeded")
            assert await world.log("three", follow=True) == "1\n2\n3\n"

    asyncio.run(main())


def test_a_termination_message_is_kept(needs_namespaces):
    async def main():
        async with process_world() as world:
            await world.pod("file", "echo -n because > /dev/termination-log; exit 1")
            policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
            await world.pod("logs", "echo last words; exit 1", container=policy)
            for name, message in (("file", "because"), ("logs", "last words\n")):
                pod = await world.phase(name, "Failed")
                ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
                assert ended["message"] == message

    asyncio.run(main())


def test_the_status_says_what_a_kubelet_says():
    async def main():
        async with process_world() as world:
            await world.pod("p")
            status = (await world.phase("p", "Running"))["status"]
            assert status["hostIP"].startswith("127.112.")
            assert ip_address(status["podIP"]) in ip_network("127.64.0.0/12")
            assert status["podIPs"] == [{"ip": status["podIP"]}]
            assert status["observedGeneration"] == 1
            assert [c["type"] for c in status["conditions"]] == [
                "PodReadyToStartContainers",
                "Initialized",
                "Ready",
                "ContainersReady",
                "PodScheduled",
            ]
            assert all(c["status"] == "True" for c in status["conditions"])
            reasons = [reason for reason, _ in await world.events("p")]
            assert reasons[:3] == ["Pulled", "Created", "Started"]
            json.dumps(status)

    asyncio.run(main())


LISTEN = (
    'exec python3 -u -c "import socket, time; s = socket.socket(); '
    "s.bind(('{address}', {port})); s.listen(); print('up'); time.sleep(100)\""
)


def test_a_port_that_another_pod_has_is_reported_as_what_it_is():
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]

    async def main():
        async with process_world(isolation.PLAIN) as world:
            await world.pod("first", LISTEN.format(address="", port=port))
            await world.phase("first", "Running")

            async def is_up():
                return "up" in await world.log("first")

            await world.until(is_up, "the first listens")
            await world.pod("second", LISTEN.format(address="", port=port))
            await world.phase("second", "Failed")
            text = await world.event("second", "PortInUse")
            assert f"{port} by container main of pod default/first" in text
            own = (await world.get("second"))["status"]["podIP"]
            assert f"listen on the pod's own address, {own} " in text
            await world.pod("third", "echo no such thing; exit 1")
            await world.phase("third", "Failed")
            assert not [reason for reason, _ in await world.events() if reason == "PortInUse"][1:]

    asyncio.run(main())
