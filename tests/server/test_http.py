"""The HTTP shell: statuses, forms, streams, limits, discovery."""

import asyncio
import logging
import struct

import orjson
import pytest
import yaml

from kubarium.api.kinds import CONFIG_MAPS, NODES, PODS, ROLE_BINDINGS, ROLES
from kubarium.server import http as http_module
from kubarium.server import limits

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def test_objects_live_and_die_over_http(http_world):
    async def story(w, http):
        made = await http("POST", MAPS, CONFIG_MAP)
        assert made.status == 201
        assert made.headers["content-type"] == "application/json"
        assert made.headers["audit-id"]
        document = made.json | {"data": {"x": "1"}}
        assert (await http("PUT", f"{MAPS}/a", document)).status == 200
        merge = {"content-type": "application/merge-patch+json"}
        patched = await http("PATCH", f"{MAPS}/a", {"data": {"y": "2"}}, merge)
        assert patched.json["data"] == {"x": "1", "y": "2"}
        managers = {entry["manager"] for entry in patched.json["metadata"]["managedFields"]}
        assert managers == {"pytest"}  # the program's name in the User-Agent
        page = (await http("GET", MAPS)).json
        assert (page["kind"], page["apiVersion"]) == ("ConfigMapList", "v1")
        assert [item["metadata"]["name"] for item in page["items"]] == ["a"]
        gone = await http("DELETE", f"{MAPS}/a")
        assert gone.status == 200
        assert gone.json["status"] == "Success"
        assert gone.json["details"]["kind"] == "configmaps"
        assert (await http("GET", f"{MAPS}/a")).status == 404

    http_world(story)


