"""The HTTP client against a small scripted server on a real socket."""

import asyncio
import json

import pytest
import yaml

from kubarium.api.kinds import DEPLOYMENTS, JOBS, NODES, PODS
from kubarium.api.logs import LogOptions
from kubarium.base.errors import ApiError, ConfigError
from kubarium.client.discovery import find_resource
from kubarium.client.gather import gather
from kubarium.client.http import HttpClient
from kubarium.client.protocol import Client


def kubeconfig(folder, server, **user):
    path = folder / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "secret"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}
        ],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


class Server:
    """Answers each request with the next scripted (status, body chunks); records requests."""

    def __init__(self, answers):
        self.answers = answers
        self.requests = []

    async def handle(self, reader, writer):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = 0
            for line in head.split("\r\n"):
                if line.lower().startswith("content-length:"):
                    length = int(line.split(":")[1])
            body = await reader.readexactly(length)
            method, target, _ = head.split("\r\n")[0].split(" ")
            self.requests.append((method, target, head, json.loads(body) if body else None))
            status, chunks = self.answers(method, target)
            writer.write(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            async for chunk in chunks:
                writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")


async def whole(document):
    yield document if isinstance(document, bytes) else json.dumps(document).encode()


def against(tmp_path, answers, use):
    """Run ``use(client, server)`` with a client of a scripted server."""

    async def main():
        server = Server(answers)
        handlers = []

        async def handle(reader, writer):
            handlers.append(asyncio.current_task())
            try:
                await server.handle(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        path = kubeconfig(tmp_path, f"http://127.0.0.1:{port}")
        async with HttpClient.from_kubeconfig(path) as client:
            result = await use(client, server)
        listener.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers)
        return result

    return asyncio.run(main())


def test_is_a_client():
    def check(client: HttpClient) -> Client:
        return client

    assert check


def test_verbs_use_the_documented_paths_and_parameters(tmp_path):
    async def use(client, server):
        await client.get(PODS, "a", "ns")
        await client.get(NODES, "n")
        await client.list(JOBS, label_selector="a=b", limit=5)
        await client.create(PODS, {"x": 1}, "ns", name="a", subresource="binding", dry_run=True)
        await client.update(DEPLOYMENTS, {"metadata": {"name": "d", "namespace": "ns"}})
        await client.patch(PODS, "a", {"y": 2}, "ns", subresource="status", field_manager="me")
        await client.delete(PODS, "a", "ns", grace_period_s=0, uid="u", propagation_policy="Orphan")
        return server.requests

    requests = against(tmp_path, lambda *_: (200, whole({"items": []})), use)
    assert [(method, target) for method, target, _, _ in requests] == [
        ("GET", "/api/v1/namespaces/ns/pods/a"),
        ("GET", "/api/v1/nodes/n"),
        ("GET", "/apis/batch/v1/jobs?labelSelector=a%3Db&limit=5"),
        ("POST", "/api/v1/namespaces/ns/pods/a/binding?dryRun=All"),
        ("PUT", "/apis/apps/v1/namespaces/ns/deployments/d"),
        ("PATCH", "/api/v1/namespaces/ns/pods/a/status?fieldManager=me"),
        ("DELETE", "/api/v1/namespaces/ns/pods/a"),
    ]
    assert requests[6][3] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Orphan",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
    }
    assert "application/merge-patch+json" in requests[5][2]
    assert all("authorization: bearer secret" in head.lower() for _, _, head, _ in requests)


def test_list_items_get_their_kind(tmp_path):
    async def use(client, server):
        return await client.list(PODS)

    answer = {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}
    result = against(tmp_path, lambda *_: (200, whole(answer)), use)
    assert result.items[0]["kind"] == "Pod"
    assert result.resource_version == "7"


def test_a_status_becomes_its_error(tmp_path):
    async def use(client, server):
        with pytest.raises(ApiError) as caught:
            await client.get(PODS, "a", "ns")
        return caught.value

    status = {"kind": "Status", "code": 404, "reason": "NotFound", "message": 'pods "a" not found'}
    error = against(tmp_path, lambda *_: (404, whole(status)), use)
    assert (error.code, error.reason, str(error)) == (404, "NotFound", 'pods "a" not found')


def test_an_answer_that_is_not_json_is_a_clear_error(tmp_path):
    async def use(client, server):
        with pytest.raises(ApiError, match="is this a Kubernetes API server"):
            await client.get(PODS, "a", "ns")

    against(tmp_path, lambda *_: (200, whole(b"<html>hello</html>")), use)


def test_watch_lines_split_across_chunks_are_joined(tmp_path):
    lines = [
        json.dumps({"type": "ADDED", "object": {"metadata": {"name": name}}}).encode() + b"\n"
        for name in "abc"
    ]
    stream = b"".join(lines)

    async def chunks():
        for start in range(0, len(stream), 7):
            yield stream[start : start + 7]

    async def use(client, server):
        watch = await client.watch(PODS, resource_version="5", allow_bookmarks=True)
        events = []
        while batch := await watch.next_batch():
            events += batch
        watch.close()
        return events, server.requests[0][1]

    events, target = against(tmp_path, lambda *_: (200, chunks()), use)
    assert [event.object["metadata"]["name"] for event in events] == ["a", "b", "c"]
    assert target == "/api/v1/pods?watch=1&resourceVersion=5&allowWatchBookmarks=true"


