"""create, update and patch: identity, locks, parts, generation, dry run."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DEVICE_TAINT_RULES,
    JOBS,
    LEASES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUMES,
    PODS,
    RUNTIME_CLASSES,
    SECRETS,
)
from kubarium.client.protocol import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
)
from kubarium.server.strategies.table import strategies

DEPLOYMENT = {
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "nginx"}]},
        },
    },
}


def config_map(name="a", **data):
    return {"metadata": {"name": name}, "data": data}


def test_create_gives_identity_and_keeps_nothing_of_the_callers_document(world):
    async def story(w):
        sent = config_map(x="1")
        made = await w.client.create(CONFIG_MAPS, sent, "default")
        metadata = made["metadata"]
        assert metadata["uid"]
        assert metadata["creationTimestamp"] == "2026-01-01T00:00:00Z"
        assert metadata["namespace"] == "default"
        assert metadata["resourceVersion"] == str(w.store.revision)
        assert "generation" not in metadata  # config maps have no desired state
        assert sent == config_map(x="1")
        sent["data"]["x"] = "2"
        assert (await w.client.get(CONFIG_MAPS, "a", "default"))["data"] == {"x": "1"}

    world(story)


def test_create_ignores_system_fields_and_refuses_a_resource_version(world):
    async def story(w):
        document = config_map()
        document["metadata"] |= {"uid": "mine", "generation": 7, "deletionTimestamp": None}
        made = await w.client.create(CONFIG_MAPS, document, "default")
        assert made["metadata"]["uid"] != "mine"
        assert "generation" not in made["metadata"]
        document = config_map("b")
        document["metadata"]["resourceVersion"] = "1"
        error = await w.refused(w.client.create(CONFIG_MAPS, document, "default"))
        assert error.code == 400
        assert error.message == "resourceVersion should not be set on objects to be created"

    world(story)


BAD_CONDITION = {"status": {"conditions": [{"status": "True", "lastHeartbeatTime": None}]}}


@pytest.mark.parametrize("patch_type", [STRATEGIC_MERGE_PATCH, APPLY_PATCH])
def test_list_items_without_their_key_are_stored_with_an_empty_one(world, patch_type):
    async def story(w):
        await w.client.create(NODES, {"metadata": {"name": "web"}})
        await w.client.patch(
            NODES, "web", BAD_CONDITION, patch_type=MERGE_PATCH, subresource="status"
        )
        stored = await w.client.get(NODES, "web")
        assert stored["status"]["conditions"] == [{"type": "", "status": "True"}]
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        change = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "web"}, **ready}
        patched = await w.client.patch(
            NODES, "web", change, patch_type=patch_type, subresource="status"
        )
        assert {c["type"] for c in patched["status"]["conditions"]} == {"", "Ready"}

    world(story)


def test_secrets_fold_texts_into_data_on_every_write(world):
    async def story(w):
        secret = {"metadata": {"name": "s"}, "stringData": {"a": "one"}, "data": {"b": "Yg=="}}
        stored = await w.client.create(SECRETS, secret, "default")
        assert stored["data"] == {"a": "b25l", "b": "Yg=="}
        assert "stringData" not in stored
        stored = await w.client.update(SECRETS, {**stored, "stringData": {"a": "two"}})
        assert stored["data"] == {"a": "dHdv", "b": "Yg=="}
        for patch_type in (MERGE_PATCH, STRATEGIC_MERGE_PATCH):
            change = {"stringData": {"c": patch_type[:3]}, "data": {"b": None}}
            stored = await w.client.patch(SECRETS, "s", change, "default", patch_type=patch_type)
            assert stored["data"] == {"a": "dHdv", "c": "YXBw"}
        applied = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "applied"},
            "stringData": {"a": "one"},
        }
        for name in ("applied", "s"):
            applied = {**applied, "metadata": {"name": name}}
            for _ in range(2):
                stored = await w.client.patch(
                    SECRETS, name, applied, "default", patch_type=APPLY_PATCH
                )
                assert stored["data"]["a"] == "b25l"
                assert "stringData" not in stored

    world(story)


def test_a_patch_cannot_make_another_kind_of_an_object(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map(), "default")
        for change in ({"kind": "Secret"}, {"apiVersion": "v2"}):
            error = await w.refused(w.client.patch(CONFIG_MAPS, "a", change, "default"))
            assert error.code == 400
            assert "does not match" in error.message

    world(story)


def test_finalizers_of_built_in_kinds_have_a_domain(world):
    async def story(w):
        document = config_map()
        document["metadata"]["finalizers"] = ["orphan", "example.com/keep", "mine"]
        error = await w.refused(w.client.create(CONFIG_MAPS, document, "default"))
        assert error.code == 422
        why = "name is neither a standard finalizer name nor is it fully qualified"
        assert f'metadata.finalizers[2]: Invalid value: "mine": {why}' in error.message
        assert "finalizers[0]" not in error.message
        await w.client.create(CONFIG_MAPS, config_map(), "default")
        change = {"metadata": {"finalizers": ["mine"]}}
        error = await w.refused(w.client.patch(CONFIG_MAPS, "a", change, "default"))
        assert why in error.message

    world(story)


def test_patches_that_are_refused_are_shown_as_upstream_shows_them(world):
    async def story(w):
        await w.pod(metadata={"labels": {"x": "y"}})
        change = {"metadata": {"labels": {"$patch": "merges", "a": "b"}}}
        error = await w.refused(
            w.client.patch(PODS, "web", change, "default", patch_type=STRATEGIC_MERGE_PATCH)
        )
        assert "unknown patch type: merges in map: map[$patch:merges a:b]" in error.message

    world(story)


def test_generated_names_have_five_characters_on_a_base_cut_to_58(world):
    async def story(w):
        document = {"metadata": {"generateName": "x" * 62 + "-"}}
        made = await w.client.create(CONFIG_MAPS, document, "default")
        name = made["metadata"]["name"]
        assert len(name) == 63
        assert name.startswith("x" * 58)
        error = await w.refused(w.client.create(CONFIG_MAPS, {"metadata": {}}, "default"))
        assert error.code == 422
        assert "name or generateName is required" in error.message

    world(story)


def test_generated_names_are_tried_again_when_taken(world):
    async def story(w):
        suffixes = iter(["aaaaa", "aaaaa", "bbbbb"])
        w.server.registry.chance.suffix = lambda length=5: next(suffixes)
        document = {"metadata": {"generateName": "job-"}}
        names = [
            (await w.client.create(CONFIG_MAPS, document, "default"))["metadata"]["name"]
            for _ in range(2)
        ]
        assert names == ["job-aaaaa", "job-bbbbb"]

    world(story)


def test_existing_names_conflict(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map(), "default")
        error = await w.refused(w.client.create(CONFIG_MAPS, config_map(), "default"))
        assert (error.code, error.reason) == (409, "AlreadyExists")
        assert error.message == 'configmaps "a" already exists'
        assert error.details == {"name": "a", "kind": "configmaps"}

    world(story)


def test_content_needs_a_live_namespace(world):
    async def story(w):
        error = await w.refused(w.client.create(CONFIG_MAPS, config_map(), "nowhere"))
        assert (error.code, error.message) == (404, 'namespaces "nowhere" not found')
        await w.client.create(NAMESPACES, {"metadata": {"name": "going"}})
        await w.client.delete(NAMESPACES, "going")
        error = await w.refused(w.client.create(CONFIG_MAPS, config_map(), "going"))
        assert error.code == 403
        assert error.message == (
            'configmaps "a" is forbidden: unable to create new content in namespace going '
            "because it is being terminated"
        )
        assert error.details["causes"][0]["reason"] == "NamespaceTerminating"

    world(story)


def test_namespaces_are_active_labelled_and_held(world):
    async def story(w):
        made = await w.client.create(NAMESPACES, {"metadata": {"name": "team"}})
        assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
        assert made["spec"] == {"finalizers": ["kubernetes"]}
        assert made["status"] == {"phase": "Active"}

    world(story)


def test_the_namespace_of_document_and_request_must_agree(world):
    async def story(w):
        document = config_map()
        document["metadata"]["namespace"] = "other"
        error = await w.refused(w.client.create(CONFIG_MAPS, document, "default"))
        assert error.code == 400
        assert "does not match the namespace sent on the request" in error.message

    world(story)


def test_unknown_fields_of_components_are_errors(world):
    async def story(w):
        document = config_map() | {"dtaa": {}}
        error = await w.refused(w.client.create(CONFIG_MAPS, document, "default"))
        assert error.code == 400
        assert 'strict decoding error: unknown field "dtaa"' in error.message

    world(story)


def test_an_update_of_an_old_version_conflicts(world):
    async def story(w):
        old = await w.client.create(CONFIG_MAPS, config_map(x="1"), "default")
        await w.client.update(CONFIG_MAPS, old | {"data": {"x": "2"}})
        error = await w.refused(w.client.update(CONFIG_MAPS, old | {"data": {"x": "3"}}))
        assert (error.code, error.reason) == (409, "Conflict")
        assert error.message == (
            'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )

    world(story)


def test_an_update_of_another_incarnation_conflicts(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map(), "default")
        changed = made | {"metadata": made["metadata"] | {"uid": "other", "resourceVersion": ""}}
        error = await w.refused(w.client.update(CONFIG_MAPS, changed))
        assert error.code == 409
        assert "Precondition failed: UID in precondition: other" in error.message

    world(story)


def test_updates_that_change_nothing_write_nothing(world):
    async def story(w):
        made = await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        before = w.store.revision
        assert await w.client.update(DEPLOYMENTS, made) is made
        for patch_type, patch in (
            (MERGE_PATCH, {"spec": {"replicas": 2}}),
            (STRATEGIC_MERGE_PATCH, {"metadata": {"labels": None}}),
            (JSON_PATCH, [{"op": "replace", "path": "/spec/replicas", "value": 2}]),
        ):
            answer = await w.client.patch(
                DEPLOYMENTS, "web", patch, "default", patch_type=patch_type
            )
            assert answer == made
        assert w.store.revision == before

    world(story)


def test_generation_counts_changes_of_the_desired_state_only(world):
    async def story(w):
        async def patch(body, subresource=""):
            made = await w.client.patch(
                DEPLOYMENTS, "web", body, "default", subresource=subresource
            )
            return made["metadata"]["generation"]

        made = await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        assert made["metadata"]["generation"] == 1
        assert await patch({"metadata": {"labels": {"a": "b"}}}) == 1
        assert await patch({"status": {"replicas": 2}}, "status") == 1
        assert await patch({"spec": {"replicas": 3}}) == 2
        assert await patch({"metadata": {"annotations": {"a": "b"}}}) == 3  # Deployments only

    world(story)


def test_main_resource_and_status_do_not_write_each_others_part(world):
    async def story(w):
        made = await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        assert "status" not in made or made["status"] == {}
        both = made | {"spec": made["spec"] | {"replicas": 5}, "status": {"replicas": 9}}
        updated = await w.client.update(DEPLOYMENTS, both)
        assert updated["spec"]["replicas"] == 5
        assert "replicas" not in updated.get("status", {})
        both = updated | {"spec": made["spec"] | {"replicas": 1}, "status": {"replicas": 5}}
        both = both | {"metadata": both["metadata"] | {"labels": {"sneaked": "in"}}}
        updated = await w.client.update(DEPLOYMENTS, both, subresource="status")
        assert updated["spec"]["replicas"] == 5
        assert updated["status"]["replicas"] == 5
        assert "labels" not in updated["metadata"]

    world(story)


def test_nodes_bring_their_status_and_pods_do_not(world):
    async def story(w):
        status = {"capacity": {"cpu": "4"}}
        node = await w.client.create(NODES, {"metadata": {"name": "n"}, "status": status})
        assert node["status"]["capacity"] == {"cpu": "4"}
        pod = {
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running"},
        }
        made = await w.client.create(PODS, pod, "default")
        assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}

    world(story)


def test_a_status_write_keeps_what_it_does_not_know(world):
    async def story(w):
        made = await w.pod()
        status = {"phase": "Running"}
        updated = await w.client.update(PODS, made | {"status": status}, subresource="status")
        assert updated["status"] == {"phase": "Running", "qosClass": "BestEffort"}

    world(story)


def test_kinds_differ_in_creation_on_update_and_in_unconditional_updates(world):
    async def story(w):
        lease = {"metadata": {"name": "l", "namespace": "default"}, "spec": {}}
        made = await w.client.update(LEASES, lease)
        assert made["metadata"]["uid"]
        error = await w.refused(w.client.update(LEASES, lease))
        assert error.code == 422
        assert "metadata.resourceVersion: Invalid value: 0: must be specified" in error.message
        absent = config_map() | {"metadata": {"name": "a", "namespace": "default"}}
        error = await w.refused(w.client.update(CONFIG_MAPS, absent))
        assert (error.code, error.message) == (404, 'configmaps "a" not found')
        await w.client.create(CONFIG_MAPS, config_map(), "default")
        absent["data"] = {"x": "forced"}
        assert (await w.client.update(CONFIG_MAPS, absent))["data"] == {"x": "forced"}
        handler = {"metadata": {"name": "h"}, "handler": "crun"}
        assert (await w.client.update(RUNTIME_CLASSES, handler))["handler"] == "crun"
        assert (await w.refused(w.client.update(RUNTIME_CLASSES, handler))).code == 422

    world(story)


# Kinds whose strategy says AllowUnconditionalUpdate false upstream, as far as they are served; all
# others say true (pkg/registry/*/*/strategy.go).
LOCKED = """
    admissionregistration.k8s.io/v1 mutatingadmissionpolicies
    admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings
    admissionregistration.k8s.io/v1 mutatingwebhookconfigurations
    admissionregistration.k8s.io/v1 validatingadmissionpolicies
    admissionregistration.k8s.io/v1 validatingadmissionpolicybindings
    admissionregistration.k8s.io/v1 validatingwebhookconfigurations
    admissionregistration.k8s.io/v1beta1 mutatingadmissionpolicies
    admissionregistration.k8s.io/v1beta1 mutatingadmissionpolicybindings
    apiextensions.k8s.io/v1 customresourcedefinitions
    apiregistration.k8s.io/v1 apiservices
    certificates.k8s.io/v1 clustertrustbundles
    certificates.k8s.io/v1 podcertificaterequests
    certificates.k8s.io/v1beta1 clustertrustbundles
    coordination.k8s.io/v1 leases
    coordination.k8s.io/v1beta1 leasecandidates
    internal.apiserver.k8s.io/v1alpha1 storageversions
    lifecycle.k8s.io/v1alpha1 evictionrequests
    node.k8s.io/v1 runtimeclasses
    policy/v1 poddisruptionbudgets
    resource.k8s.io/v1 devicetaintrules
    resource.k8s.io/v1alpha3 resourcepoolstatusrequests
    storage.k8s.io/v1 csidrivers
    storage.k8s.io/v1 csinodes
    storage.k8s.io/v1 csistoragecapacities
    storage.k8s.io/v1 volumeattachments
    storagemigration.k8s.io/v1 storageversionmigrations
    storagemigration.k8s.io/v1beta1 storageversionmigrations
