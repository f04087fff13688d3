"""Containers of real images, by each handler that the machine has: what kubelet's users rely on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil

import pytest

from kubarium.api.kinds import CONFIG_MAPS, NODES, PODS, RUNTIME_CLASSES
from kubarium.api.streams import StreamOptions
from kubarium.node import isolation
from kubarium.node.config import ImageConfig
from kubarium.node.oci.load import load
from kubarium.node.runtimes.process.engine import StartError
from tests.node.conftest import left_behind, process_world, processes_with
from tests.node.oci.images import (
    Built,
    as_archive,
    busybox,
    entry,
    folder,
    hello_program,
    layer,
    link,
    whoami_program,
)

HANDLERS = ["namespaces", "crun", "runc"]


@pytest.fixture(params=HANDLERS)
def handler(request, needs_root):
    if request.param != "namespaces" and shutil.which(request.param, path=_path()) is None:
        pytest.skip(f"needs {request.param} (Debian: apt install {request.param})")
    return request.param


def _path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


async def with_class(world, handler, **more):
    """A RuntimeClass for ``handler``; what to put into a pod's spec."""
    document = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": f"by-{handler}"},
        "handler": handler,
    }
    await world.create(RUNTIME_CLASSES, document | more, "")
    check = world.agent._process.pods.handlers
    if handler in check.refusals:
        pytest.skip(f"{handler}: {check.refusals[handler]}")
    return {"runtimeClassName": f"by-{handler}"}


def run(main):
    asyncio.run(main)


async def said(world, name, *command, tty=False, stdin=b""):
    """Output and exit code of a command in a pod's container."""
    options = StreamOptions("main", tuple(command), bool(stdin), True, True, tty)
    session = await world.agent.open_session("default", name, options)
    if stdin:
        await session.write(stdin)
        session.close_input()
    found = b""
    while (piece := await session.read()) is not None:
        found += piece[1]
    outcome = await session.outcome()
    session.close()
    return found.decode().replace("\r\n", "\n"), outcome.code


def test_a_static_program_in_an_image_of_one_file_runs(tmp_path, handler):
    program = layer(entry("hello", hello_program(), mode=0o755))
    Built([program], {"Entrypoint": ["/hello"]}).layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            container = {"image": f"oci:{tmp_path}/image", "command": None}
            await world.pod("p", container=container, **by)
            pod = await world.phase("p", "Failed")
            ended = pod["status"]["containerStatuses"][0]
            assert ended["state"]["terminated"]["exitCode"] == 7
            assert await world.log("p") == "hello from an image\n"
            assert ended["imageID"].startswith("sha256:")
            reasons = [reason for reason, _ in await world.events("p")]
            assert reasons == ["Pulling", "Pulled", "Created", "Started"]
            pulled = await world.event("p", "Pulled")
            assert pulled.startswith(f'Successfully pulled image "oci:{tmp_path}/image" in ')
            assert pulled.endswith(" bytes.")
        assert left_behind(world.root) == []

    run(main())


def test_what_the_images_config_says_counts(tmp_path, handler):
    config = {
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo from cmd"],
        "Env": ["A=image", "B=image", "PATH=/bin:/opt/bin"],
        "WorkingDir": "/made/for/me",
        "User": "app",
    }
    busybox(config).layout(tmp_path / "image")
    show = "id; pwd; ls -ld /made/for/me | cut -c1-10; echo $A $B $PATH $HOME"
    show = show.replace(" | cut -c1-10", "")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            image = f"oci:{tmp_path}/image:v1"
            await world.pod("cmd", container={"image": image, "command": None}, **by)
            assert await world.output("cmd") == "from cmd\n"
            env = [{"name": "B", "value": "pod"}]
            more = {"image": image, "command": None, "args": [show], "env": env}
            await world.pod("args", container=more, **by)
            who, where, owner, values = (await world.output("args")).splitlines()
            assert who == "uid=1234(app) gid=2345(app) groups=29(audio)"
            assert where == "/made/for/me"
            assert " app " in owner
            assert values == "image pod /bin:/opt/bin /home/app"
            root = {"securityContext": {"runAsUser": 0, "runAsGroup": 5}}
            await world.pod("root", "id -u; id -g", container={"image": image} | root, **by)
            assert await world.output("root") == "0\n5\n"

    run(main())