@pytest.mark.parametrize(
    ("selector", "status"),
    [
        ("metadata.name=a", 200),
        ("metadata.name%3D%3Da", 200),
        ("metadata.namespace=default,metadata.name=a", 200),
        ("metadata.name=b", 403),
        ("metadata.name!=a", 403),
        ("metadata.name=", 403),
        ("metadata.name=a/b", 403),
        ("", 403),
    ],
)
def test_who_may_read_one_object_may_list_and_watch_it_by_its_name(http_world, selector, status):
    """Informers of a single object: a right that names it counts, as upstream."""

    async def story(w, http):
        verbs = ["get", "list", "watch"]
        rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}
        await w.client.create(
            ROLES,
            {"metadata": {"name": "r"}, "rules": [rule | {"resourceNames": ["a"]}]},
            "default",
        )
        subject = {"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}
        binding = {"metadata": {"name": "r"}, "roleRef": role, "subjects": [subject]}
        await w.client.create(ROLE_BINDINGS, binding, "default")
        await http("POST", MAPS, CONFIG_MAP)
        eve = {"impersonate-user": "eve"}
        answer = await http("GET", f"{MAPS}?fieldSelector={selector}", headers=eve)
        assert answer.status == status, answer.body
        target = f"{MAPS}?fieldSelector={selector}&watch=1&timeoutSeconds=1"
        assert (await http("GET", target, headers=eve)).status == status

    http_world(story)


def test_yaml_goes_both_ways(http_world):
    async def story(w, http):
        headers = {"content-type": "application/yaml", "accept": "application/yaml"}
        made = await http("POST", MAPS, yaml.safe_dump(CONFIG_MAP).encode(), headers)
        assert made.status == 201
        assert made.headers["content-type"] == "application/yaml"
        assert yaml.safe_load(made.body)["metadata"]["name"] == "a"

    http_world(story)


def protobuf(number, value):
    data = value.encode() if isinstance(value, str) else value
    assert len(data) < 128
    return struct.pack("BB", number << 3 | 2, len(data)) + data


def test_protobuf_bodies_of_typed_clients_are_read(http_world):
    async def story(w, http):
        entry = protobuf(1, "key") + protobuf(2, "value")
        message = protobuf(1, protobuf(1, "a")) + protobuf(2, entry)
        type_meta = protobuf(1, "v1") + protobuf(2, "ConfigMap")
        body = b"k8s\x00" + protobuf(1, type_meta) + protobuf(2, message)
        headers = {
            "content-type": "application/vnd.kubernetes.protobuf",
            "accept": "application/vnd.kubernetes.protobuf,application/json",
        }
        made = await http("POST", MAPS, body, headers)
        assert made.status == 201, made.body
        assert made.headers["content-type"] == "application/json"
        assert made.json["data"] == {"key": "value"}

    http_world(story)


@pytest.mark.parametrize(
    ("validation", "status", "warning"),
    [
        ("Strict", 400, ""),
        ("Warn", 201, '299 - "unknown field \\"dtaa\\""'),
        ("", 201, '299 - "unknown field \\"dtaa\\""'),
        ("Ignore", 201, ""),
    ],
)
def test_unknown_fields_are_treated_as_asked(http_world, validation, status, warning):
    async def story(w, http):
        target = f"{MAPS}?fieldValidation={validation}" if validation else MAPS
        answer = await http("POST", target, CONFIG_MAP | {"dtaa": {"x": "1"}})
        assert answer.status == status
        assert answer.headers.get("warning", "") == warning
        if status == 201:
            assert "dtaa" not in answer.json
        else:
            assert 'strict decoding error: unknown field "dtaa"' in answer.json["message"]

    http_world(story)


def test_duplicate_fields_are_noticed(http_world):
    async def story(w, http):
        body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{},"data":{}}'
        answer = await http("POST", f"{MAPS}?fieldValidation=Strict", body)
        assert answer.status == 400
        assert 'duplicate field "data"' in answer.json["message"]

    http_world(story)


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "status"),
    [
        ("GET", "/api/v1/nothing", b"", {}, 404),
        ("GET", "/apis/none.example.com/v1/things", b"", {}, 404),
        ("GET", "/nothing", b"", {}, 404),
        ("GET", "/healthz/nothing", b"", {}, 404),
        ("GET", "/api/v1/pods/a", b"", {}, 404),
        ("GET", "/api/v1/namespaces/default/nodes", b"", {}, 404),
        ("GET", f"{MAPS}/a/status", b"", {}, 404),
        ("POST", "/api/v1/configmaps", CONFIG_MAP, {}, 405),
        ("PUT", MAPS, CONFIG_MAP, {}, 405),
        ("POST", f"{MAPS}/a", CONFIG_MAP, {}, 405),
        ("BREW", MAPS, b"", {}, 405),
        ("POST", "/version", b"", {}, 405),
        ("GET", MAPS, b"", {"accept": "text/html"}, 406),
        ("POST", MAPS, b"<x/>", {"content-type": "application/xml"}, 415),
        ("PATCH", f"{MAPS}/a", b"{}", {"content-type": "application/json"}, 415),
        ("POST", MAPS, b"{", {}, 400),
        ("POST", MAPS, b"[]", {}, 400),
        ("POST", MAPS, b"", {}, 400),
        ("POST", MAPS, CONFIG_MAP | {"kind": "Secret"}, {}, 400),
        ("POST", MAPS, CONFIG_MAP | {"metadata": []}, {}, 400),
        ("POST", MAPS, CONFIG_MAP | {"metadata": {"name": 5}}, {}, 400),
        ("POST", MAPS, CONFIG_MAP | {"metadata": {"name": "A_b"}}, {}, 422),
        ("GET", f"{MAPS}?limit=many", b"", {}, 400),
        ("GET", f"{MAPS}?limit=-1", b"", {}, 400),
        ("GET", f"{MAPS}?continue=x", b"", {}, 400),
        ("GET", f"{MAPS}?labelSelector=((", b"", {}, 400),
        ("GET", f"{MAPS}?resourceVersion=x", b"", {}, 400),
        ("GET", f"{MAPS}?watch=1&sendInitialEvents=true", b"", {}, 422),
        ("POST", f"{MAPS}?dryRun=Some", CONFIG_MAP, {}, 422),
        ("DELETE", f"{MAPS}/a?propagationPolicy=Up", b"", {}, 422),
        ("DELETE", f"{MAPS}/absent?propagationPolicy=Up", b"", {}, 422),
        ("DELETE", f"{MAPS}?propagationPolicy=Up", b"", {}, 422),
        ("GET", f"{MAPS}?sendInitialEvents=true", b"", {}, 422),
        ("DELETE", f"{MAPS}/a", b"nonsense", {}, 400),
        ("DELETE", f"{MAPS}/a", {"kind": "Pod"}, {}, 400),
        ("GET", "/api/v1/namespaces/default/pods/none/log", b"", {}, 404),
    ],
)
def test_what_cannot_be_done_is_a_status_that_says_so(
    http_world, method, target, body, headers, status
):
    async def story(w, http):
        answer = await http(method, target, body, headers)
        assert answer.status == status, answer.body
        document = answer.json
        assert document["kind"] == "Status"
        assert document["code"] == status
        assert document["message"]
        assert document["status"] == "Failure"

    http_world(story)


