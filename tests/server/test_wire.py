"""The wire protocol: paths, query options, media types. No I/O anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.errors import ApiError
from kubarium.server import wire
from kubarium.server.protobuf import decode_protobuf
from kubarium.server.wire import DISCOVERY_TRANSFORMS, LIST_TRANSFORMS, negotiate, request_info


def info(text):
    """``METHOD path?query`` as (verb, group, version, namespace, resource, name, subresource)."""
    method, _, target = text.partition(" ")
    path, _, query = target.partition("?")
    parameters = wire.parse_query(query.encode())
    found = request_info(method, path, {key: values[0] for key, values in parameters.items()})
    return (
        found.verb,
        found.group,
        found.version,
        found.namespace,
        found.resource,
        found.name,
        found.subresource,
    )


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /api/v1/pods", ("list", "", "v1", "", "pods", "", "")),
        ("GET /api/v1/pods?watch=1", ("watch", "", "v1", "", "pods", "", "")),
        ("GET /api/v1/pods?watch=false", ("list", "", "v1", "", "pods", "", "")),
        (
            "GET /api/v1/namespaces/a/pods/b",
            ("get", "", "v1", "a", "pods", "b", ""),
        ),
        (
            "GET /api/v1/namespaces/a/pods/b/log?follow=true",
            ("get", "", "v1", "a", "pods", "b", "log"),
        ),
        ("GET /api/v1/namespaces", ("list", "", "v1", "", "namespaces", "", "")),
        ("GET /api/v1/namespaces/a", ("get", "", "v1", "a", "namespaces", "a", "")),
        (
            "PUT /api/v1/namespaces/a/finalize",
            ("update", "", "v1", "a", "namespaces", "a", "finalize"),
        ),
        (
            "PATCH /apis/apps/v1/namespaces/a/deployments/d/scale",
            ("patch", "apps", "v1", "a", "deployments", "d", "scale"),
        ),
        (
            "POST /apis/apps/v1/namespaces/a/deployments",
            ("create", "apps", "v1", "a", "deployments", "", ""),
        ),
        (
            "DELETE /apis/apps/v1/namespaces/a/deployments",
            ("deletecollection", "apps", "v1", "a", "deployments", "", ""),
        ),
        ("DELETE /api/v1/nodes/n", ("delete", "", "v1", "", "nodes", "n", "")),
        ("HEAD /api/v1/nodes/n", ("get", "", "v1", "", "nodes", "n", "")),
        ("GET /api/v1/watch/pods", ("watch", "", "v1", "", "pods", "", "")),
        (
            "GET /api/v1/watch/namespaces/a/pods/b",
            ("watch", "", "v1", "a", "pods", "b", ""),
        ),
        ("GET /api/v1", ("get", "", "", "", "", "", "")),
        ("GET /apis/apps/v1", ("get", "", "", "", "", "", "")),
        ("GET /version", ("get", "", "", "", "", "", "")),
        ("GET /api/v1/watch", ("get", "", "", "", "", "", "")),
    ],
)
def test_paths_are_one_grammar(request_line, expected):
    assert info(request_line) == expected


@given(
    st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"]),
    st.text(alphabet="/abcpisv1watchnamespaces.%-", max_size=60),
    st.binary(max_size=40),
)
def test_any_path_means_something_or_is_a_bad_request(method, path, query):
    try:
        parameters = wire.parse_query(query)
    except ApiError as error:
        refusal = error.code
    else:
        refusal = 0
    if refusal:
        assert refusal == 400
        return
    found = request_info(method, path, {key: values[0] for key, values in parameters.items()})
    assert found.verb
    assert not (found.subresource and not found.resource)


def test_paths_and_queries_that_are_not_text_are_bad_requests():
    for call in (lambda: wire.decode_path(b"/api/%ff"), lambda: wire.parse_query(b"a=%ff")):
        with pytest.raises(ApiError) as caught:
            call()
        assert caught.value.code == 400


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


@pytest.mark.parametrize(
    ("accept", "transforms", "expected"),
    [
        ("", LIST_TRANSFORMS, ("application/json", "", "")),
        ("*/*", LIST_TRANSFORMS, ("application/json", "", "")),
        ("application/yaml", LIST_TRANSFORMS, ("application/yaml", "", "")),
        (f"{TABLE},application/json", LIST_TRANSFORMS, ("application/json", "Table", "v1")),
        (f"{TABLE},application/json", DISCOVERY_TRANSFORMS, ("application/json", "", "")),
        (
            f"{DISCOVERY.format('v2')},{DISCOVERY.format('v2beta1')},application/json",
            DISCOVERY_TRANSFORMS,
            ("application/json", "APIGroupDiscoveryList", "v2"),
        ),
        (
            f"{DISCOVERY.format('v2beta1')},application/json",
            DISCOVERY_TRANSFORMS,
            ("application/json", "APIGroupDiscoveryList", "v2beta1"),
        ),
        (
            "application/vnd.kubernetes.protobuf,application/json",
            LIST_TRANSFORMS,
            ("application/json", "", ""),
        ),
        (
            "application/json;q=0.1,application/yaml;q=0.9",
            LIST_TRANSFORMS,
            ("application/yaml", "", ""),
        ),
        ("application/json;stream=watch", LIST_TRANSFORMS, ("application/json", "", "")),
    ],
)
def test_accept_headers_choose_a_form(accept, transforms, expected):
    media = negotiate(accept, transforms)
    assert (media.type, media.as_, media.version) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/vnd.kubernetes.protobuf",
        "application/json;as=Table;v=v2;g=meta.k8s.io",
        "application/json;as=Tables;v=v1;g=meta.k8s.io",
    ],
)
def test_forms_that_are_not_served_are_406(accept):
    with pytest.raises(ApiError) as caught:
        negotiate(accept, LIST_TRANSFORMS)
    assert (caught.value.code, caught.value.reason) == (406, "NotAcceptable")


def test_delete_options_come_from_the_body_or_the_query():
    body = {
        "gracePeriodSeconds": 5,
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
        "dryRun": ["All"],
    }
    options = wire.delete_options({}, body)
    assert (options.grace_period_s, options.propagation_policy) == (5, "Foreground")
    assert (options.uid, options.resource_version, options.dry_run) == ("u", "7", True)
    query = {"gracePeriodSeconds": ["0"], "propagationPolicy": ["Orphan"]}
    options = wire.delete_options(query, None)
    assert (options.grace_period_s, options.propagation_policy) == (0, "Orphan")
    assert wire.delete_options({"orphanDependents": ["true"]}, None).propagation_policy == "Orphan"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"gracePeriodSeconds": "soon"}, 400),
        ({"propagationPolicy": 1}, 400),
        ({"preconditions": "u"}, 400),
        ({"dryRun": "All"}, 400),
        ({"dryRun": ["Some"]}, 422),
        ({"orphanDependents": True, "propagationPolicy": "Orphan"}, 422),
    ],
)
def test_wrong_delete_options_are_refused(body, code):
    with pytest.raises(ApiError) as caught:
        wire.delete_options({}, body)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"dryRun": ["Server"]}, "dryRun"),
        ({"fieldValidation": ["strict"]}, "fieldValidation"),
        ({"fieldManager": ["x" * 129]}, "fieldManager"),
        ({"fieldManager": ["a\nb"]}, "fieldManager"),
    ],
)
def test_wrong_write_options_are_named(parameters, named):
    with pytest.raises(ApiError, match=named) as caught:
        wire.write_options(parameters, "CreateOptions")
    assert caught.value.code == 422


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": "-1"},
        {"limitBytes": "0"},
        {"sinceSeconds": "0"},
        {"sinceSeconds": "1", "sinceTime": "2026-01-01T00:00:00Z"},
        {"tailLines": "many"},
    ],
)
def test_wrong_log_options_are_refused(query):
    with pytest.raises(ApiError) as caught:
        wire.log_options(query)
    assert caught.value.code in (400, 422)


@given(st.binary(max_size=200))
def test_any_protobuf_body_decodes_or_is_refused(body):
    for data in (body, b"k8s\x00" + body, b"k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod\x12" + body):
        try:
            outcome = decode_protobuf(data)["kind"]
        except ApiError as error:
            outcome = error.code
        assert outcome in (400, 415) or isinstance(outcome, str)