def test_the_pods_network_hostname_files_and_volumes_are_there(tmp_path, handler):
    busybox().layout(tmp_path / "image")
    script = """
        hostname; grep -c "$MY_IP" /etc/hosts; cat /config/key; cat /up/labels; echo
        echo written > /shared/file; echo kept > /dev/shm/x; cat /shared/sub/../file
        test -s /etc/resolv.conf && echo resolv
        echo bye > /dev/termination-log
        grep ' /config ' /proc/mounts | grep -c ro,
        exit 4"""

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
            await world.create(CONFIG_MAPS, config | {"data": {"key": "value\n"}})
            labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
            volumes = [
                {"name": "config", "configMap": {"name": "c"}},
                {"name": "shared", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "up", "downwardAPI": {"items": [labels]}},
            ]
            mounts = [
                {"name": "config", "mountPath": "/config", "readOnly": True},
                {"name": "shared", "mountPath": "/shared"},
                {"name": "memory", "mountPath": "/shared/sub"},
                {"name": "up", "mountPath": "/up"},
            ]
            ip = {"name": "MY_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
            container = {"image": f"oci:{tmp_path}/image", "volumeMounts": mounts, "env": [ip]}
            await world.pod(
                "p", script, container=container, volumes=volumes, labels={"a": "b"}, **by
            )
            output = await world.output("p")
            assert output.split() == ["p", "1", "value", 'a="b"', "written", "resolv", "1"]
            pod = await world.get("p")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["exitCode"], ended["message"]) == (4, "bye\n")

    run(main())


def test_exec_with_and_without_a_terminal_and_attach(tmp_path, handler):
    busybox({"User": "app", "WorkingDir": "/tmp"}).layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            container = {"image": f"oci:{tmp_path}/image", "stdin": True}
            await world.pod(
                "p", "while read line; do echo got $line; done", container=container, **by
            )
            await world.phase("p", "Running")
            assert await said(world, "p", "sh", "-c", "id -u; pwd; exit 3") == ("1234\n/tmp\n", 3)
            assert await said(world, "p", "cat", stdin=b"through") == ("through", 0)
            shown, code = await said(world, "p", "sh", "-c", "tty && echo $0 ok", tty=True)
            assert (shown, code) == ("/dev/pts/0\nsh ok\n", 0)
            with pytest.raises(Exception, match="nothing-here"):
                await said(world, "p", "nothing-here")
            options = StreamOptions("main", (), True, True, False, False)
            session = await world.agent.open_session("default", "p", options)
            await session.write(b"hello\n")
            assert (await session.read())[1] == b"got hello\n"
            session.close()
            assert await world.log("p") == "got hello\n"

    run(main())


