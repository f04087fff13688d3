"""Our context comes and goes in a kubeconfig that holds others' entries."""

import stat

import pytest
import yaml

from kubarium.base.errors import ConfigError
from kubarium.cluster import kubeconfig

OTHERS = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "prod", "cluster": {"server": "https://prod"}}],
    "users": [{"name": "me", "user": {"token": "t"}}],
    "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "me"}}],
    "current-context": "prod",
    "preferences": {"colors": True},
}
OURS = kubeconfig.entry("kubarium", "https://127.0.0.1:1", "Q0E=", {"token": "x"})


def test_merge_then_remove_gives_back_the_file_as_it_was(tmp_path):
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(OTHERS))
    previous = kubeconfig.merge(path, OURS)
    merged = yaml.safe_load(path.read_text())
    assert previous == "prod"
    assert merged["current-context"] == "kubarium"
    assert [cluster["name"] for cluster in merged["clusters"]] == ["prod", "kubarium"]
    kubeconfig.remove(path, "kubarium", previous)
    assert yaml.safe_load(path.read_text()) == OTHERS


def test_merging_twice_replaces_our_entry(tmp_path):
    path = tmp_path / "new" / "config"
    kubeconfig.merge(path, OURS)
    again = kubeconfig.entry("kubarium", "https://127.0.0.1:2", "Q0E=", {"token": "y"})
    kubeconfig.merge(path, again)
    document = yaml.safe_load(path.read_text())
    assert [c["cluster"]["server"] for c in document["clusters"]] == ["https://127.0.0.1:2"]


def test_the_file_is_private(tmp_path):
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(OTHERS))
    path.chmod(0o644)
    kubeconfig.merge(path, OURS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_one(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text(yaml.safe_dump(OTHERS))
    link.symlink_to(real)
    kubeconfig.merge(link, OURS)
    assert link.is_symlink()
    assert "kubarium" in real.read_text()


@pytest.mark.parametrize("text", ["a: [", "- 1", "clusters: 3", "clusters: [3]"])
def test_a_file_that_is_no_kubeconfig_is_left_alone(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match="left as it is"):
        kubeconfig.merge(path, OURS)
    assert path.read_text() == text
