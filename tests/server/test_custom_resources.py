"""CustomResourceDefinitions: what is defined is served, validated, scaled, and cleaned up."""

import copy

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.crds.definition import bundled
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS as CRDS
from kubarium.api.kinds import NAMESPACES, RESOURCE_FLAVORS
from kubarium.api.resource import Resource
from kubarium.base.chance import Chance
from kubarium.client.protocol import APPLY_PATCH, STRATEGIC_MERGE_PATCH
from kubarium.runtime.virtual import VirtualClock
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient

WIDGETS = Resource("example.com", "v1", "widgets", "Widget", True)
OLD_WIDGETS = Resource("example.com", "v1beta1", "widgets", "Widget", True)
NAME = "widgets.example.com"

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "color": {"type": "string", "default": "blue"},
                "replicas": {"type": "integer"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
            "x-kubernetes-validations": [
                {"rule": "self.size < 100", "message": "too large"},
                {"rule": "self.color == oldSelf.color", "message": "color is immutable"},
            ],
        },
        "status": {
            "type": "object",
            "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}},
        },
    },
}


def definition(**spec):
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": copy.deepcopy(SCHEMA)},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
    }
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]}
    body = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": NAME}, "spec": body | spec}


def widget(name="w", **spec):
    return {"metadata": {"name": name}, "spec": {"size": 1} | spec}


async def define(w, **spec):
    return await w.client.create(CRDS, definition(**spec))


def test_a_definition_is_served_at_once(world):
    async def story(w):
        made = await define(w)
        conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        assert made["status"]["storedVersions"] == ["v1"]
        assert made["status"]["acceptedNames"]["listKind"] == "WidgetList"
        created = await w.client.create(WIDGETS, widget(), "default")
        assert created["metadata"]["generation"] == 1
        assert created["spec"] == {"size": 1, "color": "blue"}
        assert (await w.client.list(WIDGETS)).items == [created]

    world(story)


def test_unknown_fields_are_pruned_or_refused(world):
    async def story(w):
        await define(w)
        free = widget(free={"anything": {"goes": [1]}})
        made = await w.client.create(WIDGETS, free, "default")
        assert made["spec"]["free"] == {"anything": {"goes": [1]}}
        error = await w.refused(w.client.create(WIDGETS, widget("x", sise=2), "default"))
        assert error.code == 400
        assert 'unknown field "spec.sise"' in error.message

    world(story)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than"),
        ({"size": "big"}, "spec.size: Invalid value"),
        ({"size": None}, "spec.size: "),
        ({"size": 100}, "too large"),
    ],
)
def test_values_and_rules_are_checked(world, spec, text):
    async def story(w):
        await define(w)
        error = await w.refused(w.client.create(WIDGETS, widget(**spec), "default"))
        assert error.code == 422
        assert error.message.startswith('Widget.example.com "w" is invalid: ')
        assert text in error.message

    world(story)


def test_transition_rules_see_the_old_object(world):
    async def story(w):
        await define(w)
        await w.client.create(WIDGETS, widget(), "default")
        error = await w.refused(w.client.patch(WIDGETS, "w", {"spec": {"color": "red"}}, "default"))
        assert "color is immutable" in error.message

    world(story)


def test_status_and_generation_are_kept_apart(world):
    async def story(w):
        await define(w)
        made = await w.client.create(WIDGETS, widget() | {"status": {"replicas": 9}}, "default")
        assert "status" not in made
        made = await w.client.patch(
            WIDGETS,
            "w",
            {"status": {"replicas": 2}, "spec": {"size": 7}, "metadata": {"labels": {"a": "b"}}},
            "default",
            subresource="status",
        )
        assert made["status"] == {"replicas": 2}
        assert made["spec"]["size"] == 1
        assert made["metadata"]["generation"] == 1
        assert "labels" not in made["metadata"]
        made = await w.client.patch(WIDGETS, "w", {"spec": {"size": 2}}, "default")
        assert made["metadata"]["generation"] == 2

    world(story)


def test_scale_follows_the_declared_paths(world):
    async def story(w):
        await define(w)
        await w.client.create(WIDGETS, widget(replicas=3), "default")
        await w.client.patch(
            WIDGETS, "w", {"status": {"selector": "a=b"}}, "default", subresource="status"
        )
        answer = await w.client.patch(
            WIDGETS, "w", {"spec": {"replicas": 4}}, "default", subresource="scale"
        )
        assert answer["spec"]["replicas"] == 4
        assert answer["status"] == {"replicas": 0, "selector": "a=b"}
        assert (await w.client.get(WIDGETS, "w", "default"))["spec"]["replicas"] == 4

    world(story)


def test_declared_fields_select(world):
    async def story(w):
        await define(w)
        await w.client.create(WIDGETS, widget("a", color="red"), "default")
        await w.client.create(WIDGETS, widget("b"), "default")
        page = await w.client.list(WIDGETS, field_selector="spec.color=red")
        assert [item["metadata"]["name"] for item in page.items] == ["a"]

    world(story)