def test_a_terminal_of_the_containers_own(tmp_path, handler):
    busybox().layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            container = {"image": f"oci:{tmp_path}/image", "tty": True}
            await world.pod("p", "tty; echo out; exit 6", container=container, **by)
            pod = await world.phase("p", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert ended["exitCode"] == 6, ended["message"]
            assert (await world.log("p")).replace("\r", "").split() == ["/dev/pts/0", "out"]

    run(main())


def test_security_contexts_are_honoured(tmp_path, handler):
    setuid = layer(entry("bin/euid", whoami_program(), mode=0o4755))
    busybox(None, setuid).layout(tmp_path / "image")
    look = (
        "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; touch /x || echo ro; touch /v/x"
    )
    escape = """mknod /dev/disk b 254 0; mknod /disk b 254 0; mknod /dev/shm/disk b 254 0
        for d in /dev/disk /disk /dev/shm/disk; do
            dd if=$d of=/dev/null count=1 2>/dev/null && echo READ
        done
        (echo h > /proc/sysrq-trigger && echo READ) 2>/dev/null
        (echo 1 > /proc/sys/kernel/printk && echo READ) 2>/dev/null
        test $(cat /proc/keys /proc/timer_list 2>/dev/null | wc -c) = 0 || echo READ
        chown 1234 /dev/null; chmod 600 /dev/null; echo done"""

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            base = {"image": f"oci:{tmp_path}/image"}
            tight = {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
            volumes = [{"name": "v", "emptyDir": {}}]
            more = base | mounts | {"securityContext": tight}
            await world.pod("tight", look, container=more, volumes=volumes, **by)
            output = (await world.output("tight")).split("\n")
            assert "CapBnd:\t0000000000000400" in output
            assert "NoNewPrivs:\t1" in output
            assert "Seccomp:\t2" in output
            assert "ro" in output
            more = base | {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
            script = "unshare -m true 2>&1 || echo refused; busybox unshare -r true || echo refused"
            await world.pod("filter", script, container=more, **by)
            assert (await world.output("filter")).count("refused") == 2
            user = {"securityContext": {"runAsUser": 1234}}
            await world.pod("setuid", "euid; echo $?", container=base | user, **by)
            assert await world.output("setuid") == "0\n"
            user = {"securityContext": {"runAsUser": 1234, "allowPrivilegeEscalation": False}}
            await world.pod("kept", "euid; echo $?", container=base | user, **by)
            assert await world.output("kept") == f"{1234 % 256}\n"
            before = os.stat("/dev/null")
            await world.pod("escape", escape, container=base, **by)
            output = await world.output("escape")
            assert "READ" not in output
            assert "done" in output
            after = os.stat("/dev/null")
            assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)

    run(main())


def test_privileged_containers_have_the_machines_devices_but_not_their_owners(tmp_path, handler):
    busybox({"User": "app"}).layout(tmp_path / "image")
    script = "ls /dev | wc -l; cat /proc/self/status | grep CapBnd; ls -l /dev/null; exit 0"

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            before = os.stat("/dev/null")
            container = {
                "image": f"oci:{tmp_path}/image",
                "securityContext": {"privileged": True},
                "tty": True,
            }
            await world.pod("p", script, container=container, **by)
            await world.phase("p", "Succeeded")
            output = (await world.log("p")).split()
            assert int(output[0]) > 15
            assert int(output[2], 16) & (1 << 21)  # CAP_SYS_ADMIN
            after = os.stat("/dev/null")
            assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)

    run(main())


def test_restarts_begin_with_a_fresh_root_and_probes_and_hooks_work(tmp_path, handler):
    busybox({"StopSignal": "SIGUSR1"}).layout(tmp_path / "image")
    script = """test -e /seen && echo stale; touch /seen; echo run
        trap 'echo usr1; exit 0' USR1; trap 'echo term; exit 1' TERM
        touch /tmp/ready; test -e /v/second || { touch /v/second; exit 1; }
        while true; do sleep 0.05; done"""
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1 || true"]}}}
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            container = {
                "image": f"oci:{tmp_path}/image",
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "readinessProbe": probe,
                "lifecycle": hook,
            }
            volumes = [{"name": "v", "emptyDir": {}}]
            spec = by | {"restartPolicy": "Always", "volumes": volumes}
            await world.pod("p", script, container=container, **spec)

            async def ready():
                statuses = (await world.get("p"))["status"].get("containerStatuses") or [{}]
                return statuses[0].get("ready") and statuses[0]["restartCount"] == 1

            await world.until(ready, "ready after a restart")
            assert await world.log("p") == "run\n"
            follow = asyncio.get_running_loop().create_task(world.log("p", follow=True))
            await world.client.delete(PODS, "p", "default")
            assert "usr1" in (await follow).splitlines()
            await world.gone("p")

    run(main())


def test_memory_limits_hold_and_the_end_is_oomkilled(tmp_path, handler):
    busybox().layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            if "memory" not in world.agent._process.pods._groups.controllers:
                pytest.skip("needs a memory controller")
            container = {
                "image": f"oci:{tmp_path}/image",
                "resources": {"limits": {"memory": "32Mi"}},
            }
            eat = "x=a; while true; do x=$x$x; done"
            await world.pod("p", eat, container=container, **by)
            pod = await world.phase("p", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert ended["reason"] == "OOMKilled"

    run(main())


def test_programs_that_are_not_there_are_told_in_the_runtimes_words(tmp_path, handler):
    busybox().layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            container = {"image": f"oci:{tmp_path}/image", "command": ["nothing-here"]}
            await world.pod("p", container=container, **by)
            pod = await world.phase("p", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
            assert "nothing-here" in ended["message"]
            assert "not found in $PATH" in ended["message"]

    run(main())


def test_debuggers_see_the_processes_of_their_target(tmp_path, handler):
    busybox().layout(tmp_path / "image")

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            await world.pod(
                "p", "exec sleep 4321", container={"image": f"oci:{tmp_path}/image"}, **by
            )
            await world.phase("p", "Running")
            debugger = {
                "name": "debug",
                "image": f"oci:{tmp_path}/image",
                "command": ["sh", "-c", "ps"],
                "targetContainerName": "main",
            }
            patch = {"spec": {"ephemeralContainers": [debugger]}}
            await world.client.patch(PODS, "p", patch, "default", subresource="ephemeralcontainers")

            async def seen():
                found = (await world.get("p"))["status"].get("ephemeralContainerStatuses") or [{}]
                return (found[0].get("state") or {}).get("terminated")

            await world.until(seen, "the debugger has looked")
            assert "sleep 4321" in await world.log("p", container="debug")

    run(main())


def test_nothing_is_left_when_the_runtime_is_killed(tmp_path, handler):
    busybox().layout(tmp_path / "image")
    marker = f"sleep 77{os.getpid()}"

    async def main():
        async with process_world() as world:
            by = await with_class(world, handler)
            script = f"(setsid {marker} &); exec {marker}"
            await world.pod("p", script, container={"image": f"oci:{tmp_path}/image"}, **by)
            await world.phase("p", "Running")

            async def both():
                return len(processes_with(marker)) >= 2

            await world.until(both, "both sleep")
            os.kill(world.agent._process.pods._engine.pid, 9)

            async def none():
                return not processes_with(marker)

            await world.until(none, "all are gone")
            await world.phase("p", "Failed")
            assert not await asyncio.to_thread(world.agent._process.pods.images.store.leased)

    run(main())


# Which image ------------------------------------------------------------------------------------


def test_all_transports_and_loaded_names(tmp_path, needs_root):
    built = busybox()
    built.layout(tmp_path / "layout")
    as_archive(tmp_path / "layout", tmp_path / "oci.tar")
    built.archive(tmp_path / "docker.tar", names=["example.com/team/app:v1", "busybox:9"])
    script = "cat /etc/passwd | grep -c app"  # this machine has no such user

    async def main():
        async with process_world() as world:
            for number, image in enumerate(
                (
                    f"oci:{tmp_path}/layout:v1",
                    f"oci-archive:{tmp_path}/oci.tar",
                    f"docker-archive:{tmp_path}/docker.tar:example.com/team/app:v1",
                )
            ):
                await world.pod(f"p{number}", script, container={"image": image})
                assert await world.output(f"p{number}") == "1\n"
            store = world.agent._process.pods.images.store
            await asyncio.to_thread(load, store, str(tmp_path / "docker.tar"))
            for number, image in enumerate(("example.com/team/app:v1", "busybox:9")):
                container = {"image": image, "imagePullPolicy": "Always"}  # no registry to ask
                await world.pod(f"n{number}", script, container=container)
                assert await world.output(f"n{number}") == "1\n"
            status = (await world.get("n0"))["status"]["containerStatuses"][0]
            assert status["imageID"].startswith("example.com/team/app@sha256:")
            # Another tag of that name is still this machine's own.
            await world.pod("stand-in", "test -e /work || ls / | wc -l >/dev/null; echo mine")
            assert await world.output("stand-in") == "mine\n"
            await with_class(world, "process")
            await world.pod(
                "forced", script, container={"image": "busybox:9"}, runtimeClassName="by-process"
            )
            assert await world.output("forced") == "0\n"

            async def shown():
                node = await world.client.get(NODES, "node-1")
                names = [n for i in node["status"].get("images") or () for n in i["names"]]
                return "busybox:9" in names and f"oci:{tmp_path}/layout:v1" in names

            await world.until(shown, "the node lists its images")

    run(main())


def test_a_mapping_of_the_cluster_file_comes_before_a_loaded_image(tmp_path, needs_root):
    busybox().archive(tmp_path / "a.tar", names=["busybox:9"])

    async def main():
        mine = ImageConfig("busybox", cmd=("sh",), env={"MAPPED": "yes"})
        async with process_world(images=(mine,)) as world:
            store = world.agent._process.pods.images.store
            await asyncio.to_thread(load, store, str(tmp_path / "a.tar"))
            await world.pod("p", "echo $MAPPED", container={"image": "busybox:9"})
            assert await world.output("p") == "yes\n"

    run(main())


def test_an_image_built_again_at_its_path_is_taken_again(tmp_path, needs_root):
    async def main():
        async with process_world() as world:
            for text in ("first", "second"):
                busybox(None, layer(entry("text", text.encode()))).layout(tmp_path / "image")
                await world.pod(text, "cat /text", container={"image": f"oci:{tmp_path}/image"})
                assert await world.output(text) == f"{text}\n"
            shutil.rmtree(tmp_path / "image")  # the store has it
            await world.pod("third", "cat /text", container={"image": f"oci:{tmp_path}/image"})
            assert await world.output("third") == "second\n"

    run(main())


def test_images_that_cannot_be_had_wait_with_kubelets_reasons(tmp_path, needs_root):
    (tmp_path / "empty").mkdir()
    busybox({"User": "ghost"}).layout(tmp_path / "ghost")
    Built([layer(link("proc", "/etc"), folder("bin"))], {"Cmd": ["/x"]}).layout(tmp_path / "link")
    Built([layer(folder("bin"))]).layout(tmp_path / "nothing")
    Built([layer(entry("../x"))], {"Cmd": ["x"]}).layout(tmp_path / "hostile")

    async def main():
        async with process_world() as world:
            never = {"imagePullPolicy": "Never"}
            for name, image, more, reason, text in (
                ("gone", f"oci:{tmp_path}/no", {}, "ErrImagePull", "no such file"),
                ("empty", f"oci:{tmp_path}/empty", {}, "ErrImagePull", "is no image"),
                ("never", f"oci:{tmp_path}/ghost", never, "ErrImageNeverPull", "policy of Never"),
                ("name", "oci:relative", {}, "InvalidImageName", "takes an absolute path"),
                ("ghost", f"oci:{tmp_path}/ghost", {}, "CreateContainerError", "find user ghost"),
                ("hostile", f"oci:{tmp_path}/hostile", {}, "ErrImagePull", "leads out of the"),
            ):
                await world.pod(name, container={"image": image} | more)
                assert text in await world.waiting(name, reason), name
            assert "Back-off" in await world.waiting("gone", "ImagePullBackOff")
            await world.pod(
                "nothing", container={"image": f"oci:{tmp_path}/nothing", "command": None}
            )
            message = await world.waiting("nothing", "CreateContainerConfigError")
            assert message == "no command specified"
            await world.pod("link", container={"image": f"oci:{tmp_path}/link", "command": None})
            pod = await world.phase("link", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert "/proc of the image is no directory" in ended["message"]

    run(main())


def test_unknown_handlers_are_told_in_the_runtimes_words(tmp_path, needs_root):
    async def main():
        async with process_world() as world:
            await with_class(world, "gvisor")
            await world.pod("p", runtimeClassName="by-gvisor")
            text = await world.event("p", "FailedCreatePodSandBox")
            assert text.startswith(
                "Failed to create pod sandbox: failed to get sandbox runtime: "
                'no runtime for "gvisor" is configured'
            )

    run(main())


def test_without_mount_namespaces_images_are_refused_plainly(tmp_path):
    Built([layer(folder("bin"))], {"Cmd": ["/x"]}).layout(tmp_path / "image")

    async def main():
        async with process_world(isolation.PLAIN) as world:
            await world.pod("p", container={"image": f"oci:{tmp_path}/image"})
            text = await world.waiting("p", "CreateContainerError")
            assert "allows no mount namespaces" in text
            missing = world.agent.isolation().missing
            assert any("container images cannot be run" in line for line in missing)

    run(main())


def test_in_a_user_namespace_images_run_too(tmp_path):
    opaque = [folder("home"), entry("home/.wh..wh..opq"), entry("home/new")]
    busybox(None, layer(entry("etc/.wh.group"), *opaque)).layout(tmp_path / "image")

    async def main():
        try:
            async with process_world(isolation.USER_NAMESPACE) as world:
                await world.pod(
                    "p",
                    "ls /etc /home; touch /new; id -u",
                    container={"image": f"oci:{tmp_path}/image"},
                )
                output = (await world.output("p")).split()
                etc = ["/etc:", "hostname", "hosts", "passwd", "resolv.conf"]
                assert output == [*etc, "/home:", "new", "0"]
                refusals = world.agent.isolation().missing
                assert any("takes root" in line or "not installed" in line for line in refusals)
        except StartError as error:
            pytest.skip(f"needs user namespaces: {error}")

    run(main())


def test_status_says_which_handlers_there_are(needs_root):
    async def main():
        async with process_world() as world:
            report = json.dumps(world.agent.isolation().lines())
            assert "RuntimeClass handlers: process, namespaces" in report
            for name in ("crun", "runc"):
                assert name in report

    run(main())