def test_apply_needs_a_manager_and_creates(http_world):
    async def story(w, http):
        headers = {"content-type": "application/apply-patch+yaml"}
        body = yaml.safe_dump(CONFIG_MAP).encode()
        answer = await http("PATCH", f"{MAPS}/a", body, headers)
        assert answer.status == 422
        assert "fieldManager" in answer.json["message"]
        answer = await http("PATCH", f"{MAPS}/a?fieldManager=me", body, headers)
        assert answer.status == 201
        answer = await http("PATCH", f"{MAPS}/a?fieldManager=me&force=true", body, headers)
        assert answer.status == 200
        merge = {"content-type": "application/merge-patch+json"}
        answer = await http("PATCH", f"{MAPS}/a?force=true", b"{}", merge)
        assert answer.status == 422

    http_world(story)


def test_large_bodies_are_refused_before_they_are_read(http_world):
    async def story(w, http):
        size = {"content-length": str(limits.MAX_BODY_BYTES + 1)}
        answer = await http("POST", MAPS, b"{}", size)
        assert (answer.status, answer.json["reason"]) == (413, "RequestEntityTooLarge")
        chunk = b" " * (1024 * 1024)
        answer = await http("POST", MAPS, chunks=[chunk, chunk, chunk + b" ", b"{}"])
        assert answer.status == 413

    http_world(story)


