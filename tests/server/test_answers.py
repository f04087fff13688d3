"""What requests over HTTP are answered: codes, warnings, and what comes back."""

import json

import pytest

DEVICES = "/apis/resource.k8s.io"
CLASS = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "DeviceClass",
    "metadata": {"name": "gpu"},
    "spec": {"selectors": [{"cel": {"expression": "device.driver == 'a.example.com'"}}]},
}
PODS = "/api/v1/namespaces/default/pods"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {
        "containers": [{"name": "main", "image": "busybox"}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
}
GROUPS = "/apis/scheduling.k8s.io/v1beta1/namespaces/default/podgroups"
APPLY = {"content-type": "application/apply-patch+yaml"}


def test_a_deleted_device_class_is_answered_as_it_was(http_world):
    async def story(w, http):
        await http("POST", f"{DEVICES}/v1/deviceclasses", CLASS)
        gone = await http("DELETE", f"{DEVICES}/v1/deviceclasses/gpu")
        assert (gone.status, gone.json["kind"]) == (200, "DeviceClass")
        assert gone.json["spec"] == CLASS["spec"]

    http_world(story)


@pytest.mark.parametrize(
    ("version", "plural", "said"),
    [
        (
            "v1beta1",
            "deviceclasses",
            "resource.k8s.io/v1beta1 DeviceClass is deprecated in v1.35+, unavailable in v1.38+",
        ),
        (
            "v1beta2",
            "resourceslices",
            "resource.k8s.io/v1beta2 ResourceSlice is deprecated in v1.36+, unavailable in v1.39+",
        ),
        ("v1beta2", "devicetaintrules", None),
        ("v1", "deviceclasses", None),
    ],
)
def test_versions_on_their_way_out_are_warned_of(http_world, version, plural, said):
    async def story(w, http):
        answer = await http("GET", f"{DEVICES}/{version}/{plural}")
        assert answer.status == 200
        assert answer.headers.get("warning") == (said and f"299 - {json.dumps(said)}")

    http_world(story)


def test_a_deprecated_version_of_a_custom_resource_is_warned_of(http_world):
    async def story(w, http):
        schema = {"openAPIV3Schema": {"type": "object"}}
        version = {"name": "v1", "served": True, "storage": True, "schema": schema}
        names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Cluster",
                "names": names,
                "versions": [version | {"deprecated": True}],
            },
        }
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        assert (await http("POST", path, definition)).status == 201
        answer = await http("GET", "/apis/example.com/v1/things")
        assert answer.headers["warning"] == '299 - "example.com/v1 Thing is deprecated"'

    http_world(story)


def test_applying_a_pod_again_leaves_it_its_default_tolerations(http_world):
    async def story(w, http):
        first = await http("PATCH", f"{PODS}/p?fieldManager=m", POD, APPLY)
        assert (first.status, len(first.json["spec"]["tolerations"])) == (201, 3)
        again = await http("PATCH", f"{PODS}/p?fieldManager=m", POD, APPLY)
        assert again.status == 200, again.body
        assert again.json["spec"] == first.json["spec"]

    http_world(story)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"containres": []}, ".spec.containres: field not declared in schema"),
        (
            {"containers": [{"name": "a", "imgae": "x"}]},
            '.spec.containers[name="a"].imgae: field not declared in schema',
        ),
        (
            {"containers": [{"name": "a", "image": "x"}] * 2},
            '.spec.containers: duplicate entries for key [name="a"]',
        ),
    ],
)
def test_what_cannot_be_merged_cannot_be_applied(http_world, change, said):
    async def story(w, http):
        document = POD | {"spec": POD["spec"] | change}
        answer = await http("PATCH", f"{PODS}/p?fieldManager=m", document, APPLY)
        assert answer.status == 500
        prefix = "failed to create typed patch object (/p; /v1, Kind=Pod): "
        assert answer.json["message"] == prefix + said
        assert (await http("GET", f"{PODS}/p")).status == 404

    http_world(story)


