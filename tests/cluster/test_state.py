"""A cluster's folder on disk."""

from kubarium.cluster.state import StateDirectory
from tests.base.test_trees import nest


def test_a_cluster_is_forgotten_however_deep_its_pods_have_nested_folders(tmp_path):
    state = StateDirectory("deep", tmp_path)
    pod = state.nodes / "pods" / "uid"
    pod.mkdir(parents=True)
    nest(pod, 1500)
    state.remove()
    assert not state.root.exists()
    state.remove()