def test_tables_have_the_columns_of_the_kind(http_world):
    async def story(w, http):
        await w.pod("web")
        table = (await http("GET", "/api/v1/namespaces/default/pods", headers=TABLE)).json
        assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
        names = [column["name"] for column in table["columnDefinitions"]]
        assert names[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
        (row,) = table["rows"]
        assert row["cells"][:3] == ["web", "0/1", "Pending"]
        assert row["object"]["kind"] == "PartialObjectMetadata"
        target = "/api/v1/namespaces/default/pods/web?includeObject=Object"
        one = (await http("GET", target, headers=TABLE)).json
        assert one["rows"][0]["object"]["kind"] == "Pod"
        target = "/api/v1/namespaces/default/pods?includeObject=Everything"
        assert (await http("GET", target, headers=TABLE)).status == 400

    http_world(story)


def test_metadata_clients_get_metadata(http_world):
    async def story(w, http):
        await http("POST", MAPS, CONFIG_MAP)
        accept = {"accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
        page = (await http("GET", MAPS, headers=accept)).json
        assert page["kind"] == "PartialObjectMetadataList"
        assert set(page["items"][0]) == {"kind", "apiVersion", "metadata"}
        accept = {"accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
        one = (await http("GET", f"{MAPS}/a", headers=accept)).json
        assert set(one) == {"kind", "apiVersion", "metadata"}

    http_world(story)


def frames(response):
    return [orjson.loads(line) for line in response.body.splitlines()]


def test_a_watch_is_frames_until_the_client_goes(http_world):
    async def story(w, http):
        await w.client.create(CONFIG_MAPS, CONFIG_MAP, "default")

        async def change():
            await w.clock.sleep(1)
            await w.client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, "default")

        changing = asyncio.ensure_future(change())
        answer = await http("GET", f"{MAPS}?watch=1", end_after=2)
        await changing
        assert answer.status == 200
        events = frames(answer)
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED"]
        assert events[1]["object"]["data"] == {"x": "1"}
        assert w.server.watches.open_count == 0

    http_world(story)


def test_a_watch_ends_after_its_timeout(http_world):
    async def story(w, http):
        answer = await http("GET", f"{MAPS}?watch=1&timeoutSeconds=5")
        assert (answer.status, answer.body) == (200, b"")
        assert w.clock.monotonic() == 5

    http_world(story)


def test_a_watch_without_a_timeout_ends_within_the_hour(http_world):
    async def story(w, http):
        await http("GET", f"{MAPS}?watch=1")
        assert limits.WATCH_TIMEOUT_S <= w.clock.monotonic() <= 2 * limits.WATCH_TIMEOUT_S

    http_world(story)


def test_an_expired_watch_says_so_in_its_stream(http_world):
    async def story(w, http):
        made = await w.client.create(CONFIG_MAPS, CONFIG_MAP, "default")
        await w.client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, "default")
        w.store.compact(w.store.revision)
        version = made["metadata"]["resourceVersion"]
        answer = await http("GET", f"{MAPS}?watch=1&resourceVersion={version}")
        assert answer.status == 200
        (event,) = frames(answer)
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")

    http_world(story)


def test_watchers_share_the_encoded_events(http_world):
    async def story(w, http):
        async def change():
            await w.clock.sleep(1)
            await w.client.create(CONFIG_MAPS, CONFIG_MAP, "default")

        changing = asyncio.ensure_future(change())
        target = f"{MAPS}?watch=1&timeoutSeconds=3"
        answers = await asyncio.gather(*(http("GET", target) for _ in range(5)))
        await changing
        assert len({answer.body for answer in answers}) == 1
        assert [event["type"] for event in frames(answers[0])] == ["ADDED"]
        assert http.application._encoder.reused == 4

    http_world(story)


def test_tables_are_watched_too(http_world):
    async def story(w, http):
        await w.pod("web")
        answer = await http("GET", "/api/v1/pods?watch=1&timeoutSeconds=1", headers=TABLE)
        (event,) = frames(answer)
        assert event["object"]["kind"] == "Table"
        assert event["object"]["rows"][0]["cells"][0] == "web"

    http_world(story)


def test_nothing_is_answered_before_it_is_durable(http_world):
    async def story(w, http):
        gate = asyncio.Event()

        async def durable():
            await gate.wait()

        w.store.durable = durable
        writing = asyncio.ensure_future(http("POST", MAPS, CONFIG_MAP))
        watching = asyncio.ensure_future(http("GET", f"{MAPS}?watch=1", end_after=1))
        await w.clock.sleep(5)
        assert not writing.done()
        assert not watching.done()
        assert (await w.client.get(CONFIG_MAPS, "a", "default"))["kind"] == "ConfigMap"
        gate.set()
        assert (await writing).status == 201
        assert [event["type"] for event in frames(await watching)] == ["ADDED"]

    http_world(story)


def test_logs_come_from_the_log_source(http_world):
    async def story(w, http):
        await w.node("n1")
        initial = [{"name": "first", "image": "i"}]
        containers = [{"name": n, "image": "i"} for n in ("one", "two")]
        await w.pod("web", nodeName="n1", containers=containers, initContainers=initial)
        asked = []

        async def source(namespace, name, options):
            asked.append((namespace, name, options.container, options.tail_lines, options.follow))
            yield b"first\n"
            yield b"second\n"

        log = "/api/v1/namespaces/default/pods/web/log"
        answer = await http("GET", f"{log}?container=two")
        assert answer.status == 503
        w.server.log_source = source
        answer = await http("GET", f"{log}?container=two&tailLines=5&follow=true")
        assert (answer.status, answer.body) == (200, b"first\nsecond\n")
        assert answer.headers["content-type"] == "text/plain"
        assert asked == [("default", "web", "two", 5, True)]
        answer = await http("GET", log)
        assert answer.status == 400
        assert answer.json["message"] == (
            "a container name must be specified for pod web, choose one of: [first one two]"
        )
        answer = await http("GET", f"{log}?container=three")
        assert answer.json["message"] == "container three is not valid for pod web"

    http_world(story)


def test_a_pod_without_a_node_has_said_nothing_and_one_whose_node_is_gone_cannot_be_asked(
    http_world,
):
    """As LogLocation, ExecLocation, AttachLocation and PortForwardLocation answer."""

    async def story(w, http):
        async def source(namespace, name, options):
            raise AssertionError("nobody may be asked")
            yield b""

        w.server.log_source = source
        await w.pod("web")
        pod = "/api/v1/namespaces/default/pods/web"
        answer = await http("GET", f"{pod}/log?follow=true")
        assert (answer.status, answer.body) == (204, b"")
        assert not {"content-type", "content-length"} & answer.headers.keys()
        streams = ("exec?command=ls&stdout=true", "attach?stdout=true", "portforward")
        for stream in streams:
            answer = await http("GET", f"{pod}/{stream}")
            assert (answer.status, answer.json["message"]) == (
                400,
                "pod web does not have a host assigned",
            )
        for stream in ("log", "exec", "attach"):  # the container is looked at first
            answer = await http("GET", f"{pod}/{stream}?container=none")
            assert (answer.status, answer.json["message"]) == (
                400,
                "container none is not valid for pod web",
            )
        await w.node("n1")
        await w.bind("web")
        await w.client.delete(NODES, "n1")
        for stream in ("log", "exec", "attach", "portforward"):
            answer = await http("GET", f"{pod}/{stream}")
            assert (answer.status, answer.json["message"]) == (404, 'nodes "n1" not found')
        await w.node("n1")
        answer = await http("GET", f"{pod}/exec")
        assert answer.json["message"] == "you must specify at least one command for the container"
        answer = await http("GET", f"{pod}/exec?command=ls")
        text = "you must specify at least 1 of stdin, stdout, stderr"
        assert answer.json["message"] == text

    http_world(story)


def test_errors_of_the_log_source_keep_their_code(http_world):
    async def story(w, http):
        await w.node("n1")
        await w.pod("web", nodeName="n1")

        async def source(namespace, name, options):
            from kubarium.base.errors import bad_request

            raise bad_request("the container has not started")
            yield b""

        w.server.log_source = source
        answer = await http("GET", "/api/v1/namespaces/default/pods/web/log")
        assert answer.status == 400
        assert answer.json["message"] == "the container has not started"

    http_world(story)


def test_crowds_are_sent_away(http_world, monkeypatch):
    monkeypatch.setattr(http_module, "MAX_READS_IN_FLIGHT", 2)

    async def story(w, http):
        gate = asyncio.Event()

        async def durable():
            await gate.wait()

        w.store.durable = durable
        waiting = [asyncio.ensure_future(http("GET", MAPS)) for _ in range(2)]
        await w.clock.sleep(1)
        answer = await http("GET", MAPS)
        assert (answer.status, answer.json["reason"]) == (429, "TooManyRequests")
        assert answer.headers["retry-after"] == "1"
        gate.set()
        assert [(await each).status for each in waiting] == [200, 200]
        assert (await http("GET", MAPS)).status == 200

    http_world(story)


def test_faults_of_ours_are_logged_and_tell_only_an_id(http_world, caplog, monkeypatch):
    async def story(w, http):
        def broken(*arguments):
            raise RuntimeError("secret detail")

        monkeypatch.setattr(w.server, "list", broken)
        with caplog.at_level(logging.ERROR):
            answer = await http("GET", MAPS)
        assert answer.status == 500
        assert "secret detail" not in answer.body.decode()
        assert answer.headers["audit-id"] in answer.json["message"]
        assert answer.headers["audit-id"] in caplog.text
        assert "secret detail" in caplog.text

    http_world(story)


def test_requests_that_hang_are_timed_out(http_world):
    async def story(w, http):
        async def durable():
            await asyncio.Event().wait()

        w.store.durable = durable
        answer = await http("GET", MAPS)
        assert (answer.status, answer.json["reason"]) == (504, "Timeout")
        assert w.clock.monotonic() == limits.REQUEST_TIMEOUT_S

    http_world(story)


# Who and whether


def test_strangers_are_told_what_they_cannot_do(http_world):
    async def story(w, http):
        answer = await http("GET", MAPS, headers={"authorization": ""})
        assert answer.status == 403
        assert answer.json["message"] == (
            'configmaps is forbidden: User "system:anonymous" cannot list resource "configmaps" '
            'in API group "" in the namespace "default"'
        )
        answer = await http("GET", MAPS, headers={"authorization": "Bearer wrong"})
        assert (answer.status, answer.json["message"]) == (401, "Unauthorized")

    http_world(story)


def test_reviews_answer_and_store_nothing(http_world):
    async def story(w, http):
        before = w.store.revision
        review = {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
        }
        reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = await http("POST", reviews, review)
        assert answer.status == 201
        assert answer.json["status"]["allowed"] is True
        other = review | {"kind": "SubjectAccessReview"}
        other["spec"] = other["spec"] | {"user": "bob"}
        answer = await http("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", other)
        assert answer.json["status"]["allowed"] is False
        whoami = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}
        answer = await http("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", whoami)
        assert answer.json["status"]["userInfo"]["username"] == "admin"
        assert (await http("GET", reviews)).status == 405
        assert w.store.revision == before

    http_world(story)


