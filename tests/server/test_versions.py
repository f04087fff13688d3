"""Versions with a shape of their own: written in one, read in the other, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import (
    GANG_WORKLOADS,
    POD_GROUPS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Resource, copy_document
from kubarium.api.versions import SHAPES
from kubarium.client.protocol import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
)

OLD_GROUPS = Resource("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup", True)
OLD_WORKLOADS = Resource("scheduling.k8s.io", "v1alpha2", "workloads", "Workload", True)
FLAT_CLAIMS = Resource("resource.k8s.io", "v1beta1", "resourceclaims", "ResourceClaim", True)
FLAT_TEMPLATES = Resource(
    "resource.k8s.io", "v1beta1", "resourceclaimtemplates", "ResourceClaimTemplate", True
)
FLAT_SLICES = Resource("resource.k8s.io", "v1beta1", "resourceslices", "ResourceSlice", False)

GANG = {"gang": {"minCount": 2}}
TEMPLATE = {"workloadName": "w", "podGroupTemplateName": "t"}


def old_group(name="g", **spec):
    spec = {"podGroupTemplateRef": {"workload": TEMPLATE}, "schedulingPolicy": GANG} | spec
    return {"metadata": {"name": name}, "spec": spec}


def flat_claim(name="c", **request):
    request = {"name": "gpu", "deviceClassName": "gpu.example.com"} | request
    return {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}


def requests_of(claim):
    return claim["spec"]["devices"]["requests"]


def test_an_older_group_is_stored_as_the_newer_and_read_as_both(world):
    async def story(w):
        made = await w.client.create(OLD_GROUPS, old_group(disruptionMode="PodGroup"), "default")
        assert made["apiVersion"] == "scheduling.k8s.io/v1alpha2"
        assert made["spec"] == {
            "podGroupTemplateRef": {"workload": TEMPLATE},
            "schedulingPolicy": GANG,
            "disruptionMode": "PodGroup",
            "priority": 0,
        }
        new = await w.client.get(POD_GROUPS, "g", "default")
        assert new["spec"] == {
            "workloadRef": {"workloadName": "w", "templateName": "t"},
            "schedulingPolicy": GANG,
            "disruptionMode": {"all": {}},
            "priority": 0,
            "preemptionPolicy": "PreemptLowerPriority",
        }
        assert await w.client.get(OLD_GROUPS, "g", "default") == made
        [listed] = (await w.client.list(OLD_GROUPS, "default")).items
        assert listed == made

    world(story)


def test_the_condition_that_a_group_is_placed_has_two_names(world):
    async def story(w):
        await w.client.create(OLD_GROUPS, old_group(), "default")
        condition = {
            "type": "PodGroupInitiallyScheduled",
            "status": "True",
            "reason": "Scheduled",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        group = copy_document(await w.client.get(POD_GROUPS, "g", "default"))
        group["status"] = {"conditions": [condition, condition | {"type": "DisruptionTarget"}]}
        await w.client.update(POD_GROUPS, group, "default", subresource="status")
        old = copy_document(await w.client.get(OLD_GROUPS, "g", "default"))
        types = [item["type"] for item in old["status"]["conditions"]]
        assert types == ["PodGroupScheduled", "DisruptionTarget"]
        old["status"]["conditions"][0]["message"] = "all of it"
        await w.client.update(OLD_GROUPS, old, "default", subresource="status")
        new = await w.client.get(POD_GROUPS, "g", "default")
        [first, _] = new["status"]["conditions"]
        assert first["type"] == "PodGroupInitiallyScheduled"
        assert first["message"] == "all of it"

    world(story)


CHANGES = [
    (MERGE_PATCH, {"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}}),
    (STRATEGIC_MERGE_PATCH, {"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}}),
    (
        JSON_PATCH,
        [
            {"op": "test", "path": "/spec/podGroupTemplateRef/workload/workloadName", "value": "w"},
            {"op": "replace", "path": "/spec/schedulingPolicy/gang/minCount", "value": 3},
        ],
    ),
    (
        APPLY_PATCH,
        {"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": {"name": "g"}}
        | {"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}},
    ),
]


@pytest.mark.parametrize(("patch_type", "body"), CHANGES, ids=[kind for kind, _ in CHANGES])
def test_patches_are_written_in_the_version_they_name(world, patch_type, body):
    async def story(w):
        newer = {
            "metadata": {"name": "g"},
            "spec": {
                "workloadRef": {"workloadName": "w", "templateName": "t"},
                "schedulingPolicy": GANG,
                "parentCompositePodGroupName": "tree",
            },
        }
        await w.client.create(POD_GROUPS, newer, "default")
        written = await w.client.patch(
            OLD_GROUPS, "g", body, "default", patch_type=patch_type, force=True
        )
        assert written["spec"]["schedulingPolicy"] == {"gang": {"minCount": 3}}
        assert written["spec"]["podGroupTemplateRef"] == {"workload": TEMPLATE}
        new = await w.client.get(POD_GROUPS, "g", "default")
        # What the older version cannot say stays.
        assert new["spec"]["parentCompositePodGroupName"] == "tree"
        assert new["spec"]["preemptionPolicy"] == "PreemptLowerPriority"
        assert new["metadata"]["generation"] == 2

    world(story)


def test_apply_creates_too(world):
    async def story(w):
        body = old_group() | {"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup"}
        await w.client.patch(OLD_GROUPS, "g", body, "default", patch_type=APPLY_PATCH)
        again = await w.client.patch(OLD_GROUPS, "g", body, "default", patch_type=APPLY_PATCH)
        assert again["metadata"]["generation"] == 1
        assert (await w.client.get(POD_GROUPS, "g", "default"))["spec"]["workloadRef"]

    world(story)


REFUSED = [
    (
        old_group(disruptionMode="Job"),
        'spec.disruptionMode: Unsupported value: "Job": supported values: "Pod", "PodGroup"',
    ),
    (
        old_group(podGroupTemplateRef={"workload": {"workloadName": "w"}}),
        "spec.podGroupTemplateRef.workload.podGroupTemplateName: Required value",
    ),
    (
        old_group(schedulingPolicy={"gang": {"minCount": 0}}),
        "spec.schedulingPolicy.gang.minCount: Required value",
    ),
]


@pytest.mark.parametrize(("document", "complaint"), REFUSED, ids=[c for _, c in REFUSED])
def test_what_is_wrong_is_named(world, document, complaint):
    async def story(w):
        error = await w.refused(w.client.create(OLD_GROUPS, document, "default"))
        assert error.code == 422
        assert complaint in error.message

    world(story)


def test_wrong_types_and_unknown_fields_are_refused_in_the_versions_own_words(world):
    async def story(w):
        error = await w.refused(
            w.client.create(OLD_GROUPS, old_group(podGroupTemplateRef="w"), "default")
        )
        assert error.code == 400
        assert "podGroupTemplateRef" in error.message
        group = old_group() | {"spec": {"schedulingPolicy": GANG, "workloadRef": {}}}
        error = await w.refused(w.client.create(OLD_GROUPS, group, "default"))
        assert error.code == 400
        assert 'unknown field "spec.workloadRef"' in error.message

    world(story)


def test_an_older_workload_shows_no_trees_and_loses_none(world):
    async def story(w):
        tree = [
            {
                "name": "a",
                "schedulingPolicy": {"gang": {"minGroupCount": 1}},
                "podGroupTemplates": [{"name": "b", "schedulingPolicy": GANG}],
            }
        ]
        new = {"metadata": {"name": "w"}, "spec": {"compositePodGroupTemplates": tree}}
        await w.client.create(GANG_WORKLOADS, new, "default")
        old = copy_document(await w.client.get(OLD_WORKLOADS, "w", "default"))
        assert old["spec"] == {"podGroupTemplates": []}
        old["metadata"]["labels"] = {"seen": "yes"}
        await w.client.update(OLD_WORKLOADS, old, "default")
        kept = await w.client.get(GANG_WORKLOADS, "w", "default")
        assert kept["spec"]["compositePodGroupTemplates"][0]["name"] == "a"
        assert kept["metadata"]["labels"] == {"seen": "yes"}

    world(story)


def test_flat_requests_are_exact_ones(world):
    async def story(w):
        choices = [
            {"name": "big", "deviceClassName": "a"},
            {"name": "small", "deviceClassName": "b"},
        ]
        claim = flat_claim(count=2)
        requests_of(claim).append({"name": "any", "firstAvailable": choices})
        made = await w.client.create(FLAT_CLAIMS, claim, "default")
        exact, either = requests_of(await w.client.get(RESOURCE_CLAIMS, "c", "default"))
        assert exact == {
            "name": "gpu",
            "exactly": {
                "deviceClassName": "gpu.example.com",
                "allocationMode": "ExactCount",
                "count": 2,
            },
        }
        assert [item["name"] for item in either["firstAvailable"]] == ["big", "small"]
        assert requests_of(made)[0]["count"] == 2
        assert "exactly" not in either
        template = {"metadata": {"name": "t"}, "spec": {"spec": flat_claim()["spec"]}}
        await w.client.create(FLAT_TEMPLATES, template, "default")
        stored = await w.client.get(RESOURCE_CLAIM_TEMPLATES, "t", "default")
        assert requests_of(stored["spec"])[0]["exactly"]["count"] == 1

    world(story)


def test_a_flat_request_with_choices_of_its_own_is_refused(world):
    async def story(w):
        choices = [{"name": "big", "deviceClassName": "a"}]
        claim = flat_claim(firstAvailable=choices)
        error = await w.refused(w.client.create(FLAT_CLAIMS, claim, "default"))
        assert error.code == 422
        assert "spec.devices.requests[0]" in error.message

    world(story)


def test_devices_of_a_flat_slice_have_their_content_below_basic(world):
    async def story(w):
        basic = {"attributes": {"model": {"string": "a"}}, "capacity": {"memory": {"value": "1Gi"}}}
        document = {
            "metadata": {"name": "s"},
            "spec": {
                "driver": "gpu.example.com",
                "nodeName": "n1",
                "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu-0", "basic": basic}],
            },
        }
        made = await w.client.create(FLAT_SLICES, document)
        [device] = made["spec"]["devices"]
        assert device == {"name": "gpu-0", "basic": basic}
        [stored] = (await w.client.get(RESOURCE_SLICES, "s"))["spec"]["devices"]
        assert stored == {"name": "gpu-0"} | basic

    world(story)


def test_watchers_and_deletions_speak_their_version(world):
    async def story(w):
        stream = await w.client.watch(OLD_GROUPS, "default")
        await w.client.create(
            POD_GROUPS, {"metadata": {"name": "g"}, "spec": {"schedulingPolicy": GANG}}, "default"
        )
        await w.client.delete(OLD_GROUPS, "g", "default")
        await w.client.patch(
            OLD_GROUPS, "g", {"metadata": {"finalizers": None}}, "default", patch_type=MERGE_PATCH
        )
        seen = await stream.next_batch()
        assert [event.type for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
        for event in seen:
            assert event.object["apiVersion"] == "scheduling.k8s.io/v1alpha2"
            assert event.object["spec"]["disruptionMode"] == "Pod"
        assert (await w.client.list(POD_GROUPS, "default")).items == []

    world(story)


NAMES = st.sampled_from(["a", "b", "c"])
POLICIES = st.sampled_from([{"basic": {}}, GANG])
MODES = st.sampled_from(["Pod", "PodGroup"])
PART = st.fixed_dictionaries(
    {"schedulingPolicy": POLICIES},
    optional={
        "disruptionMode": MODES,
        "priorityClassName": NAMES,
        "schedulingConstraints": st.just({"topology": [{"key": "rack"}]}),
        "resourceClaims": st.just([{"name": "x", "resourceClaimName": "y"}]),
    },
)
GROUP_SPECS = st.tuples(PART, st.booleans()).map(
    lambda pair: pair[0] | ({"podGroupTemplateRef": {"workload": TEMPLATE}} if pair[1] else {})
)
TEMPLATES = st.lists(PART, max_size=3).map(
    lambda parts: {"podGroupTemplates": [{"name": f"t{n}"} | p for n, p in enumerate(parts)]}
)
EXACT = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "deviceClassName": NAMES,
        "count": st.integers(1, 3),
        "allocationMode": st.sampled_from(["All", "ExactCount"]),
        "selectors": st.just([{"cel": {"expression": "true"}}]),
    },
)
EITHER = st.fixed_dictionaries({"name": NAMES, "firstAvailable": st.just([{"name": "x"}])})
CLAIM_SPECS = st.lists(EXACT | EITHER, max_size=3).map(lambda r: {"devices": {"requests": r}})
DEVICES = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "basic": st.fixed_dictionaries({}, optional={"nodeName": NAMES, "taints": st.just([])})
    },
)
SLICE_SPECS = st.lists(DEVICES, max_size=3).map(lambda d: {"devices": d})
SPECS = {
    "PodGroup": GROUP_SPECS,
    "Workload": TEMPLATES,
    "ResourceClaim": CLAIM_SPECS,
    "ResourceClaimTemplate": CLAIM_SPECS.map(lambda spec: {"spec": spec}),
    "ResourceSlice": SLICE_SPECS,
}


@pytest.mark.parametrize(("version", "kind"), SHAPES, ids=[kind for _, kind in SHAPES])
@given(data=st.data())
def test_there_and_back_is_the_same_and_nothing_is_touched(version, kind, data):
    shape = SHAPES[version, kind]
    document = {"metadata": {"name": "x"}, "spec": data.draw(SPECS[kind])}
    before = copy_document(document)
    stored = shape.to_stored(document, None)
    kept = copy_document(stored)
    back = shape.from_stored(stored)
    assert document == before
    assert stored == kept
    if kind == "ResourceSlice":  # every device of the flat version has a ``basic``
        for device in before["spec"]["devices"]:
            device.setdefault("basic", {})
    assert back == before
    assert shape.to_stored(back, None) == stored
