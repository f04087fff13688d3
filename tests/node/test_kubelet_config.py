"""A pool's ``kubelet``: upstream's fields, and what is said of those that cannot be read."""

import re

import pytest

from kubarium.base.errors import ConfigError
from kubarium.cluster.file import read_cluster_file
from kubarium.node.kubelet_config import (
    CRITICAL_PRIORITY,
    FieldError,
    ImageCollection,
    ShutdownGroup,
    Threshold,
    is_critical,
    read_amount,
    read_kubelet_config,
    strictest,
)


def test_defaults_are_kubelets_but_for_the_disk():
    config = read_kubelet_config({})
    assert [t.signal for t in config.thresholds] == [
        "memory.available",
        "nodefs.available",
        "nodefs.inodesFree",
    ]
    assert config.thresholds[0].value.of(0) == 100 << 20
    assert config.thresholds[2].value.of(1000) == 50
    assert (config.transition_s, config.shutdown, config.pids_limit) == (300.0, (), 4096)


def test_thresholds_come_with_grace_and_reclaim():
    config = read_kubelet_config(
        {
            "evictionHard": {"memory.available": "5%", "nodefs.available": "0%"},
            "evictionSoft": {"memory.available": "1Gi"},
            "evictionSoftGracePeriod": {"memory.available": "1m30s"},
            "evictionMinimumReclaim": {"memory.available": "500Mi"},
            "evictionMaxPodGracePeriod": 20,
            "evictionPressureTransitionPeriod": "30s",
            "podPidsLimit": -1,
            "allowedUnsafeSysctls": ["net.core.*"],
        }
    )
    assert config.unsafe_sysctls == ("net.core.*",)
    reclaim = read_amount("500Mi")
    assert config.thresholds == (
        Threshold("memory.available", read_amount("5%"), 0.0, reclaim),
        Threshold("memory.available", read_amount("1Gi"), 90.0, reclaim),
    ), "0% is no threshold"
    assert (config.max_pod_grace_s, config.transition_s, config.pids_limit) == (20.0, 30.0, None)


def test_own_thresholds_replace_the_defaults_unless_they_are_to_be_merged():
    own = {"evictionHard": {"pid.available": "100"}}
    assert [t.signal for t in read_kubelet_config(own).thresholds] == ["pid.available"]
    merged = read_kubelet_config(own | {"mergeDefaultEvictionSettings": True})
    assert len(merged.thresholds) == 4


def test_a_pids_limit_of_zero_is_none_as_for_kubelet():
    limits = [read_kubelet_config({"podPidsLimit": most}).pids_limit for most in (-1, 0, 7)]
    assert limits == [None, None, 7]


def test_both_ways_of_saying_how_a_shutdown_goes():
    simple = read_kubelet_config(
        {"shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s"}
    )
    assert simple.shutdown == (ShutdownGroup(0, 20.0), ShutdownGroup(CRITICAL_PRIORITY, 10.0))
    groups = [
        {"priority": 1000, "shutdownGracePeriodSeconds": 5},
        {"priority": 0, "shutdownGracePeriodSeconds": 60},
    ]
    detailed = read_kubelet_config({"shutdownGracePeriodByPodPriority": groups})
    assert detailed.shutdown == (ShutdownGroup(0, 60.0), ShutdownGroup(1000, 5.0))


