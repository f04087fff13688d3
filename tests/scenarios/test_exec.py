"""Into running pods, over HTTPS: exec, attach, copy and port-forward, raw and with kubectl."""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import struct
from contextlib import asynccontextmanager

import pytest

from kubarium.api.kinds import PODS
from kubarium.base.chance import Chance
from kubarium.cluster.clock import RealClock
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import default_cluster
from kubarium.server.pki import Authority

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PATH = "/api/v1/namespaces/default/pods"


def pod(name, *command, **container):
    entry = {"name": "main", "image": "busybox", "command": list(command), **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "containers": [entry],
        },
    }


class Socket:
    """A WebSocket client, as small as can be."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, channel, data=b""):
        body = bytes([channel]) + data
        head = b"\x82" + bytes([0x80 | 126]) + struct.pack("!H", len(body)) + bytes(4)
        self.writer.write(head + body)
        await self.writer.drain()

    async def receive(self):
        """(channel, data); None at the end."""
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = struct.unpack("!H", await self.reader.readexactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
        data = await self.reader.readexactly(size)
        return None if first & 0x0F == 8 else (data[0], data[1:])

    async def everything(self):
        """Output by channel, and the last status."""
        found = {}
        while (message := await self.receive()) is not None:
            channel, data = message
            found[channel] = found.get(channel, b"") + data
        return found, json.loads(found.get(3) or b"{}")


class Live:
    """A served cluster with real processes and an administrator's connection."""

    def __init__(self, cluster, access, folder):
        self.cluster, self.access, self.folder = cluster, access, folder
        self.writers = []

    async def close(self):
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def start(self, document):
        await self.cluster.client.create(PODS, document, "default")
        name = document["metadata"]["name"]
        for _ in range(1000):
            found = await self.cluster.client.get(PODS, name, "default")
            if found.get("status", {}).get("phase") == "Running":
                return
            await asyncio.sleep(0.01)
        raise AssertionError(found["status"])

    async def ask(self, target, protocol="v5.channel.k8s.io", **headers):
        """(status line, headers and body, socket)."""
        context = ssl.create_default_context(cafile=str(self.access.authority.ca_path))
        pair = self.access.authority.client("admin", ["system:masters"])
        context.load_cert_chain(pair.certificate_path, pair.key_path)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.access.port, ssl=context)
        self.writers.append(writer)
        wanted = {
            "Host": "x",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Protocol": protocol,
        } | headers
        lines = [f"GET {target} HTTP/1.1", *(f"{k}: {v}" for k, v in wanted.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split()[1])
        body = b""
        if status != 101:
            length = next(
                int(line.split(":")[1])
                for line in head.lower().split("\r\n")
                if line.startswith("content-length")
            )
            body = await reader.readexactly(length)
        return status, head.lower(), body, Socket(reader, writer)

    async def run(self, name, *command, query="stdout=true&stderr=true"):
        words = "&".join(f"command={word}" for word in command)
        status, _, body, socket = await self.ask(f"{PATH}/{name}/exec?{query}&{words}")
        assert status == 101, body
        return socket


@asynccontextmanager
async def live(tmp_path):
    clock = RealClock()
    authority = Authority.open(tmp_path / "pki", clock)
    cluster = EmbeddedCluster(
        default_cluster(nodes=1), clock, Chance(1), None, tmp_path / "nodes", authority
    )
    async with cluster.serving() as access:
        world = Live(cluster, access, tmp_path)
        try:
            yield world
        finally:
            await world.close()


def story(tmp_path, tell):
    async def main():
        async with live(tmp_path) as world:
            await tell(world)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_command_s_output_and_exit_code_come_on_their_channels(tmp_path):
    async def tell(world):
        await world.start(pod("p", "sleep", "1000"))
        script = "echo%20out;echo%20err%3E%262;exit%203"
        socket = await world.run("p", "sh", "-c", script)
        found, status = await socket.everything()
        assert (found[1], found[2]) == (b"out\n", b"err\n")
        assert status["status"] == "Failure"
        assert status["reason"] == "NonZeroExitCode"
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        _, status = await (await world.run("p", "true")).everything()
        assert status == {"metadata": {}, "status": "Success"}
        _, status = await (await world.run("p", "nosuch")).everything()
        assert status["reason"] == "InternalError"
        assert 'exec: "nosuch": executable file not found in $PATH' in status["message"]

    story(tmp_path, tell)


def test_standard_input_ends_when_its_channel_is_closed(tmp_path):
    async def tell(world):
        await world.start(pod("p", "sleep", "1000"))
        query = "stdin=true&stdout=true"
        socket = await world.run("p", "cat", query=query)
        await socket.send(0, b"hello ")
        await socket.send(0, b"there")
        await socket.send(255, bytes([0]))
        found, status = await socket.everything()
        assert found[1] == b"hello there"
        assert status["status"] == "Success"

    story(tmp_path, tell)


def test_a_terminal_has_a_size_and_is_hung_up_with_its_client(tmp_path):
    async def tell(world):
        await world.start(pod("p", "sleep", "1000"))
        query = "stdin=true&stdout=true&tty=true"
        socket = await world.run("p", "sh", query=query)
        await socket.send(4, b'{"Width": 132, "Height": 43}')
        await socket.send(4, b"nonsense")
        await socket.send(0, b"stty size; echo ready; sleep 4321.5\n")
        seen = b""
        while b"\nready" not in seen.replace(b"\r", b""):
            message = await socket.receive()
            seen += message[1]
        assert b"43 132" in seen
        socket.writer.close()
        for _ in range(500):
            left = await world.cluster.agents[0].open_session(
                "default", "p", _options("pgrep", "-f", "sleep 4321.5")
            )
            code = (await left.outcome()).code
            left.close()
            if code == 1:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the command outlived its terminal")

    if shutil.which("pgrep") is None:
        pytest.skip("needs pgrep")
    story(tmp_path, tell)


def _options(*command):
    from kubarium.api.streams import StreamOptions

    return StreamOptions("main", command, stdout=True)


def test_attaching_shows_output_from_now_on_and_gives_input(tmp_path):
    async def tell(world):
        loop = "while read line; do echo got $line; done"
        await world.start(pod("p", "sh", "-c", loop, stdin=True))
        target = f"{PATH}/p/attach?stdin=true&stdout=true"
        _, _, _, first = await world.ask(target)
        _, _, _, second = await world.ask(f"{PATH}/p/attach?stdout=true", "v4.channel.k8s.io")
        assert await first.receive() == (1, b"")
        assert await second.receive() == (1, b"")
        await asyncio.sleep(0.2)
        await first.send(0, b"one\n")
        assert await first.receive() == (1, b"got one\n")
        assert await second.receive() == (1, b"got one\n")

    story(tmp_path, tell)


def test_what_cannot_be_served_is_refused_before_the_upgrade(tmp_path):
    async def tell(world):
        await world.start(pod("p", "sleep", "1000"))

        async def refusal(target, *protocol, **headers):
            status, _, body, _ = await world.ask(target, *protocol, **headers)
            return status, json.loads(body)["message"]

        exec_p = f"{PATH}/p/exec?stdout=true"
        assert await refusal(f"{PATH}/absent/exec?stdout=true&command=ls") == (
            404,
            'pods "absent" not found',
        )
        assert (await refusal(f"{exec_p}&command=ls&container=no"))[0] == 400
        assert "at least one command" in (await refusal(exec_p))[1]
        assert "stdin, stdout, stderr" in (await refusal(f"{PATH}/p/exec?command=ls"))[1]
        status, message = await refusal(f"{exec_p}&command=ls", "v1.weird.example")
        assert status == 400
        assert "v5.channel.k8s.io" in message
        assert (await refusal("/api/v1/pods", "v5.channel.k8s.io"))[0] == 400
        spdy = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v1.channel.k8s.io"}
        status, message = await refusal(f"{exec_p}&command=ls", **spdy)
        assert status == 400
        assert "v4.channel.k8s.io" in message
        status, message = await refusal(f"{exec_p}&command=ls", Upgrade="h2c")
        assert status == 400
        assert "WebSocket and SPDY/3.1" in message
        bad = {"Sec-WebSocket-Key": "x"}
        assert (await refusal(f"{exec_p}&command=ls", **bad))[0] == 400

    story(tmp_path, tell)


def test_logs_come_over_websocket_too(tmp_path):
    async def tell(world):
        await world.start(pod("p", "sh", "-c", "echo hello; sleep 1000"))
        await asyncio.sleep(0.3)
        _, _, _, socket = await world.ask(f"{PATH}/p/log", "binary.k8s.io")
        message = await socket.receive()
        assert bytes([message[0]]) + message[1] == b"hello\n"

    story(tmp_path, tell)


@pytest.mark.kubectl
@pytest.mark.parametrize("protocol", ["WebSocket", "SPDY"])
def test_kubectl_runs_copies_and_forwards(tmp_path, protocol):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl")

    async def tell(world):
        config = tmp_path / "kubeconfig"
        pair = world.access.authority.client("admin", ["system:masters"])
        settings = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "k",
                    "cluster": {
                        "server": f"https://127.0.0.1:{world.access.port}",
                        "certificate-authority": str(world.access.authority.ca_path),
                    },
                }
            ],
            "users": [
                {
                    "name": "u",
                    "user": {
                        "client-certificate": str(pair.certificate_path),
                        "client-key": str(pair.key_path),
                    },
                }
            ],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "current-context": "c",
        }
        config.write_text(json.dumps(settings))
        environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(tmp_path)}
        for feature in ("REMOTE_COMMAND", "PORT_FORWARD"):
            switch = f"KUBECTL_{feature}_WEBSOCKETS"
            environment[switch] = "true" if protocol == "WebSocket" else "false"

        async def call(*words, stdin=b""):
            process = await asyncio.create_subprocess_exec(
                kubectl, *words, stdin=-1, stdout=-1, stderr=-1, env=environment
            )
            out, err = await process.communicate(stdin)
            return process.returncode, out, err

        serve = ["-m", "http.server", "18943", "--bind", "127.0.0.1"]
        await world.start(pod("p", "python3", *serve))
        code, out, err = await call("exec", "p", "--", "sh", "-c", "echo hi; exit 5")
        assert (code, out) == (5, b"hi\n"), err
        code, out, _ = await call("exec", "-i", "p", "--", "wc", "-c", stdin=b"x" * 300_000)
        assert (code, out.strip()) == (0, b"300000")
        blob = tmp_path / "blob"
        blob.write_bytes(os.urandom(1_000_000))
        assert (await call("cp", str(blob), "p:/tmp/blob"))[0] == 0
        assert (await call("cp", "p:/tmp/blob", str(tmp_path / "back")))[0] == 0
        assert (tmp_path / "back").read_bytes() == blob.read_bytes()
        await _forward(kubectl, environment)

    story(tmp_path, tell)


async def _forward(kubectl, environment):
    process = await asyncio.create_subprocess_exec(
        kubectl, "port-forward", "pod/p", ":18943", stdout=-1, stderr=-1, env=environment
    )
    try:
        line = (await process.stdout.readline()).decode()
        port = int(line.split("127.0.0.1:")[1].split()[0])
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert b"200 OK" in await reader.read(100_000)
            writer.close()
    finally:
        process.kill()
        await process.communicate()