@pytest.mark.parametrize(
    ("subresource", "document", "said"),
    [
        ("eviction", POD, 'Pod in version "v1" cannot be handled as a Eviction'),
        ("binding", POD, 'Pod in version "v1" cannot be handled as a Binding'),
        (
            "binding",
            {"kind": "Binding", "metadata": {"name": "q"}, "target": {"name": "n"}},
            "name in URL does not match name in Binding object",
        ),
    ],
)
def test_what_is_posted_to_a_pod_is_of_the_right_kind_and_name(
    http_world, subresource, document, said
):
    async def story(w, http):
        await http("POST", PODS, POD)
        answer = await http("POST", f"{PODS}/p/{subresource}", document)
        assert answer.status == 400
        assert said in answer.json["message"]
        kept = await http("GET", f"{PODS}/p")
        assert (kept.status, kept.json["spec"].get("nodeName")) == (200, None)

    http_world(story)


def test_nothing_joins_a_group_that_is_being_deleted(http_world):
    async def story(w, http):
        group = {"metadata": {"name": "g"}, "spec": {"schedulingPolicy": {"basic": {}}}}
        assert (await http("POST", GROUPS, group)).status == 201
        member = POD | {"spec": POD["spec"] | {"schedulingGroup": {"podGroupName": "g"}}}
        assert (await http("POST", f"{PODS}?dryRun=All", member)).status == 201
        await http("DELETE", f"{GROUPS}/g")  # its finalizer holds it
        answer = await http("POST", PODS, member)
        assert answer.status == 403
        assert answer.json["message"] == (
            'pods "p" is forbidden: cannot create Pod referencing PodGroup "g" because it is '
            "being deleted"
        )

    http_world(story)


def test_a_negative_grace_period_is_one_second(http_world):
    async def story(w, http):
        hasty = POD | {"spec": POD["spec"] | {"terminationGracePeriodSeconds": -1}}
        made = await http("POST", PODS, hasty)
        assert made.json["spec"]["terminationGracePeriodSeconds"] == 1

    http_world(story)


EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
EVENT = {
    "metadata": {"name": "e"},
    "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    "eventTime": "2026-01-01T00:00:00.000000Z",
    "reportingController": "example.com/agent",
    "reportingInstance": "a",
    "action": "Start",
    "reason": "Started",
    "type": "Normal",
    "note": "it started",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Odd"}, 'type: Invalid value: "": has invalid value: Odd'),
        ({"eventTime": None}, "eventTime: Required value"),
        ({"reportingController": ""}, "reportingController: Required value"),
        ({"action": ""}, "action: Required value"),
        ({"reason": "x" * 129}, 'reason: Invalid value: "": can have at most 128 characters'),
        ({"series": {"count": 1}}, 'series.count: Invalid value: "": should be at least 2'),
        ({"deprecatedCount": 3}, 'count: Invalid value: "": needs to be unset'),
    ],
)
def test_events_of_the_new_kind_say_who_did_what_and_why(http_world, change, said):
    async def story(w, http):
        assert (await http("POST", f"{EVENTS}?dryRun=All", EVENT)).status == 201
        answer = await http("POST", EVENTS, EVENT | change)
        assert answer.status == 422
        assert answer.json["message"].startswith('Event "e" is invalid: ')
        assert said in answer.json["message"]

    http_world(story)


def test_budgets_and_events_may_have_any_name_that_fits_a_path(http_world):
    async def story(w, http):
        budget = {"metadata": {"name": "My_Budget!"}, "spec": {"minAvailable": 1}}
        path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
        assert (await http("POST", path, budget)).status == 201
        about = {"kind": "Pod", "name": "p", "namespace": "default"}
        event = {"metadata": {"name": "Pod_p!"}, "involvedObject": about}
        assert (await http("POST", "/api/v1/namespaces/default/events", event)).status == 201

    http_world(story)


def test_an_empty_taint_time_is_no_time(http_world):
    async def story(w, http):
        taint = {"key": "a.example.com/t", "effect": "NoSchedule", "timeAdded": ""}
        rule = {"metadata": {"name": "r"}, "spec": {"taint": taint}}
        answer = await http("POST", f"{DEVICES}/v1/devicetaintrules", rule)
        assert (answer.status, answer.json["reason"]) == (400, "BadRequest")
        assert 'parsing time ""' in answer.json["message"]

    http_world(story)