@pytest.mark.parametrize(
    ("given", "path", "said"),
    [
        ({"evictionHard": {"memory.free": "1Gi"}}, ("evictionHard", "memory.free"), "known: "),
        ({"evictionHard": {"memory.available": "lots"}}, None, "'lots'"),
        ({"evictionHard": {"memory.available": "120%"}}, None, "0% to 100%"),
        ({"evictionHard": {"memory.available": "-1"}}, None, "negative"),
        ({"evictionSoft": {"memory.available": "1Gi"}}, None, "evictionSoftGracePeriod"),
        ({"evictionHard": {"memory.available": "x%"}}, None, "'x%' must be from 0% to 100%"),
        ({"evictionHard": {"memory.available": "1/0%"}}, None, "'1/0%' must be from 0%"),
        (
            {"evictionSoftGracePeriod": {"memory.free": "1m"}},
            ("evictionSoftGracePeriod", "memory.free"),
            "known: memory.available",
        ),
        ({"shutdownGracePeriod": "soon"}, ("shutdownGracePeriod",), "'soon'"),
        ({"shutdownGracePeriod": "soon"}, None, "is no duration; write it as 30s"),
        (
            {"shutdownGracePeriodCriticalPods": "20s"},
            ("shutdownGracePeriodCriticalPods",),
            "20s is more than shutdownGracePeriod, which is 0s",
        ),
        (
            {"shutdownGracePeriod": "10s", "shutdownGracePeriodCriticalPods": "20s"},
            ("shutdownGracePeriodCriticalPods",),
            "more than shutdownGracePeriod",
        ),
        (
            {
                "shutdownGracePeriod": "10s",
                "shutdownGracePeriodByPodPriority": [
                    {"priority": 1, "shutdownGracePeriodSeconds": 1}
                ],
            },
            ("shutdownGracePeriodByPodPriority",),
            "beside shutdownGracePeriod",
        ),
    ],
)
def test_mistakes_are_named(given, path, said):
    with pytest.raises(FieldError, match=re.escape(said)) as caught:
        read_kubelet_config(given)
    if path:
        assert caught.value.path == path


FILE = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: small
    kubelet:
      evictionHard:
        memory.available: {value}
"""


def test_a_cluster_file_carries_them_and_mistakes_have_a_line(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(FILE.format(value="256Mi"))
    [pool] = read_cluster_file(path).pools
    assert pool.kubelet == {"evictionHard": {"memory.available": "256Mi"}}
    path.write_text(FILE.format(value="256Mb"))
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(path)
    assert "cluster.yaml:9: spec.nodePools[0].kubelet.evictionHard.memory.available" in str(
        caught.value
    )
    path.write_text(FILE.replace("evictionHard", "evictionHart").format(value="1Gi"))
    with pytest.raises(ConfigError, match="did you mean 'evictionHard'"):
        read_cluster_file(path)


def test_critical_pods_are_static_ones_and_those_of_system_priority():
    plain = {"metadata": {}, "spec": {"priority": 1000}}
    assert not is_critical(plain)
    assert is_critical({"metadata": {}, "spec": {"priority": 2_000_000_000}})
    source = {"annotations": {"kubernetes.io/config.source": "file"}}
    assert is_critical({"metadata": source, "spec": {}})


def test_when_images_go_is_as_kubelet_has_it_and_its_fields_are_heeded():
    assert read_kubelet_config({}).images == ImageCollection(85, 80, 120.0, 0.0)
    given = {
        "imageGCHighThresholdPercent": 70,
        "imageGCLowThresholdPercent": 50,
        "imageMinimumGCAge": "5m",
        "imageMaximumGCAge": "24h",
    }
    found = read_kubelet_config(given).images
    assert found == ImageCollection(70, 50, 300.0, 86400.0)
    shared = strictest([found, ImageCollection(), ImageCollection(90, 40, 10.0)])
    assert shared == ImageCollection(70, 40, 10.0, 86400.0)


@pytest.mark.parametrize(
    ("given", "field", "text"),
    [
        (
            {"imageGCHighThresholdPercent": 70},
            "imageGCHighThresholdPercent",
            "80 (low) must be less than 70 (high)",
        ),
        (
            {"imageGCLowThresholdPercent": 85},
            "imageGCLowThresholdPercent",
            "85 (low) must be less than 85 (high)",
        ),
        ({"imageMaximumGCAge": "2m"}, "imageMaximumGCAge", "must be more than imageMinimumGCAge"),
        ({"imageMinimumGCAge": "soon"}, "imageMinimumGCAge", "cannot read 'soon'"),
    ],
)
def test_image_collection_that_cannot_be_is_named(given, field, text):
    with pytest.raises(FieldError, match=re.escape(text)) as found:
        read_kubelet_config(given)
    assert found.value.path == (field,)
