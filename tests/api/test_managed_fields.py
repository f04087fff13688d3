"""Server-side apply and update tracking against the schemas of built-in kinds."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.managed_fields import MAX_UPDATE_MANAGERS, apply, track_update, typed
from kubarium.api.managed_fields import fieldset as fs
from kubarium.api.schema import Schema, builtin_schemas, definition
from kubarium.base.errors import ApiError

DEPLOYMENT = definition("io.k8s.api.apps.v1.Deployment")
POD = definition("io.k8s.api.core.v1.Pod")
NOW = "1970-01-01T00:00:05Z"


def deployment(spec=None, **metadata):
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    document["metadata"] |= metadata
    return document | ({"spec": spec} if spec is not None else {})


def with_containers(*containers):
    return {"template": {"spec": {"containers": list(containers)}}}


def ssa(live, applied, manager="me", force=False, now=5.0, **options):
    before = copy.deepcopy((live, applied))
    result = apply(
        live, applied, manager=manager, force=force, schema=DEPLOYMENT, now=now, **options
    )
    assert (live, applied) == before, "inputs must stay as they are"
    return result


def update(old, new, manager="other", now=1.0, schema=DEPLOYMENT, **options):
    before = copy.deepcopy((old, new))
    result = track_update(old, new, manager=manager, schema=schema, now=now, **options)
    assert (old, new) == before, "inputs must stay as they are"
    return result


def entries(document):
    return document["metadata"].get("managedFields", [])


def fields_of(document, manager, subresource=""):
    for entry in entries(document):
        if entry["manager"] == manager and entry.get("subresource", "") == subresource:
            return entry["fieldsV1"]
    return None


# --- apply ----------------------------------------------------------------------------------------


def test_applying_to_nothing_creates_with_one_apply_entry():
    created = ssa(None, deployment({"replicas": 2}))
    assert created["spec"] == {"replicas": 2}
    assert entries(created) == [
        {
            "manager": "me",
            "operation": "Apply",
            "apiVersion": "apps/v1",
            "time": NOW,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }
    ]


def test_a_field_left_out_that_nobody_else_owns_is_removed():
    live = ssa(None, deployment({"replicas": 2, "paused": True}))
    assert ssa(live, deployment({"replicas": 2}))["spec"] == {"replicas": 2}


def test_a_field_left_out_that_another_owns_stays():
    live = ssa(None, deployment({"replicas": 2, "paused": True}))
    live = ssa(live, deployment({"paused": True}), manager="second")
    result = ssa(live, deployment({"replicas": 2}))
    assert result["spec"] == {"replicas": 2, "paused": True}
    assert fields_of(result, "me") == {"f:spec": {"f:replicas": {}}}


def test_a_list_item_left_out_is_removed_with_its_defaulted_fields():
    two = [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]
    live = ssa(None, deployment(with_containers(*two)))
    defaulted = copy.deepcopy(live)
    for container in defaulted["spec"]["template"]["spec"]["containers"]:
        container["imagePullPolicy"] = "Always"
    result = ssa(defaulted, deployment(with_containers(two[0])))
    assert result["spec"]["template"]["spec"]["containers"] == [
        {"name": "a", "image": "x", "imagePullPolicy": "Always"}
    ]


def test_another_managers_value_is_a_conflict_naming_manager_and_field():
    live = update(None, deployment({"replicas": 1}), manager="kubectl-create")
    with pytest.raises(ApiError) as caught:
        ssa(live, deployment({"replicas": 3}))
    error = caught.value
    assert (error.code, error.reason) == (409, "Conflict")
    conflict = 'conflict with "kubectl-create" using apps/v1'
    assert error.message == f"Apply failed with 1 conflict: {conflict}: .spec.replicas"
    assert error.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": conflict, "field": ".spec.replicas"}
    ]


def test_several_conflicts_are_listed_by_manager():
    spec = with_containers({"name": "a", "image": "x"}) | {"replicas": 1}
    live = update(None, deployment(spec), manager="kubectl-create")
    wanted = with_containers({"name": "a", "image": "y"}) | {"replicas": 2}
    with pytest.raises(ApiError) as caught:
        ssa(live, deployment(wanted))
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "kubectl-create" using apps/v1:\n'
        "- .spec.replicas\n"
        '- .spec.template.spec.containers[name="a"].image'
    )


def test_a_conflict_with_an_applier_and_a_subresource_is_named_as_upstream_does():
    live = ssa(None, deployment({"replicas": 1}), manager="hpa", subresource="scale")
    with pytest.raises(ApiError, match=r'conflict with "hpa" with subresource "scale": \.spec'):
        ssa(live, deployment({"replicas": 3}))


def test_force_takes_the_field_over():
    live = update(None, deployment({"replicas": 1}), manager="kubectl-create")
    result = ssa(live, deployment({"replicas": 3}), force=True)
    assert result["spec"] == {"replicas": 3}
    assert [entry["manager"] for entry in entries(result)] == ["me"]


def test_the_same_value_is_shared_without_conflict():
    live = ssa(None, deployment({"replicas": 3}), manager="first")
    result = ssa(live, deployment({"replicas": 3}))
    assert fields_of(result, "first") == fields_of(result, "me") == {"f:spec": {"f:replicas": {}}}


def test_applying_the_same_again_returns_the_live_object_itself():
    live = ssa(None, deployment({"replicas": 3}))
    assert ssa(live, deployment({"replicas": 3}), now=99.0) is live


def test_atomic_fields_belong_to_one_manager_as_a_whole():
    selector = {"selector": {"matchLabels": {"a": "b"}}}
    result = ssa(None, deployment(selector))
    assert fields_of(result, "me") == {"f:spec": {"f:selector": {}}}


def test_list_keys_with_several_fields_use_the_published_default():
    port = {"name": "a", "ports": [{"containerPort": 80}]}
    result = ssa(None, deployment(with_containers(port)))
    assert list(fs.paths(fields_of(result, "me"))) == [
        '.spec.template.spec.containers[name="a"]',
        '.spec.template.spec.containers[name="a"].name',
        '.spec.template.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"]',
        '.spec.template.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"]'
        ".containerPort",
    ]


def test_items_with_one_key_are_told_apart_by_its_type_and_a_missing_key_is_no_key():
    of = Schema(builtin_schemas(), "array")
    of.list_type, of.list_map_keys = "map", ("id",)
    found = typed.elements([{"id": 1}, {"id": True}, {"id": "1"}, {}], of, "map")
    assert list(found) == ['k:{"id":1}', 'k:{"id":true}', 'k:{"id":"1"}', "k:{}"]
    assert list(typed.elements([{"id": 1}, {"id": 1}], of, "map")) == ['k:{"id":1}']


def test_applied_items_come_in_their_order_between_the_neighbours_they_had():
    def live_of(*names):
        return ssa(None, deployment(with_containers(*({"name": n} for n in names))), "first")

    def order(live, *names):
        applied = deployment(with_containers(*({"name": n} for n in names)))
        result = ssa(live, applied)
        return "".join(c["name"] for c in result["spec"]["template"]["spec"]["containers"])

    assert order(live_of("a", "b", "c"), "b", "x") == "abcx"
    assert order(live_of("a", "b"), "b", "a") == "ba"
    assert order(live_of("a", "b"), "x", "b") == "axb"


def test_the_same_items_in_another_order_are_a_change():
    def of(*names):
        return deployment(with_containers(*({"name": n} for n in names)))

    live = ssa(None, of("a", "b"))
    assert ssa(live, of("a", "b"), now=9.0) is live
    turned = ssa(live, of("b", "a"))
    assert [c["name"] for c in turned["spec"]["template"]["spec"]["containers"]] == ["b", "a"]


def test_without_a_schema_lists_are_atomic():
    one = {"apiVersion": "e/v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"l": [{"a": 1}]}}
    live = apply(None, one, manager="a", force=False, schema=None, now=0)
    assert fields_of(live, "a") == {"f:spec": {".": {}, "f:l": {}}}
    two = one | {"spec": {"l": [{"b": 2}]}}
    result = apply(live, two, manager="a", force=False, schema=None, now=1)
    assert result["spec"] == {"l": [{"b": 2}]}


def test_metadata_survives_when_its_last_applied_label_goes():
    live = ssa(None, deployment({"replicas": 1}, labels={"a": "b"}))
    result = ssa(live, deployment({"replicas": 1}))
    assert result["metadata"]["name"] == "web"
    assert "labels" not in result["metadata"]
    assert "metadata" not in (fields_of(result, "me") or {})


def test_managed_fields_in_an_applied_configuration_are_refused():
    with pytest.raises(ApiError, match=r"metadata\.managedFields must be nil"):
        ssa(None, deployment({}, managedFields=[{"manager": "x"}]))


def test_apply_needs_a_manager():
    with pytest.raises(ApiError, match="fieldManager is required"):
        ssa(None, deployment({}), manager="")


def test_kubectls_last_applied_annotation_follows_its_server_side_apply():
    key = "kubectl.kubernetes.io/last-applied-configuration"
    live = update(None, deployment({"replicas": 1}, annotations={key: "{}"}), manager="kubectl")
    result = ssa(live, deployment({"replicas": 1}), manager="kubectl")
    assert '"replicas":1' in result["metadata"]["annotations"][key]


# --- update tracking ------------------------------------------------------------------------------


def test_a_create_owns_its_fields_and_their_containers_but_not_the_servers():
    metadata = {"labels": {"a": "b"}, "uid": "u", "resourceVersion": "1", "generation": 1}
    created = update(None, deployment({"replicas": 1}, **metadata))
    assert fields_of(created, "other") == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:replicas": {}},
    }


def test_an_update_takes_the_fields_it_changes_from_their_owners():
    live = ssa(None, deployment({"replicas": 1, "paused": True}))
    changed = update(live, live | {"spec": {"replicas": 5, "paused": True}})
    assert fields_of(changed, "me") == {"f:spec": {"f:paused": {}}}
    assert fields_of(changed, "other") == {"f:spec": {"f:replicas": {}}}


def test_a_removed_field_is_owned_by_nobody():
    live = update(None, deployment({"replicas": 1, "paused": True}), manager="a")
    result = update(live, live | {"spec": {"replicas": 1}}, manager="b")
    assert fields_of(result, "a") == {"f:spec": {"f:replicas": {}}}
    assert fields_of(result, "b") is None


def test_a_write_that_changes_nothing_keeps_entries_and_times():
    live = update(None, deployment({"replicas": 1}))
    same = copy.deepcopy(live)
    same["metadata"]["resourceVersion"] = "77"
    assert entries(update(live, same, now=50.0)) == entries(live)
    bare = copy.deepcopy(live)
    del bare["metadata"]["managedFields"]
    assert entries(update(live, bare, now=50.0)) == entries(live)


def test_a_change_of_value_moves_the_time_of_the_entry():
    live = update(None, deployment({"replicas": 1}))
    result = update(live, live | {"spec": {"replicas": 2}}, now=5.0)
    assert [entry["time"] for entry in entries(result)] == [NOW]


def test_a_status_write_has_an_entry_of_its_own():
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}}
    live = update(None, pod, manager="kubelet", schema=POD)
    condition = {"type": "Ready", "status": "True"}
    new = live | {"status": {"phase": "Running", "conditions": [condition]}}
    result = update(live, new, manager="kubelet", schema=POD, subresource="status")
    assert fields_of(result, "kubelet", "status") == {
        "f:status": {
            "f:conditions": {
                ".": {},
                'k:{"type":"Ready"}': {".": {}, "f:status": {}, "f:type": {}},
            },
            "f:phase": {},
        }
    }
    assert fields_of(result, "kubelet") == {"f:spec": {"f:nodeName": {}}}


def test_an_empty_list_of_managed_fields_resets_them():
    live = update(None, deployment({"replicas": 1}))
    reset = copy.deepcopy(live)
    reset["metadata"]["managedFields"] = []
    assert "managedFields" not in update(live, reset)["metadata"]


def test_managed_fields_that_a_writer_sets_are_taken():
    live = update(None, deployment({"replicas": 1}))
    renamed = copy.deepcopy(live)
    renamed["metadata"]["managedFields"][0]["manager"] = "renamed"
    assert [e["manager"] for e in entries(update(live, renamed))] == ["renamed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operation": "Steal"}, 'managedFields[0].operation: Invalid value: "Steal"'),
        ({"fieldsType": "V2"}, 'managedFields[0].fieldsType: Invalid value: "V2"'),
        ({"fieldsV1": {"spec": {}}}, "'spec' is no path element"),
        ({"fieldsV1": {"k:{": {}}}, "'k:{' holds no JSON"),
        ({"fieldsV1": 3}, "fieldsV1 must be an object"),
    ],
)
def test_malformed_managed_fields_are_400(change, message):
    live = update(None, deployment({"replicas": 1}))
    bad = copy.deepcopy(live)
    bad["metadata"]["managedFields"][0] |= change
    with pytest.raises(ApiError) as caught:
        update(live, bad)
    assert caught.value.code == 400
    assert message in caught.value.message


def test_the_oldest_updaters_share_one_entry_beyond_the_cap():
    document = update(None, deployment({"replicas": 0}))
    for number in range(MAX_UPDATE_MANAGERS + 5):
        labels = {**document["metadata"].get("labels", {}), f"l{number}": "x"}
        changed = document | {"metadata": document["metadata"] | {"labels": labels}}
        document = update(document, changed, manager=f"m{number:02}", now=float(number))
    managers = [entry["manager"] for entry in entries(document)]
    assert len(managers) == MAX_UPDATE_MANAGERS
    assert managers.count("ancient-changes") == 1
    owned = set().union(*(fs.paths(entry["fieldsV1"]) for entry in entries(document)))
    assert {f".metadata.labels.l{n}" for n in range(MAX_UPDATE_MANAGERS + 5)} <= owned


# --- properties -----------------------------------------------------------------------------------

elements = st.sampled_from(["f:a", "f:b", 'k:{"n":1}', 'v:"x"'])
path_lists = st.lists(st.lists(elements, min_size=1, max_size=4).map(tuple), max_size=8)


def tree(paths):
    root = {}
    for path in paths:
        node = root
        for step in path:
            node = node.setdefault(step, {})
        node["."] = {}
    return _tidy(root)


def _tidy(node):
    children = {k: _tidy(v) for k, v in node.items() if k != "."}
    return {".": {}, **children} if "." in node and children else children


def members(node, prefix=()):
    found = set()
    for step, child in (node or {}).items():
        if step != ".":
            if fs.is_member(child):
                found.add((*prefix, step))
            found |= members(child, (*prefix, step))
    return found


def as_set(paths):
    return tree(paths) or None


@given(path_lists, path_lists)
def test_field_sets_compute_like_sets_of_paths(left, right):
    a, b = as_set(left), as_set(right)
    assert members(fs.union(a, b)) == set(left) | set(right)
    assert members(fs.difference(a, b)) == set(left) - set(right)
    assert members(fs.intersection(a, b)) == set(left) & set(right)


@given(path_lists)
def test_a_set_is_unchanged_by_itself_and_by_nothing(paths):
    a = as_set(paths)
    assert fs.union(a, a) is a
    assert fs.difference(a, None) is a
    assert members(fs.difference(a, a)) == set()


specs = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 3),
        "paused": st.booleans(),
        "template": st.lists(st.sampled_from("abc"), unique=True, min_size=1).flatmap(
            lambda names: st.fixed_dictionaries(
                {
                    "spec": st.fixed_dictionaries(
                        {
                            "containers": st.tuples(
                                *(
                                    st.fixed_dictionaries(
                                        {"name": st.just(n), "image": st.sampled_from("xy")}
                                    )
                                    for n in names
                                )
                            ).map(list)
                        }
                    )
                }
            )
        ),
    },
)


@given(specs, specs, specs)
def test_a_lone_applier_always_gets_exactly_what_it_applied_last(first, second, third):
    live = None
    for spec in (first, second, third):
        live = ssa(live, deployment(spec))
        stripped = {k: v for k, v in live.get("spec", {}).items() if v != {}}
        assert stripped == {k: v for k, v in spec.items() if v != {}}


@given(specs, specs)
def test_every_leaf_of_an_update_has_exactly_one_owner(first, second):
    live = update(None, deployment(first), manager="a")
    live = update(live, live | {"spec": second}, manager="b")
    owners = {}
    for entry in entries(live):
        for path in fs.paths(entry["fieldsV1"]):
            assert path not in owners
            owners[path] = entry["manager"]
    if "replicas" in second:
        assert ".spec.replicas" in owners


@given(specs, specs)
def test_forced_apply_never_conflicts_and_wins(first, second):
    live = update(None, deployment(first), manager="a")
    result = ssa(live, deployment(second), force=True)
    for key, value in second.items():
        if key != "template":
            assert result["spec"][key] == value
