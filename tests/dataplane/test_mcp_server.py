"""The MCP tools, asked in memory through the SDK's own client, over an API server in memory."""

import asyncio
import json
import os
import sys

import pytest
from mcp import Client, StdioServerParameters

from kubarium.api.catalog import Catalog
from kubarium.api.crds.definition import bundled
from kubarium.api.kinds import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
)
from kubarium.base.chance import Chance
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, not_found
from kubarium.dataplane.mcp_server import build_server
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import User
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore

NOW = 1_800_000_000.0


class SetClock:
    time = NOW

    def now(self):
        return self.time

    def monotonic(self):
        return self.time

    async def sleep(self, seconds):
        await asyncio.sleep(0)


class ClientWithLogs:
    """A local client whose pods have each written ``log``."""

    def __init__(self, client, log):
        self._client = client
        self._log = log
        self.asked = []

    def __getattr__(self, verb):
        return getattr(self._client, verb)

    async def logs(self, namespace, name, options=None):
        self.asked.append((namespace, name, options))
        if name == "ghost":
            raise not_found("pods", "", name)
        lines = self._log.splitlines(keepends=True)
        for line in lines[-options.tail_lines :]:
            yield line.encode()


def pod(name, **labels):
    container = {"name": "main", "image": "busybox", "command": ["sleep", "1"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container]},
    }


def event(number, about="web-0", type_="Normal"):
    stamp = rfc3339(NOW - 1000 + number)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.{number}", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": about, "namespace": "default"},
        "type": type_,
        "reason": f"Reason{number}",
        "message": f"message {number}",
        "lastTimestamp": stamp,
        "count": 1,
    }


async def populate(client):
    for name in ("default", "other"):
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        try:
            await client.create(NAMESPACES, document)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
    for definition in bundled():
        if definition["metadata"]["name"] == "workloads.kueue.x-k8s.io":
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    await client.create(NODES, node)
    for number in range(5):
        await client.create(PODS, pod(f"web-{number}", app="web"), "default")
    await client.create(PODS, pod("db", app="db"), "other")
    secret = {"metadata": {"name": "keys"}, "data": {"password": "aHVudGVyMg=="}}
    await client.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", **secret}, "default")
    config = {"metadata": {"name": "big"}, "data": {"a.txt": "word " * 10_000, "b": "small"}}
    await client.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", **config}, "default")
    for number in range(8):
        await client.create(EVENTS, event(number), "default")
    await client.create(EVENTS, event(8, "db", "Warning"), "default")