# Paths without resources


def test_health_version_and_metrics(http_world):
    async def story(w, http):
        for path in ("/healthz", "/livez", "/readyz", "/readyz/ping"):
            answer = await http("GET", path)
            assert (answer.status, answer.body) == (200, b"ok")
        verbose = (await http("GET", "/readyz?verbose")).body.decode()
        assert verbose.endswith("readyz check passed\n")
        version = (await http("GET", "/version")).json
        assert (version["major"], version["minor"]) == ("1", "37")
        await http("POST", MAPS, CONFIG_MAP)
        text = (await http("GET", "/metrics")).body.decode()
        assert 'apiserver_storage_objects{resource="configmaps"} 1.0' in text
        assert 'apiserver_request_total{code="201"' in text
        assert "apiserver_request_duration_seconds_bucket" in text
        assert 'apiserver_longrunning_requests{verb="WATCH"} 0.0' in text

    http_world(story)


def test_pages_of_a_nodes_agent(http_world):
    metrics = "/api/v1/nodes/n1/proxy/metrics"

    async def story(w, http):
        assert (await http("GET", metrics)).status == 404  # no such node
        await w.node("n1")
        assert (await http("GET", metrics)).status == 503  # nobody answers for it
        pages = {("n1", "metrics"): (b"hw_power_watts 300\n", "text/plain; version=0.0.4")}
        w.server.page_source = lambda node, path: pages.get((node, path))
        answer = await http("GET", metrics)
        assert (answer.status, answer.body) == (200, b"hw_power_watts 300\n")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4"
        gone = await http("GET", "/api/v1/nodes/n1/proxy/pods")
        assert (gone.status, gone.json["reason"]) == (404, "NotFound")
        assert (await http("POST", metrics)).status in (400, 405)
        assert (await http("GET", metrics, headers={"authorization": ""})).status in (401, 403)

    http_world(story)


