"""Whatever arrives, the answer is a Status or an object, never a fault of ours."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog
from kubarium.api.crds.definition import bundled
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS

FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

KINDS = [kind for kind in Catalog.builtin().kinds() if kind.resource.plural != "componentstatuses"]
NAMES = ["metadata", "spec", "status", "name", "namespace", "labels", "annotations", "data"]
FIELDS = sorted(
    {name for kind in KINDS for name in (kind.schema.at("spec") or kind.schema).field_names}
)

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["1", "100m", "1Gi", "default", "a=b", "2026-01-01T00:00:00Z", "-", "{}"])
)
KEYS = st.sampled_from(NAMES + FIELDS) | st.text(max_size=6)
VALUES = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def plausible(schema, depth=0):
    """Documents that are nearly right: the schema's own fields, sometimes with wrong values."""
    if schema is None or depth > 5:
        return SCALAR
    if schema.type == "object" and schema.has_fields:
        names = st.lists(st.sampled_from(schema.field_names), max_size=5, unique=True)

        def fill(chosen):
            parts = {}
            for name in chosen:
                child = schema.field(name)
                parts[name] = st.deferred(lambda child=child: plausible(child, depth + 1)) | SCALAR
            return st.fixed_dictionaries(parts)

        return names.flatmap(fill)
    if schema.type == "object":
        inner = plausible(schema.additional, depth + 1) if schema.additional else SCALAR
        return st.dictionaries(st.text(max_size=5), inner, max_size=2)
    if schema.type == "array":
        return st.lists(plausible(schema.items, depth + 1), max_size=2)
    if schema.type in ("integer", "number"):
        return st.integers(-2, 70000)
    if schema.type == "boolean":
        return st.booleans()
    return SCALAR | st.sampled_from(list(schema.enum) or ["x"])


def collection(kind):
    resource = kind.resource
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else "/api/v1"
    place = "/namespaces/default" if kind.namespaced else ""
    return f"{root}{place}/{resource.plural}"


def no_fault(answer):
    assert answer.status, "no answer"
    assert answer.status != 500, answer.body[:500]
    if answer.status >= 400:
        assert answer.json["kind"] == "Status"


@FUZZ
@given(st.sampled_from(KINDS), st.data())
def test_nearly_right_documents_never_break_the_server(http_world, kind, data):
    document = data.draw(plausible(kind.schema))
    document |= {"apiVersion": kind.resource.api_version, "kind": kind.resource.kind}
    if not isinstance(document.get("metadata"), dict) or data.draw(st.booleans()):
        document["metadata"] = {"name": "fuzz"}
    change = data.draw(plausible(kind.schema))
    change.pop("metadata", None)

    async def story(w, http):
        target = collection(kind)
        no_fault(await http("POST", target, document))
        name = document["metadata"].get("name")
        one = f"{target}/{name}" if isinstance(name, str) and name.isalnum() else f"{target}/fuzz"
        no_fault(await http("PUT", one, document))
        for media in ("merge-patch+json", "strategic-merge-patch+json"):
            headers = {"content-type": f"application/{media}"}
            no_fault(await http("PATCH", one, change, headers))
        headers = {"content-type": "application/apply-patch+yaml"}
        applied = change | {k: document[k] for k in ("apiVersion", "kind")}
        no_fault(await http("PATCH", f"{one}?fieldManager=f", applied, headers))
        if kind.has_status:
            headers = {"content-type": "application/merge-patch+json"}
            no_fault(await http("PATCH", f"{one}/status", change, headers))
            no_fault(await http("PUT", f"{one}/status", document))
        table = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        no_fault(await http("GET", target, headers=table if kind.stored else {}))
        no_fault(await http("DELETE", one))

    http_world(story)


@FUZZ
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]),
    st.sampled_from(
        ["", "/fuzz", "/fuzz/status", "/fuzz/scale", "/fuzz/binding", "/fuzz/eviction"]
    ),
    VALUES | st.binary(max_size=60),
    st.sampled_from(
        [
            "application/json",
            "application/yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
            "application/vnd.kubernetes.protobuf",
        ]
    ),
)
def test_any_body_anywhere_is_answered(http_world, kind, method, suffix, body, media):
    async def story(w, http):
        await w.pod("fuzz")
        headers = {"content-type": media}
        target = f"{collection(kind)}{suffix}?fieldManager=f"
        no_fault(await http(method, target, body, headers))

    http_world(story)


@FUZZ
@given(
    st.sampled_from(
        ["/api/v1/pods", "/api/v1/namespaces/default/pods/web", "/apis", "/openapi/v3"]
    ),
    st.dictionaries(
        st.sampled_from(
            [
                "watch",
                "limit",
                "continue",
                "labelSelector",
                "fieldSelector",
                "resourceVersion",
                "resourceVersionMatch",
                "sendInitialEvents",
                "allowWatchBookmarks",
                "timeoutSeconds",
                "pretty",
                "includeObject",
            ]
        ),
        st.text(alphabet="0123456789abct=!,() .-:%", max_size=12)
        | st.sampled_from(
            ["1", "true", "0", "Exact", "NotOlderThan", "status.phase=x", "a in (b)"]
        ),
        max_size=5,
    ),
)
def test_any_query_is_answered(http_world, path, query):
    async def story(w, http):
        await w.pod("web")
        text = "&".join(f"{key}={value}" for key, value in query.items())
        no_fault(await http("GET", f"{path}?{text}", end_after=1))

    http_world(story)


@FUZZ
@given(st.binary(max_size=30), st.binary(max_size=30))
def test_any_bytes_in_path_and_query_are_answered(http_world, path, query):
    async def story(w, http):
        scope = http.scope("GET", "/x", {})
        scope["raw_path"], scope["query_string"] = b"/" + path, query
        sent = []

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        await http.application(scope, receive, send)
        assert sent[0]["status"] < 500

    http_world(story)


@pytest.mark.parametrize("crd", bundled(), ids=lambda crd: crd["metadata"]["name"])
@settings(FUZZ, max_examples=12)
@given(st.data())
def test_nearly_right_custom_resources_never_break_the_server(http_world, crd, data):
    async def story(w, http):
        await w.client.create(CUSTOM_RESOURCE_DEFINITIONS, crd)
        spec = crd["spec"]
        version = next(v["name"] for v in spec["versions"] if v["storage"])
        kind = w.server.registry.kind_of(spec["group"], version, spec["names"]["plural"])
        document = data.draw(plausible(kind.schema))
        document |= {"apiVersion": kind.resource.api_version, "kind": kind.resource.kind}
        document["metadata"] = {"name": "fuzz"}
        target = collection(kind)
        no_fault(await http("POST", target, document))
        headers = {"content-type": "application/merge-patch+json"}
        no_fault(await http("PATCH", f"{target}/fuzz", data.draw(plausible(kind.schema)), headers))
        table = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        no_fault(await http("GET", target, headers=table))

    http_world(story)
