"""Reports of caches, and what pods ask for."""

from __future__ import annotations

from kubarium.api.kinds import NODES
from kubarium.view.cluster import ClusterView
from kubarium.view.locality import LOCAL_MODEL_CACHES, LOCAL_MODEL_NODES, data_of

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
    assert data_of({"annotations": {"kubarium.dev/data-locality": "required"}}) == ((), False)
