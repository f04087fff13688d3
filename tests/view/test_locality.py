"""Reports of caches, and what pods ask for."""

from __future__ import annotations

from kubarium.api.kinds import COMPOSITE_POD_GROUPS, NODES, POD_GROUPS, PODS
from kubarium.view.cluster import ClusterView
from kubarium.view.local_models import LOCAL_MODEL_NODE_GROUPS
from kubarium.view.locality import (
    LOCAL_MODEL_CACHES,
    LOCAL_MODEL_NAMESPACE_CACHES,
    LOCAL_MODEL_NODES,
    data_of,
)
from kubarium.view.why import explain

GI = 2**30


def node(name="a", cached=None):
    notes = {"kubarium.dev/cached": cached} if cached is not None else {}
    return {"metadata": {"name": name, "annotations": notes}, "status": {}}


def local_models(name="a", **states):
    return {"metadata": {"name": name}, "status": {"modelStatus": states}}


def test_an_annotation_reports_names_with_sizes():
    view = ClusterView()
    view.apply(NODES, None, node(cached='{"dataset/web": "150Gi", "model/x": "1Gi"}'))
    assert view.snapshot.node("a").data == (("dataset/web", 150 * GI), ("model/x", GI))
    view.apply(NODES, None, node())
    assert view.snapshot.node("a").data == ()


def test_a_malformed_report_says_nothing():
    view = ClusterView()
    for text in ("{", "[]", '"x"'):
        view.apply(NODES, None, node(cached=text))
        assert view.snapshot.node("a").data == ()
    view.apply(NODES, None, node(cached='{"model/x": "much"}'))
    assert view.snapshot.node("a").data == (("model/x", 0),)


def test_a_downloaded_local_model_counts_with_the_size_of_its_cache():
    view = ClusterView()
    view.apply(NODES, None, node())
    view.apply(
        LOCAL_MODEL_NODES, None, local_models(llama="ModelDownloaded", qwen="ModelDownloading")
    )
    assert view.snapshot.node("a").data == (("model/llama", 0),)
    cache = {"metadata": {"name": "llama"}, "spec": {"modelSize": "14Gi"}}
    view.apply(LOCAL_MODEL_CACHES, None, cache)
    assert view.snapshot.node("a").data == (("model/llama", 14 * GI),)
    view.apply(NODES, node(), node(cached='{"dataset/web": "1Gi"}'))
    assert view.snapshot.node("a").data == (("dataset/web", GI), ("model/llama", 14 * GI))
    view.apply(LOCAL_MODEL_NODES, local_models(llama="ModelDownloaded"), None)
    assert view.snapshot.node("a").data == (("dataset/web", GI),)


def test_a_model_node_may_be_known_before_its_node():
    view = ClusterView()
    view.apply(LOCAL_MODEL_NODES, None, local_models(llama="ModelDownloaded"))
    view.apply(NODES, None, node())
    assert view.snapshot.node("a").data == (("model/llama", 0),)


def test_pods_name_their_data_in_annotations():
    notes = {"kubarium.dev/data": "model/x, image/busybox,,model/x"}
    assert data_of({"annotations": notes}) == (("model/x", "image/busybox:latest"), False)
    notes["kubarium.dev/data-locality"] = "required"
    assert data_of({"annotations": notes})[1]
    assert data_of({"annotations": notes | {"kubarium.dev/data-locality": " Required"}})[1]
    assert not data_of({"annotations": notes | {"kubarium.dev/data-locality": "preferred"}})[1]
    assert data_of({"annotations": {"kubarium.dev/data-locality": "required"}}) == ((), False)


def test_a_model_that_is_about_to_go_counts_no_more():
    """KServe takes it out of the spec first; what is left in the status says nothing."""
    view = ClusterView()
    view.apply(NODES, None, node())
    report = local_models(llama="ModelDownloaded", **{"team/qwen": "ModelDownloaded"})
    models = [{"modelName": "llama"}, {"modelName": "qwen", "namespace": "team"}]
    before = report | {"spec": {"localModels": models}}
    view.apply(LOCAL_MODEL_NODES, None, before)
    assert view.snapshot.node("a").data == (("model/llama", 0), ("model/team/qwen", 0))
    view.apply(LOCAL_MODEL_NODES, before, report | {"spec": {"localModels": models[1:]}})
    assert view.snapshot.node("a").data == (("model/team/qwen", 0),)


def test_a_node_made_anew_is_believed_what_it_says_itself():
    view = ClusterView()
    view.apply(NODES, None, node(cached='{"dataset/web": "1Gi"}'))
    view.apply(NODES, node(cached='{"dataset/web": "1Gi"}'), None)
    view.apply(NODES, None, node())
    assert view.snapshot.node("a").data == ()


# What `kubarium why` says of local models


def group(name, *racks):
    values = {"key": "rack", "operator": "In", "values": list(racks)}
    required = {"nodeSelectorTerms": [{"matchExpressions": [values]}]}
    volume = {"nodeAffinity": {"required": required}} if racks else {}
    return {"metadata": {"name": name}, "spec": {"persistentVolumeSpec": volume}}


def cache(name, *groups, namespace=""):
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"metadata": metadata, "spec": {"modelSize": "1Gi", "nodeGroups": list(groups)}}