def ask(*calls, log="", with_logs=True):
    """The results of tool calls (name, arguments) on a populated cluster."""

    async def scenario():
        server = ApiServer(MemoryStore(), Catalog.builtin(), SetClock(), Chance(1))
        local = LocalClient(server, User("root", groups=("system:masters",)))
        await populate(local)
        client = ClientWithLogs(local, log) if with_logs else local
        async with Client(build_server(client, SetClock())) as session:
            if not calls:
                return (await session.list_tools()).tools
            return [await session.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(scenario())


def answer(tool, /, log="", **arguments):
    (result,) = ask((tool, arguments), log=log)
    assert not result.is_error, result.content[0].text
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


def refusal(tool, /, **arguments):
    (result,) = ask((tool, arguments))
    assert result.is_error
    return result.content[0].text


def test_tools_are_read_only_and_described():
    tools = {tool.name: tool for tool in ask()}
    assert set(tools) == {"list", "get", "describe", "logs", "events", "why"}
    for tool in tools.values():
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        assert tool.description
        assert tool.input_schema["type"] == tool.output_schema["type"] == "object"
    assert len(json.dumps([tool.model_dump(mode="json") for tool in tools.values()])) < 14_000


def test_without_logs_there_is_no_such_tool():
    async def names():
        server = ApiServer(MemoryStore(), Catalog.builtin(), SetClock(), Chance(1))
        client = LocalClient(server, User("root", groups=("system:masters",)))
        async with Client(build_server(client, SetClock())) as session:
            return {tool.name for tool in (await session.list_tools()).tools}

    assert "logs" not in asyncio.run(names())


def test_list_shows_kubectls_columns_and_pages():
    first = answer("list", kind="po", namespace="default", limit=3)
    assert first["resource"] == "pods/v1"
    assert first["columns"] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert [row[0] for row in first["rows"]] == ["web-0", "web-1", "web-2"]
    assert first["remaining"] == 2
    assert first["continue_token"]


def test_the_next_page_continues():
    async def scenario():
        server = ApiServer(MemoryStore(), Catalog.builtin(), SetClock(), Chance(1))
        local = LocalClient(server, User("root", groups=("system:masters",)))
        await populate(local)
        names, token = [], ""
        async with Client(build_server(local, SetClock())) as session:
            for _ in range(5):
                arguments = {"kind": "pod", "limit": 2, "continue_token": token}
                result = (await session.call_tool("list", arguments)).structured_content
                names += [tuple(row[:2]) for row in result["rows"]]
                token = result["continue_token"]
                if not token:
                    return names
        raise AssertionError("the list does not end")

    expected = [("default", f"web-{number}") for number in range(5)]
    assert asyncio.run(scenario()) == [*expected, ("other", "db")]


def test_list_takes_selectors_and_cluster_scoped_kinds():
    assert [row[0] for row in answer("list", kind="nodes", namespace="x")["rows"]] == ["n1"]
    rows = answer("list", kind="pods", label_selector="app=db")["rows"]
    assert [row[:2] for row in rows] == [["other", "db"]]
    assert answer("list", kind="deployments")["note"] == "nothing found"


def test_a_kind_that_two_groups_have_is_pointed_out():
    found = answer("list", kind="workloads")
    groups = {"workloads.scheduling.k8s.io", "workloads.kueue.x-k8s.io"}
    assert found["resource"].partition("/")[0] in groups
    assert groups - {found["resource"].partition("/")[0]} == {found["note"].rpartition(" ")[2]}


def test_get_shows_the_object_and_parts_of_it():
    whole = answer("get", kind="pod", name="web-0")
    assert whole["object"] == "pod/web-0 in namespace default"
    assert "managedFields" not in whole["value"]["metadata"]
    part = answer("get", kind="pod", name="web-0", path="spec.containers[0].image")
    assert part["value"] == "busybox"


def test_get_cuts_what_is_large_and_pages_it():
    whole = answer("get", kind="cm", name="big")
    assert whole["value"]["data"]["b"] == "small"
    assert 'ask with path=data["a.txt"] offset=' in whole["value"]["data"]["a.txt"]
    assert len(json.dumps(whole)) < 10_000
    tail = answer("get", kind="cm", name="big", path='data["a.txt"]', offset=49_990)
    assert tail["value"] == "word word "


def test_secret_values_are_never_shown():
    calls = [
        ("get", {"kind": "secret", "name": "keys"}),
        ("get", {"kind": "secret", "name": "keys", "path": "data.password"}),
        ("describe", {"kind": "secret", "name": "keys"}),
        ("list", {"kind": "secrets"}),
    ]
    for result in ask(*calls):
        text = result.content[0].text
        assert not result.is_error
        assert "hunter2" not in text
        assert "aHVudGVyMg" not in text
    assert "<hidden" in ask(calls[1])[0].content[0].text


def test_describe_sums_up():
    found = answer("describe", kind="pod", name="web-0")
    assert found["summary"]["Name"] == "web-0"
    assert found["labels"] == {"app": "web"}
    assert found["containers"][0]["image"] == "busybox"
    assert [entry["reason"] for entry in found["events"][:2]] == ["Reason7", "Reason6"]
    assert len(json.dumps(found)) < 12_000


def test_events_come_newest_first_and_say_how_many_are_left():
    found = answer("events", namespace="default", limit=3)
    assert [entry["reason"] for entry in found["events"]] == ["Reason8", "Reason7", "Reason6"]
    assert found["note"].startswith("6 older ones are not shown")
    warnings = answer("events", type="Warning")
    assert [entry["object"] for entry in warnings["events"]] == ["pod/db"]
    one = answer("events", kind="pod", name="web-0", namespace="default")
    assert len(one["events"]) == 8
    assert "give kind and name together" in refusal("events", kind="pod")


def test_logs_give_the_last_lines_and_page_back():
    log = "".join(f"line {number}\n" for number in range(500))
    found = answer("logs", log=log, name="web-0", lines=10)
    assert found["text"].splitlines() == [f"line {number}" for number in range(490, 500)]
    assert "skip=10" in found["note"]
    older = answer("logs", log=log, name="web-0", lines=10, skip=10)
    assert older["text"].splitlines() == [f"line {number}" for number in range(480, 490)]
    end = answer("logs", log=log, name="web-0", lines=10, skip=495)
    assert end["text"].splitlines() == [f"line {number}" for number in range(5)]
    assert answer("logs", log="", name="web-0")["note"] == "no output"


def test_logs_are_bounded_in_lines_and_characters():
    log = "".join(f"{number} {'x' * 5000}\n" for number in range(100))
    found = answer("logs", log=log, name="web-0")
    assert len(found["text"]) < 13_000
    assert found["text"].splitlines()[-1].startswith("99 x")
    assert f"skip={found['lines']}" in found["note"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("get", {"kind": "pods", "name": "web-9"}, "similar names: web-"),
        ("get", {"kind": "pods", "name": "db"}, "it is in namespace other"),
        ("get", {"kind": "pods", "name": "zzz"}, "there are 5 others: see list"),
        ("get", {"kind": "pots", "name": "x"}, "did you mean pods"),
        ("get", {"kind": "pod", "name": "web-0", "path": "spec.x"}, "spec has no 'x'"),
        ("list", {"kind": "pods", "label_selector": "a=b=c"}, "found '=', expected"),
        ("list", {"kind": "pods", "limit": 0}, "limit"),
        ("list", {"kind": "pods", "continue_token": "junk"}, "continue"),
        ("logs", {"name": "ghost"}, 'pods "ghost" not found'),
        ("why", {"kind": "pod", "name": "nope"}, "not found"),
    ],
)
def test_mistakes_come_back_as_results_with_the_way_out(tool, arguments, message):
    assert message in refusal(tool, **arguments)


def test_why_explains_a_pod_that_waits():
    found = answer("why", kind="pod", name="web-0")
    assert found["answer"].strip()
    assert found["details"]


STDIO_SERVER = """
import asyncio, sys, time
from kubarium.api.catalog import Catalog
from kubarium.api.kinds import NAMESPACES
from kubarium.base.chance import Chance
from kubarium.dataplane.mcp_server import serve_stdio
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import User
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore

class Clock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)

async def main():
    server = ApiServer(MemoryStore(), Catalog.builtin(), Clock(), Chance(1))
    client = LocalClient(server, User("root", groups=("system:masters",)))
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace",
                                     "metadata": {"name": "over-stdio"}})
    await serve_stdio(client, Clock())

asyncio.run(main())
"""


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_served_over_stdio_to_clients_of_either_era(mode):
    async def scenario():
        parameters = StdioServerParameters(
            command=sys.executable, args=["-c", STDIO_SERVER], env=dict(os.environ)
        )
        async with Client(parameters, mode=mode) as session:
            result = await session.call_tool("list", {"kind": "ns"})
            return [row[0] for row in result.structured_content["rows"]]

    assert "over-stdio" in asyncio.run(scenario())
