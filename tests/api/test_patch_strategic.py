"""Strategic merge patch on the real schemas of built-in kinds."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.patch import strategic_merge_patch
from kubarium.api.schema import definition
from kubarium.base.errors import ApiError

POD = definition("io.k8s.api.core.v1.Pod")
DEPLOYMENT = definition("io.k8s.api.apps.v1.Deployment")
SERVICE = definition("io.k8s.api.core.v1.Service")


def pod(*containers, **spec):
    return {"spec": {"containers": list(containers), **spec}}


def patch_pod(document, patch):
    before, given_patch = copy.deepcopy(document), copy.deepcopy(patch)
    result = strategic_merge_patch(document, patch, POD)
    assert (document, patch) == (before, given_patch), "inputs must stay as they are"
    return result


A, B, C = {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}


def test_containers_merge_by_name():
    result = patch_pod(pod(A, B), pod({"name": "b", "image": "9"}))
    assert result == pod(A, {"name": "b", "image": "9"})


def test_a_container_that_matches_none_is_added_in_front_as_upstream_does():
    assert patch_pod(pod(A), pod(B)) == pod(B, A)


def test_null_removes_a_field_and_unmatched_nulls_vanish():
    patch = {"spec": {"nodeName": None, "x": {"y": None, "z": 1}}}
    assert patch_pod(pod(A, nodeName="n"), patch) == pod(A, x={"z": 1})


def test_patch_delete_removes_a_list_element():
    assert patch_pod(pod(A, B), pod({"$patch": "delete", "name": "a"})) == pod(B)


def test_patch_replace_in_a_list_replaces_all_elements():
    assert patch_pod(pod(A, B), pod({"$patch": "replace"}, C)) == pod(C)


def test_patch_replace_in_a_map_replaces_the_map():
    patch = {"spec": {"$patch": "replace", "nodeName": "n"}}
    assert patch_pod(pod(A), patch) == {"spec": {"nodeName": "n"}}


def test_patch_delete_empties_a_map():
    assert patch_pod(pod(A), {"spec": {"$patch": "delete"}}) == {"spec": {}}


def test_lists_without_a_merge_strategy_are_replaced():
    args = [{"name": "a", "args": ["x", "y"]}]
    assert patch_pod(pod(*args), pod({"name": "a", "args": ["z"]})) == pod(
        {"name": "a", "args": ["z"]}
    )


def test_lists_of_scalars_with_a_merge_strategy_merge_without_duplicates():
    document = {"metadata": {"finalizers": ["a", "b"]}}
    result = patch_pod(document, {"metadata": {"finalizers": ["b", "c"]}})
    assert sorted(result["metadata"]["finalizers"]) == ["a", "b", "c"]


def test_delete_from_primitive_list_removes_values():
    document = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}}
    assert patch_pod(document, patch) == {"metadata": {"finalizers": ["a", "c"]}}


def test_set_element_order_orders_the_named_and_weaves_in_the_others():
    order = [{"name": "c"}, {"name": "a"}]
    patch = {"spec": {"$setElementOrder/containers": order, "containers": [C]}}
    result = patch_pod(pod(A, B), patch)
    assert [c["name"] for c in result["spec"]["containers"]] == ["c", "a", "b"]


def test_set_element_order_alone_reorders():
    patch = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert patch_pod(pod(A, B), patch) == pod(B, A)


def test_set_element_order_with_deletion_of_scalars():
    document = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {
        "metadata": {
            "$setElementOrder/finalizers": ["c", "a"],
            "$deleteFromPrimitiveList/finalizers": ["b"],
        }
    }
    assert patch_pod(document, patch) == {"metadata": {"finalizers": ["c", "a"]}}


def test_a_patch_list_out_of_the_stated_order_is_refused():
    order = [{"name": "a"}, {"name": "b"}]
    patch = {"spec": {"$setElementOrder/containers": order, "containers": [B, A]}}
    with pytest.raises(ApiError, match="doesn't match") as caught:
        patch_pod(pod(A, B), patch)
    assert caught.value.code == 422


def test_retain_keys_drops_the_other_fields_of_a_union():
    document = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    result = strategic_merge_patch(document, patch, DEPLOYMENT)
    assert result == {"spec": {"strategy": {"type": "Recreate"}}}


def test_volumes_replace_their_source_with_retain_keys():
    document = pod(A, volumes=[{"name": "v", "emptyDir": {}}])
    volume = {"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}
    result = patch_pod(document, {"spec": {"volumes": [volume]}})
    assert result["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_directives_do_not_survive_where_nothing_was_before():
    patch = pod({"name": "a", "$setElementOrder/env": [], "env": [{"name": "E"}]})
    patch["metadata"] = {"$patch": "replace", "labels": {"a": "b"}}
    result = patch_pod({}, patch)
    assert result == pod({"name": "a", "env": [{"name": "E"}]}) | {
        "metadata": {"labels": {"a": "b"}}
    }


def test_service_ports_merge_by_port_number():
    document = {"spec": {"ports": [{"port": 80, "name": "x"}, {"port": 443}]}}
    patch = {"spec": {"ports": [{"port": 80, "name": "y"}]}}
    result = strategic_merge_patch(document, patch, SERVICE)
    assert result["spec"]["ports"] == [{"port": 80, "name": "y"}, {"port": 443}]


@pytest.mark.parametrize(
    ("patch", "code", "message"),
    [
        ([], 400, "is an object"),
        ({"spec": {"$patch": "explode"}}, 422, "unknown patch type: explode"),
        (pod({"image": "x"}), 422, "does not contain declared merge key: name"),
        (pod({"$patch": "delete"}), 422, "does not contain declared merge key: name"),
        (pod({"$patch": "merge", "name": "a"}), 422, "merging lists cannot yet be specified"),
        (pod(A, "x"), 422, "list element types are not identical"),
        (pod(["x"]), 422, "lists of lists are not supported"),
        ({"spec": {"$retainKeys": "x"}}, 400, "invalid patch format of retainKeys"),
        ({"spec": {"$retainKeys": ["a"], "nodeName": "n"}}, 400, "nodeName is set"),
        ({"spec": {"$setElementOrder/containers": {}}}, 400, "of setElementOrder list"),
        ({"spec": {"$setElementOrder/containers": [[1]]}}, 422, "declared merge key"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}, 400, "primitive list"),
    ],
)
def test_malformed_patches_are_refused_with_a_reason(patch, code, message):
    document = pod(A) | {"metadata": {"finalizers": ["f"]}}
    with pytest.raises(ApiError) as caught:
        strategic_merge_patch(document, patch, POD)
    assert caught.value.code == code
    assert message in caught.value.message


def test_custom_resources_take_no_strategic_patch():
    with pytest.raises(ApiError) as caught:
        strategic_merge_patch({}, {}, None)
    assert (caught.value.code, caught.value.reason) == (415, "UnsupportedMediaType")
    assert "application/merge-patch+json" in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", "merge", "delete"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "spec",
                    "containers",
                    "name",
                    "env",
                    "metadata",
                    "finalizers",
                    "$patch",
                    "$retainKeys",
                    "$setElementOrder/containers",
                    "$deleteFromPrimitiveList/env",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values, json_values)
def test_any_patch_either_applies_or_is_refused_and_changes_no_input(document, patch):
    document = document if isinstance(document, dict) else {"spec": document}
    before = copy.deepcopy(document)
    try:
        outcome = strategic_merge_patch(document, patch, POD)
    except ApiError as error:
        outcome = error.code
    assert isinstance(outcome, dict) or outcome in (400, 422)
    assert document == before


names = st.sampled_from("abcde")
container_lists = st.lists(names, unique=True, max_size=5).map(
    lambda chosen: [{"name": name, "image": name * 2} for name in chosen]
)


def two_way_diff(old, new):
    """What kubectl sends to turn one container list into another."""
    olds = {c["name"]: c for c in old}
    changed = [c for c in new if olds.get(c["name"]) != c]
    gone = [{"$patch": "delete", "name": n} for n in olds if n not in {c["name"] for c in new}]
    order = [{"name": c["name"]} for c in new]
    return {"spec": {"$setElementOrder/containers": order, "containers": changed + gone}}


@given(container_lists, container_lists)
def test_kubectls_difference_of_lists_gives_exactly_the_new_list(old, new):
    result = strategic_merge_patch(pod(*old), two_way_diff(old, new), POD)
    assert result["spec"]["containers"] == new