def test_closing_a_watch_wakes_its_reader(tmp_path):
    async def silent():
        await asyncio.Event().wait()
        yield b""

    async def use(client, server):
        watch = await client.watch(PODS)
        reader = asyncio.create_task(watch.next_batch())
        await asyncio.sleep(0.01)
        watch.close()
        assert await asyncio.wait_for(reader, 5) == []

    against(tmp_path, lambda *_: (200, silent()), use)


def test_logs_stream_as_they_come(tmp_path):
    async def chunks():
        yield b"one\n"
        yield b"two\n"

    async def use(client, server):
        options = LogOptions(container="c", follow=True, tail_lines=3)
        parts = [part async for part in client.logs("ns", "a", options)]
        return b"".join(parts), server.requests[0][1]

    text, target = against(tmp_path, lambda *_: (200, chunks()), use)
    assert text == b"one\ntwo\n"
    assert target == "/api/v1/namespaces/ns/pods/a/log?container=c&follow=true&tailLines=3"


def test_an_unreachable_server_is_named(tmp_path):
    async def main():
        path = kubeconfig(tmp_path, "http://127.0.0.1:9")
        async with HttpClient.from_kubeconfig(path) as client:
            with pytest.raises(ApiError) as caught:
                await client.raw("/version")
            return caught.value

    error = asyncio.run(main())
    assert error.code == 503
    assert "http://127.0.0.1:9" in error.message
    assert "kubarium status" in error.message


def test_gather_gives_nothing_for_a_missing_crd(tmp_path):
    def answers(method, target):
        if "batch" in target:
            return 404, whole({"kind": "Status", "code": 404, "reason": "NotFound"})
        return 200, whole({"metadata": {}, "items": [{"metadata": {"name": "a"}}]})

    async def use(client, server):
        return await gather(client, [PODS, JOBS])

    found = against(tmp_path, answers, use)
    assert [pod["metadata"]["name"] for pod in found[PODS]] == ["a"]
    assert found[JOBS] == []


LEGACY = {
    "/api": {"versions": ["v1"]},
    "/apis": {"groups": [{"versions": [{"groupVersion": "apps/v1"}]}]},
    "/api/v1": {
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "kind": "Pod", "namespaced": True, "shortNames": ["po"]},
            {"name": "pods/log", "kind": "Pod", "namespaced": True},
        ],
    },
    "/apis/apps/v1": {
        "groupVersion": "apps/v1",
        "resources": [{"name": "deployments", "kind": "Deployment", "namespaced": True}],
    },
}
AGGREGATED = {
    "/api": {
        "kind": "APIGroupDiscoveryList",
        "items": [
            {
                "metadata": {},
                "versions": [
                    {
                        "version": "v1",
                        "resources": [
                            {
                                "resource": "pods",
                                "responseKind": {"kind": "Pod"},
                                "scope": "Namespaced",
                                "shortNames": ["po"],
                                "subresources": [{"subresource": "log"}],
                            }
                        ],
                    }
                ],
            }
        ],
    },
    "/apis": {
        "kind": "APIGroupDiscoveryList",
        "items": [
            {
                "metadata": {"name": "apps"},
                "versions": [
                    {
                        "version": "v1",
                        "resources": [
                            {
                                "resource": "deployments",
                                "responseKind": {"kind": "Deployment"},
                                "scope": "Namespaced",
                            }
                        ],
                    }
                ],
            }
        ],
    },
}


@pytest.mark.parametrize("documents", [LEGACY, AGGREGATED], ids=["legacy", "aggregated"])
def test_discovery_finds_resources_by_any_of_their_names(tmp_path, documents):
    async def use(client, server):
        return await client.discover()

    served = against(tmp_path, lambda _, target: (200, whole(documents[target])), use)
    for text in ("po", "pods", "pod", "Pod", "pods.v1."):
        entry = find_resource(served, text)
        assert entry is not None, text
        assert entry.resource == PODS
        assert entry.subresources == ("log",)
    for text in ("deployment", "deployments.apps", "deployment.v1.apps", "Deployment"):
        entry = find_resource(served, text)
        assert entry is not None, text
        assert entry.resource == DEPLOYMENTS
    assert find_resource(served, "deployments.batch") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; `kubarium up`"),
        ("{", "is not YAML"),
        ("[]", "must be a mapping"),
        ("contexts: [{}]", "every item of contexts needs a name"),
        ("{}", "no current context"),
        ("current-context: x", "there is no context 'x'"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y}}]}",
            "names cluster 'y', which is not in clusters",
        ),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y}}],"
            " clusters: [{name: y, cluster: {}}]}",
            "cluster 'y' has no server",
        ),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: y, user: u}}],"
            " clusters: [{name: y, cluster: {server: 'https://localhost',"
            " certificate-authority-data: '!!'}}], users: [{name: u, user: {}}]}",
            "the credentials cannot be used",
        ),
    ],
)
def test_bad_kubeconfigs_are_explained(tmp_path, text, message):
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        HttpClient.from_kubeconfig(str(path))


def test_kubeconfig_variable_names_several_files(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("{current-context: x, contexts: [{name: x, context: {cluster: y}}]}")
    second.write_text("{current-context: z, clusters: [{name: y, cluster: {server: 'http://s'}}]}")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'absent'}:{second}")
    client = HttpClient.from_kubeconfig()
    assert (client.context, client.server, client.namespace) == ("x", "http://s", "default")
    asyncio.run(client.aclose())