def test_patches_have_no_merge_keys_but_apply_works(world):
    async def story(w):
        await define(w)
        await w.client.create(WIDGETS, widget(), "default")
        error = await w.refused(
            w.client.patch(WIDGETS, "w", {}, "default", patch_type=STRATEGIC_MERGE_PATCH)
        )
        assert error.code == 415
        applied = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}
        made = await w.client.patch(
            WIDGETS,
            "w",
            applied | {"spec": {"size": 5}},
            "default",
            patch_type=APPLY_PATCH,
            force=True,
        )
        assert made["spec"]["size"] == 5

    world(story)


def test_versions_of_one_kind_share_their_objects(world):
    async def story(w):
        spec = definition()["spec"]
        old = spec["versions"][0] | {"name": "v1beta1", "storage": False}
        await define(w, versions=[spec["versions"][0], old])
        await w.client.create(
            OLD_WIDGETS, widget() | {"apiVersion": "example.com/v1beta1"}, "default"
        )
        new = await w.client.get(WIDGETS, "w", "default")
        assert new["apiVersion"] == "example.com/v1"
        watch = await w.client.watch(OLD_WIDGETS)
        await w.client.patch(WIDGETS, "w", {"spec": {"size": 3}}, "default")
        versions = [event.object["apiVersion"] for event in await watch.next_batch()]
        assert versions == ["example.com/v1beta1"] * 2

    world(story)


def test_a_version_that_is_no_longer_served_ends_its_watches(world):
    async def story(w):
        spec = definition()["spec"]
        old = spec["versions"][0] | {"name": "v1beta1", "storage": False}
        await define(w, versions=[spec["versions"][0], old])
        watch = await w.client.watch(OLD_WIDGETS)
        await w.client.patch(CRDS, NAME, {"spec": {"versions": spec["versions"]}})
        assert await watch.next_batch() == []
        error = await w.refused(w.client.list(OLD_WIDGETS))
        assert error.code == 404
        await w.client.list(WIDGETS)

    world(story)


def test_a_deleted_definition_takes_its_objects_along(world):
    async def story(w):
        await define(w)
        await w.client.create(NAMESPACES, {"metadata": {"name": "team"}})
        for namespace in ("default", "team"):
            await w.client.create(WIDGETS, widget(), namespace)
        watch = await w.client.watch(WIDGETS, resource_version=str(w.store.revision))
        await w.client.delete(CRDS, NAME)
        events = await watch.next_batch()
        assert [event.type for event in events] == ["DELETED", "DELETED"]
        assert (await w.refused(w.client.get(CRDS, NAME))).code == 404
        assert (await w.refused(w.client.list(WIDGETS))).code == 404

    world(story)


def test_a_deleted_definition_waits_for_finalizers_of_its_objects(world):
    async def story(w):
        await define(w)
        held = widget()
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await w.client.create(WIDGETS, held, "default")
        await w.client.delete(CRDS, NAME)
        assert "deletionTimestamp" in (await w.client.get(CRDS, NAME))["metadata"]
        assert "deletionTimestamp" in (await w.client.get(WIDGETS, "w", "default"))["metadata"]
        await w.client.patch(WIDGETS, "w", {"metadata": {"finalizers": None}}, "default")
        assert (await w.refused(w.client.get(CRDS, NAME))).code == 404

    world(story)


def test_names_that_are_taken_are_not_accepted(world):
    async def story(w):
        await define(w)
        other = definition(names={"plural": "wd", "kind": "Wd", "singular": "wd"})
        other["metadata"]["name"] = "wd.example.com"
        made = await w.client.create(CRDS, other)
        conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "False", "Established": "False"}

    world(story)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"group": "other.com"}, "metadata.name"),
        ({"scope": "Everywhere"}, "spec.scope"),
        ({"versions": []}, "spec.versions"),
    ],
)
def test_wrong_definitions_are_refused(world, change, text):
    async def story(w):
        error = await w.refused(define(w, **change))
        assert error.code == 422
        assert text in error.message

    world(story)


def test_definitions_are_served_again_after_a_restart(world):
    async def story(w):
        await define(w)
        made = await w.client.create(WIDGETS, widget(), "default")
        again = ApiServer(w.store, Catalog.builtin(), VirtualClock(), Chance(2))
        assert await LocalClient(again, "x").get(WIDGETS, "w", "default") == made

    world(story)


def test_the_bundled_definitions_are_accepted_as_they_stand(world):
    async def story(w):
        for crd in bundled():
            made = await w.client.create(CRDS, crd)
            assert made["spec"] == crd["spec"]
        flavor = await w.client.create(
            RESOURCE_FLAVORS, {"metadata": {"name": "f"}, "spec": {"nodeLabels": {"a": "b"}}}
        )
        assert flavor["kind"] == "ResourceFlavor"

    world(story)
