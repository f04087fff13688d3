"""Which kinds are served, under which names and versions."""

import pytest

from kubarium.api import kinds
from kubarium.api.catalog import Catalog, Kind, version_priority
from kubarium.api.resource import Resource


@pytest.fixture
def catalog() -> Catalog:
    return Catalog.builtin()


def named_resources() -> list[Resource]:
    ours = [value for value in vars(kinds).values() if isinstance(value, Resource)]
    bundled = ("x-k8s.io", "kubeflow.org", ".nvidia.com", "kubarium.dev", "checkpoint.k8s.io")
    return [resource for resource in ours if not resource.group.endswith(bundled)]


@pytest.mark.parametrize("resource", named_resources(), ids=lambda r: r.qualified)
def test_every_resource_that_our_code_names_is_served_as_named(catalog, resource):
    kind = catalog.of(resource)
    assert kind is not None
    assert kind.resource == resource
    assert catalog.for_document(resource.api_version, resource.kind) is kind


def test_pods_have_their_names_and_subresources(catalog):
    pods = catalog.lookup("", "v1", "pods")
    assert (pods.short_names, pods.categories, pods.singular) == (("po",), ("all",), "pod")
    assert {"status", "log", "binding", "eviction", "resize"} <= pods.subresources


def test_versions_of_one_shape_share_their_storage(catalog):
    for group, plural, version, storage in (
        ("resource.k8s.io", "resourceclaims", "v1beta2", "v1"),
        ("scheduling.k8s.io", "podgroups", "v1alpha3", "v1beta1"),
    ):
        kind = catalog.lookup(group, version, plural)
        assert kind.storage == catalog.lookup(group, storage, plural).resource
        assert not kind.is_storage_version


def test_both_event_groups_are_one_store(catalog):
    assert catalog.lookup("events.k8s.io", "v1", "events").storage.group == ""


def test_reviews_are_answered_and_not_stored(catalog):
    review = catalog.lookup("authorization.k8s.io", "v1", "subjectaccessreviews")
    assert review.verbs == ("create",)
    assert not review.stored


def test_plurals_and_kinds_are_unique_within_a_version(catalog):
    routes = [(k.resource.group, k.resource.version, k.resource.plural) for k in catalog.kinds()]
    names = [(k.resource.api_version, k.resource.kind) for k in catalog.kinds()]
    assert len(set(routes)) == len(routes)
    assert len(set(names)) == len(names)


def test_every_status_subresource_has_a_status_to_write(catalog):
    for kind in catalog.kinds():
        if kind.has_status:
            assert kind.schema.field("status") is not None, kind.resource


def test_selectable_fields_exist_in_the_schema(catalog):
    for kind in catalog.kinds():
        for name, selectable in kind.selectable_fields.items():
            assert kind.schema.at(*selectable.path) is not None, (kind.resource.qualified, name)


def test_groups_list_the_preferred_version_first(catalog):
    groups = catalog.groups()
    assert groups["resource.k8s.io"] == ["v1", "v1beta2", "v1beta1", "v1alpha3"]
    assert next(iter(groups)) == ""


def test_bare_names_mean_kueues_workloads_and_native_pod_groups(catalog):
    """kubectl takes a plural from the first group that has it."""
    workloads = catalog.lookup("scheduling.k8s.io", "v1beta1", "workloads")
    groups = catalog.lookup("scheduling.k8s.io", "v1beta1", "podgroups")
    for group, kind in (("kueue.x-k8s.io", workloads), ("scheduling.x-k8s.io", groups)):
        resource = kind.resource._replace(group=group)
        catalog.add(Kind(resource, kind.schema, resource, kind.singular, kind.list_kind))
    order = list(catalog.groups())
    assert order.index("kueue.x-k8s.io") < order.index("scheduling.k8s.io")
    assert order.index("scheduling.k8s.io") < order.index("scheduling.x-k8s.io")


def test_adding_and_removing_a_kind_is_seen_and_counted(catalog):
    pods = catalog.lookup("", "v1", "pods")
    before = catalog.generation
    catalog.remove(pods.resource)
    assert catalog.lookup("", "v1", "pods") is None
    assert catalog.for_document("v1", "Pod") is None
    catalog.add(pods)
    assert catalog.for_document("v1", "Pod") is pods
    assert catalog.generation == before + 2


def test_versions_sort_by_stability_then_age():
    names = ["v1alpha1", "v11beta2", "foo", "v3beta1", "v10", "v2", "v1"]
    assert sorted(names, key=version_priority) == [
        "v10",
        "v2",
        "v1",
        "v11beta2",
        "v3beta1",
        "v1alpha1",
        "foo",
    ]