def test_legacy_discovery_walks_from_the_root_to_every_resource(http_world):
    async def story(w, http):
        paths = (await http("GET", "/")).json["paths"]
        assert {"/api/v1", "/apis/apps/v1", "/version"} <= set(paths)
        assert (await http("GET", "/api")).json["versions"] == ["v1"]
        groups = (await http("GET", "/apis")).json["groups"]
        apps = next(group for group in groups if group["name"] == "apps")
        assert apps["preferredVersion"]["groupVersion"] == "apps/v1"
        assert (await http("GET", "/apis/apps")).json["name"] == "apps"
        for group in groups:
            for version in group["versions"]:
                answer = await http("GET", f"/apis/{version['groupVersion']}")
                assert answer.json["groupVersion"] == version["groupVersion"]
        pods = next(
            r for r in (await http("GET", "/api/v1")).json["resources"] if r["name"] == "pods"
        )
        assert pods["shortNames"] == ["po"]
        assert "watch" in pods["verbs"]

    http_world(story)


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_aggregated_discovery_says_it_in_two_requests(http_world, version):
    async def story(w, http):
        accept = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        seen = {}
        for path in ("/api", "/apis"):
            answer = await http("GET", path, headers={"accept": f"{accept},application/json"})
            assert answer.headers["content-type"] == accept
            assert answer.json["apiVersion"] == f"apidiscovery.k8s.io/{version}"
            for group in answer.json["items"]:
                for served in group["versions"]:
                    for resource in served["resources"]:
                        key = (group["metadata"].get("name", ""), resource["resource"])
                        seen[key] = resource
        deployments = seen["apps", "deployments"]
        assert deployments["scope"] == "Namespaced"
        assert [s["subresource"] for s in deployments["subresources"]] == ["scale", "status"]
        assert ("", "pods") in seen

    http_world(story)