def told(model, reports=(), caches=(), groups=(), namespaced=()):
    nodes = [node(name) for name in "abc"]
    for one, rack in zip(nodes, ("r1", "r1", "r2"), strict=True):
        one["metadata"]["labels"] = {"rack": rack}
        one["status"] = {"allocatable": {"cpu": "4", "pods": "10"}}
    notes = {"kubarium.dev/data": f"model/{model}", "kubarium.dev/data-locality": "required"}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "p", "annotations": notes},
        "spec": {"containers": [{"name": "main"}]},
    }
    documents = {
        NODES: nodes,
        PODS: [pod],
        LOCAL_MODEL_NODES: list(reports),
        LOCAL_MODEL_CACHES: list(caches),
        LOCAL_MODEL_NAMESPACE_CACHES: list(namespaced),
        LOCAL_MODEL_NODE_GROUPS: list(groups),
    }
    account = explain(documents, pod)
    assert "cache-data" in [suggestion.kind for suggestion in account.suggestions]
    head = f"model {model}: "
    return [line.removeprefix(head) for line in account.reasons if line.startswith(head)]


def test_how_far_a_model_is_and_where_it_is_to_be_is_told():
    states = ("ModelDownloading", "ModelDownloadError", "")
    reports = [local_models(n, llama=s) for n, s in zip("abc", states, strict=True)]
    assert told("llama", reports, [cache("llama", "g")], [group("g", "r1")]) == [
        "is to be on nodes a, b (LocalModelNodeGroup g)",
        "is being downloaded on a",
        "could not be downloaded on b",
        "waits to be downloaded on c",
    ]


def test_a_group_without_nodes_or_that_is_not_there_is_told():
    caches = [cache("llama", "g")]
    nowhere = "is to be nowhere: no node matches the affinity of LocalModelNodeGroup g"
    assert told("llama", (), caches, [group("g", "r9")]) == [nowhere]
    missing = "no LocalModelNodeGroup is called g; did you mean gg?"
    assert told("llama", (), caches, [group("gg", "r1")]) == [missing]
    everywhere = "is to be on every node (LocalModelNodeGroup g has no node affinity)"
    assert told("llama", (), caches, [group("g")]) == [everywhere]


def test_a_model_that_nobody_caches_is_told_with_what_may_be_meant():
    caches = [cache("llama-7b", "g")]
    meant = "no LocalModelCache is called llama7b; did you mean llama-7b?"
    assert told("llama7b", (), caches, [group("g", "r1")]) == [meant]
    namespaced = [cache("llama", "g", namespace="team"), cache("other", "g", namespace="ns")]
    assert told("team/llama", (), (), [group("g", "r1")], namespaced) == [
        "is to be on nodes a, b (LocalModelNodeGroup g)"
    ]
    assert told("team/lama", (), (), (), namespaced) == [
        "no LocalModelNamespaceCache is called lama; did you mean llama?"
    ]
    assert told("llama") == []


def test_a_report_of_a_node_that_is_gone_is_told_as_such():
    reports = [local_models("z", llama="ModelDownloaded")]
    assert told("llama", reports, [cache("llama", "g")], [group("g", "r1")])[1:] == [
        "a LocalModelNode without a node of that name: z"
    ]


def test_a_report_that_cannot_be_read_is_told_to_who_waits_for_data_and_who_asks_of_the_node():
    bad, good = node("a", cached="{dataset/web: 1Gi}"), node("b", cached="{}")
    notes = {"kubarium.dev/data": "dataset/web", "kubarium.dev/data-locality": "required"}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "p", "annotations": notes},
        "spec": {"containers": [{"name": "main"}]},
    }
    documents = {NODES: [bad, good], PODS: [pod]}
    text = "annotation kubarium.dev/cached is no JSON object, so that nothing of it counts"
    assert f"node a: {text}" in explain(documents, pod).reasons
    assert text in explain(documents, bad | {"kind": "Node"}).reasons
    assert text not in explain(documents, good | {"kind": "Node"}).reasons
    of_an_image = {**pod, "metadata": pod["metadata"] | {"annotations": dict(notes)}}
    of_an_image["metadata"]["annotations"]["kubarium.dev/data"] = "image/app:v1"
    assert text not in str(explain(documents, of_an_image).reasons)


def test_of_a_composite_it_is_told_where_the_models_of_its_groups_are():
    notes = {"kubarium.dev/data": "model/llama", "kubarium.dev/data-locality": "required"}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "uid": "p", "annotations": notes},
        "spec": {
            "containers": [{"name": "main"}],
            "schedulingGroup": {"podGroupName": "g"},
        },
    }
    composite = {
        "kind": "CompositePodGroup",
        "metadata": {"name": "job", "namespace": "ns", "uid": "job"},
        "spec": {"schedulingPolicy": {"gang": {"minGroupCount": 1}}},
    }
    policy = {"parentCompositePodGroupName": "job", "schedulingPolicy": {"gang": {"minCount": 1}}}
    pod_group = {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "metadata": {"name": "g", "namespace": "ns", "uid": "g"},
        "spec": policy,
    }
    room = {"allocatable": {"cpu": "4", "pods": "9"}}
    documents = {
        NODES: [node("a") | {"status": room}],
        PODS: [pod],
        POD_GROUPS: [pod_group],
        COMPOSITE_POD_GROUPS: [composite],
        LOCAL_MODEL_NODES: [local_models("a", llama="ModelDownloading")],
    }
    assert "model llama: is being downloaded on a" in explain(documents, composite).reasons