"""


def test_which_kinds_are_not_updated_without_a_resource_version():
    table = strategies()
    kinds = [kind for kind in Catalog.builtin().kinds() if kind.stored]
    locked = [
        f"{kind.resource.api_version} {kind.resource.plural}"
        for kind in kinds
        if not table.of(kind).overwrites(kind)
    ]
    assert sorted(locked) == [line.strip() for line in LOCKED.strip().splitlines()]


def test_rules_of_v1_are_updated_by_version_and_those_of_its_betas_as_they_ever_were(world):
    async def story(w):
        rule = {
            "metadata": {"name": "r"},
            "spec": {"taint": {"key": "k", "effect": "NoSchedule"}},
        }
        made = await w.client.create(DEVICE_TAINT_RULES, rule)
        for subresource in ("", "status"):
            error = await w.refused(
                w.client.update(DEVICE_TAINT_RULES, rule, subresource=subresource)
            )
            assert error.code == 422
            assert error.message == (
                'DeviceTaintRule.resource.k8s.io "r" is invalid: metadata.resourceVersion: '
                "Invalid value: 0: must be specified for an update"
            )
        assert await w.client.get(DEVICE_TAINT_RULES, "r") == made
        rule["spec"]["taint"]["effect"] = "NoExecute"
        beta = DEVICE_TAINT_RULES._replace(version="v1beta2")
        assert (await w.client.update(beta, rule))["metadata"]["generation"] == 2
        patch = {"spec": {"taint": {"value": "x"}}}  # a patch is of what it found
        await w.client.patch(DEVICE_TAINT_RULES, "r", patch, patch_type=MERGE_PATCH)

    world(story)


def test_immutable_fields_are_named(world):
    async def story(w):
        secret = {"metadata": {"name": "s"}, "type": "Opaque", "immutable": True}
        made = await w.client.create(SECRETS, secret, "default")
        error = await w.refused(w.client.update(SECRETS, made | {"data": {"a": "Yg=="}}))
        assert error.code == 422
        assert "field is immutable when `immutable` is set" in error.message
        await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        patch = {"spec": {"selector": {"matchLabels": {"app": "other"}}}}
        error = await w.refused(w.client.patch(DEPLOYMENTS, "web", patch, "default"))
        assert error.code == 422
        assert "spec.selector" in error.message

    world(story)


def test_shared_documents_are_never_changed(world, untouched):
    async def story(w):
        made = await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        guard = untouched(made, DEPLOYMENT)
        await w.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 9}}, "default")
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "i"}]}}}}
        await w.client.patch(DEPLOYMENTS, "web", patch, "default", patch_type=STRATEGIC_MERGE_PATCH)
        await w.client.patch(
            DEPLOYMENTS, "web", {"status": {"replicas": 1}}, "default", subresource="status"
        )
        await w.client.delete(DEPLOYMENTS, "web", "default", propagation_policy="Foreground")
        guard.check()

    world(story)


def test_strategic_merge_uses_merge_keys_and_merge_patch_does_not(world):
    async def story(w):
        await w.client.create(DEPLOYMENTS, DEPLOYMENT, "default")
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "i"}]}}}}

        async def names(patch_type):
            made = await w.client.patch(DEPLOYMENTS, "web", patch, "default", patch_type=patch_type)
            return [c["name"] for c in made["spec"]["template"]["spec"]["containers"]]

        assert await names(STRATEGIC_MERGE_PATCH) == ["two", "main"]
        assert await names(MERGE_PATCH) == ["two"]

    world(story)


def test_a_patch_with_a_resource_version_is_conditional(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map(), "default")
        await w.client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, "default")
        version = made["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "data": {"x": "2"}}
        error = await w.refused(w.client.patch(CONFIG_MAPS, "a", patch, "default"))
        assert error.code == 409

    world(story)


@pytest.mark.parametrize(
    ("patch_type", "patch", "code"),
    [
        (JSON_PATCH, {"not": "a list"}, 400),
        (JSON_PATCH, [{"op": "test", "path": "/data/x", "value": "?"}], 422),
        (JSON_PATCH, [{"op": "remove", "path": "/nothing"}], 422),
        (MERGE_PATCH, [1], 400),
        (MERGE_PATCH, {"metadata": {"name": "b"}}, 400),
        (MERGE_PATCH, {"data": "text"}, 400),
        (MERGE_PATCH, {"metadata": []}, 400),
        (STRATEGIC_MERGE_PATCH, {"unknown": 1}, 400),
        (APPLY_PATCH, {"apiVersion": "v1", "kind": "Secret"}, 400),
        ("text/plain", {}, 415),
    ],
)
def test_patches_that_make_no_sense_are_refused(world, patch_type, patch, code):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map(x="1"), "default")
        error = await w.refused(
            w.client.patch(CONFIG_MAPS, "a", patch, "default", patch_type=patch_type)
        )
        assert error.code == code, error.message
        assert (await w.client.get(CONFIG_MAPS, "a", "default"))["data"] == {"x": "1"}

    world(story)


def test_apply_creates_owns_and_removes(world):
    async def story(w):
        async def apply(manager, force=False, **data):
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
            return await w.client.patch(
                CONFIG_MAPS,
                "a",
                document | {"data": data},
                "default",
                patch_type=APPLY_PATCH,
                field_manager=manager,
                force=force,
            )

        made = await apply("one", x="1", y="1")
        assert made["metadata"]["managedFields"][0]["operation"] == "Apply"
        before = w.store.revision
        assert await apply("one", x="1", y="1") == made
        assert w.store.revision == before
        error = await w.refused(apply("two", x="2"))
        assert error.code == 409
        assert 'conflict with "one"' in error.message
        assert (await apply("two", force=True, x="2"))["data"] == {"x": "2", "y": "1"}
        assert (await apply("one"))["data"] == {"x": "2"}

    world(story)


def test_writers_are_recorded_in_managed_fields(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map(x="1"), "default", field_manager="maker")
        made = await w.client.patch(
            CONFIG_MAPS, "a", {"data": {"y": "2"}}, "default", field_manager="patcher"
        )
        owners = {e["manager"]: e["fieldsV1"] for e in made["metadata"]["managedFields"]}
        assert owners["maker"]["f:data"].keys() - {"."} == {"f:x"}
        assert owners["patcher"]["f:data"].keys() - {"."} == {"f:y"}

    world(story)


def test_what_the_server_adds_is_nobodys(world):
    async def story(w):
        made = await w.pod()
        (entry,) = made["metadata"]["managedFields"]
        fields = entry["fieldsV1"]["f:spec"]
        assert "f:tolerations" not in fields
        assert "f:volumes" not in fields
        assert "f:status" not in entry["fieldsV1"]

    world(story)


def test_dry_runs_answer_as_if_and_leave_no_trace(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map(x="1"), "default")
        before = w.store.revision
        c = w.client
        dry = await c.create(CONFIG_MAPS, config_map("b"), "default", dry_run=True)
        assert dry["metadata"]["uid"]
        dry = await c.update(CONFIG_MAPS, made | {"data": {"x": "2"}}, dry_run=True)
        assert dry["data"] == {"x": "2"}
        dry = await c.patch(CONFIG_MAPS, "a", {"data": {"x": "3"}}, "default", dry_run=True)
        assert dry["data"] == {"x": "3"}
        await c.delete(CONFIG_MAPS, "a", "default", dry_run=True)
        assert w.store.revision == before
        assert (await c.get(CONFIG_MAPS, "a", "default")) is made

    world(story)


def test_jobs_get_the_selector_that_their_pods_will_match(world):
    async def story(w):
        job = {
            "metadata": {"name": "train"},
            "spec": {
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "c", "image": "i"}],
                    }
                }
            },
        }
        made = await w.client.create(JOBS, job, "default")
        uid = made["metadata"]["uid"]
        assert made["spec"]["selector"] == {
            "matchLabels": {"batch.kubernetes.io/controller-uid": uid}
        }
        assert made["spec"]["template"]["metadata"]["labels"] == {
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": "train",
            "controller-uid": uid,
            "job-name": "train",
        }

    world(story)


@pytest.mark.parametrize("template", [{}, {"team": "a"}])
def test_a_job_without_labels_is_found_by_those_of_its_pods(world, template):
    async def story(w):
        pods = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
        job = {
            "metadata": {"name": "train"},
            "spec": {"template": {"metadata": {"labels": template}, "spec": pods}},
        }
        made = await w.client.create(JOBS, job, "default")
        assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"]
        assert made["metadata"]["labels"].items() >= template.items()
        page = await w.client.list(JOBS, "default", label_selector="job-name=train")
        assert [found["metadata"]["name"] for found in page.items] == ["train"]
        job["metadata"] = {"name": "other", "labels": {"team": "a"}}
        made = await w.client.create(JOBS, job, "default")
        assert made["metadata"]["labels"] == {"team": "a"}

    world(story)


def test_volumes_say_since_when_they_are_in_their_phase(world):
    async def story(w):
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"},
        }
        made = await w.client.create(PERSISTENT_VOLUMES, {"metadata": {"name": "v"}, "spec": spec})
        start = "2026-01-01T00:00:00Z"
        assert made["status"] == {"phase": "Pending", "lastPhaseTransitionTime": start}
        await w.clock.sleep(60)

        async def write(**status):
            patch = {"status": status}
            new = await w.client.patch(PERSISTENT_VOLUMES, "v", patch, subresource="status")
            return new["status"]["lastPhaseTransitionTime"]

        assert await write(message="still", lastPhaseTransitionTime=None) == start
        assert await write(phase="Available") == "2026-01-01T00:01:00Z"
        assert await write(phase="Bound", lastPhaseTransitionTime=start) == start

    world(story)


def test_label_keys_become_clauses_when_a_pod_is_created(world):
    """The values are those of that moment; a template's own selectors stay as they are."""
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    term = {
        "topologyKey": "zone",
        "labelSelector": {"matchLabels": {"app": "web"}},
        "matchLabelKeys": ["version", "absent"],
        "mismatchLabelKeys": ["tenant"],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {},
        "matchLabelKeys": ["version"],
    }
    spec = {
        "containers": [{"name": "main", "image": "nginx"}],
        "affinity": {
            "podAffinity": {required: [term]},
            "podAntiAffinity": {preferred: [{"weight": 1, "podAffinityTerm": term}]},
        },
        "topologySpreadConstraints": [spread],
    }
    same = {"key": "version", "operator": "In", "values": ["2"]}
    other = {"key": "tenant", "operator": "NotIn", "values": ["a"]}

    async def story(w):
        labels = {"version": "2", "tenant": "a"}
        document = {"metadata": {"name": "p", "labels": labels}, "spec": spec}
        made = (await w.client.create(PODS, document, "default"))["spec"]
        near = made["affinity"]["podAffinity"][required][0]["labelSelector"]
        assert near == {"matchLabels": {"app": "web"}, "matchExpressions": [same, other]}
        away = made["affinity"]["podAntiAffinity"][preferred][0]["podAffinityTerm"]
        assert away["labelSelector"] == near
        assert made["topologySpreadConstraints"][0]["labelSelector"] == {"matchExpressions": [same]}
        assert "matchExpressions" not in term["labelSelector"]  # the caller's stays as it was
        plain = {"metadata": {"name": "q"}, "spec": spec}
        unlabelled = (await w.client.create(PODS, plain, "default"))["spec"]
        assert unlabelled["affinity"]["podAffinity"] == {required: [term]}

    world(story)