def test_openapi_is_indexed_and_described(http_world):
    async def story(w, http):
        index = (await http("GET", "/openapi/v3")).json["paths"]
        target = index["apis/apps/v1"]["serverRelativeURL"]
        document = (await http("GET", target)).json
        assert "/apis/apps/v1/namespaces/{namespace}/deployments" in document["paths"]
        assert (await http("GET", "/openapi/v3/apis/none/v1")).status == 404
        protobuf_only = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        answer = await http("GET", "/openapi/v2", headers={"accept": protobuf_only})
        assert answer.status == 200
        assert "@" not in answer.headers["content-type"]
        assert answer.body.startswith(b"\x0a\x032.0")

    http_world(story)


def test_deleted_collections_are_listed(http_world):
    async def story(w, http):
        await w.pod("a")
        await w.pod("b")
        answer = await http("DELETE", "/api/v1/namespaces/default/pods")
        assert answer.status == 200
        assert answer.json["kind"] == "PodList"
        assert len(answer.json["items"]) == 2
        assert (await w.client.list(PODS)).items == []

    http_world(story)


def test_namespaces_are_not_deleted_all_at_once(http_world):
    async def story(w, http):
        answer = await http("DELETE", "/api/v1/namespaces")
        assert (answer.status, answer.json["reason"]) == (405, "MethodNotAllowed")
        [row] = [
            found
            for found in (await http("GET", "/api/v1")).json["resources"]
            if found["name"] == "namespaces"
        ]
        assert "delete" in row["verbs"]
        assert "deletecollection" not in row["verbs"]

    http_world(story)


def test_component_statuses_are_only_read(http_world):
    async def story(w, http):
        page = await http("GET", "/api/v1/componentstatuses")
        assert {item["metadata"]["name"] for item in page.json["items"]} == {
            "controller-manager",
            "etcd-0",
            "scheduler",
        }
        table = {"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
        answer = await http("GET", "/api/v1/componentstatuses/scheduler", headers=table)
        assert answer.json["rows"][0]["cells"] == ["scheduler", "Healthy", "ok", ""]
        made = {"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": "x"}}
        assert (await http("POST", "/api/v1/componentstatuses", made)).status == 405

    http_world(story)


def test_annotations_that_nobody_can_read_are_warned_of_once(http_world):
    async def story(w, http):
        pods = "/api/v1/namespaces/default/pods"
        metadata = {"name": "p", "annotations": {"kubarium.dev/oom": "yes"}}
        body = {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        made = await http("POST", pods, body)
        text = "metadata.annotations[kubarium.dev/oom]: 'yes' cannot be read: write true or false"
        assert made.status == 201
        assert made.headers["warning"] == f'299 - "{text}"'
        made.json["metadata"]["labels"] = {"a": "b"}
        again = await http("PUT", f"{pods}/p", made.json)
        assert again.status == 200
        assert "warning" not in again.headers

    http_world(story)
