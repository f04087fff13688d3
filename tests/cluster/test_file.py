"""The cluster file: what it accepts, and that every complaint names line, field and way out."""

import pytest

from kubarium.base.errors import ConfigError
from kubarium.cluster.file import NodePool, read_cluster_file
from kubarium.cluster.nodes import node_configs
from kubarium.node.config import ImageConfig

GOOD = """\
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
metadata: {name: lab}
spec:
  nodePools:
    - name: gpu
      count: 3
      capacity: {cpu: 4, memory: 8Gi}
      labels: {tier: gpu}
      topology: {topology.kubernetes.io/zone: [a, b]}
      devices:
        - profile: gpu.example.com
          count: 5
"""


VERSIONS = ["write kubarium.dev/v1alpha1, or kind.x-k8s.io/v1alpha4 in a file as kind takes it"]
VERSION_KIND = "write Cluster"


def write(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return path


def test_labels_may_hold_the_number_of_the_node():
    pool = NodePool("rack", 2, labels={"slot": "u{index}", "kind": "gpu"})
    labels = [pool.labels_of(number) for number in range(2)]
    assert labels == [{"slot": "u0", "kind": "gpu"}, {"slot": "u1", "kind": "gpu"}]


def test_pools_deal_topology_values_in_turn(tmp_path):
    pool = read_cluster_file(write(tmp_path, GOOD)).pools[0]
    assert list(pool.node_names()) == ["gpu-0", "gpu-1", "gpu-2"]
    zones = [pool.labels_of(i)["topology.kubernetes.io/zone"] for i in range(3)]
    assert zones == ["a", "b", "a"]
    assert pool.capacity["cpu"] == "4"
    assert pool.capacity["pods"] == "110"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("count: 3", "cuont: 3", 7, ["cuont", "did you mean 'count'?"]),
        ("count: 3", "count: three", 7, ["nodePools[0].count", "'three'", "integer"]),
        ("count: 3", "count: 0", 7, ["0 is outside 1"]),
        ("count: 3", "kubelet: {podPidsLimit: -3}", 7, ["podPidsLimit", "-3 is less than -1"]),
        ("count: 3", "count: true", 7, ["boolean"]),
        ("memory: 8Gi", "memory: 8Gb", 8, ["capacity.memory", "'8Gb'", "64Mi"]),
        (
            "gpu.example.com",
            "gpu.exmple.com",
            12,
            ["profile", "gpu.exmple", "gpu.example.com, net.example.com"],
        ),
        ("kind: Cluster", "kind: Clutser", 2, ["kind: 'Clutser' is not supported", VERSION_KIND]),
        ("kind: Cluster\n", "", 1, ["kind: is missing", VERSION_KIND]),
        ("apiVersion: kubarium.dev/v1alpha1\n", "", 1, ["apiVersion: is missing", *VERSIONS]),
        ("kubarium.dev/v1alpha1", "v1", 1, ["apiVersion: 'v1' is not supported", *VERSIONS]),
        ("kubarium.dev/v1alpha1", "3", 1, ["apiVersion: 3 is not supported", *VERSIONS]),
        (
            "kubarium.dev/v1alpha1",
            "kind.x-k8s.io/v1alpha3",
            1,
            ["'kind.x-k8s.io/v1alpha3'", *VERSIONS],
        ),
        ("spec:", "sepc:", 4, ["sepc: unknown field 'sepc'; did you mean 'spec'?"]),
        (
            "    - name: gpu\n",
            "    - {}\n    - name: gpu\n",
            6,
            ["'name' is missing; add name: <string>"],
        ),
        (
            "count: 3",
            "taints: [{key: a}]",
            7,
            ["taints[0]: 'effect' is missing; add effect: NoSchedule|PreferNoSchedule|NoExecute"],
        ),
        ("[a, b]", "[]", 10, ["zone: [] is empty; list one at least, or leave it out"]),
        ("count: 5", "extendedResourceName: gpu", 13, ["'gpu' must be a domain and a name, as in"]),
        (
            "count: 3",
            "kubelet: {allowedUnsafeSysctls: [A]}",
            7,
            ["'A' must be the name of a sysctl"],
        ),
        ("labels: {tier: gpu}", "labels: {tier: 1}", 9, ["labels.tier", "string", "integer"]),
        ("labels: {tier: gpu}", "labels: {tier: a, tier: b}", 9, ["'tier'", "line 9 already"]),
        ("metadata: {name: lab}", "metadata: {name: Lab_1}", 3, ["metadata.name", "Lab_1"]),
        ("spec:", "spec: [", 0, ["not valid YAML"]),
        (
            "count: 5",
            "attributes: {index: {int: one}}",
            13,
            ["devices[0].attributes.index", "{'int': 'one'}", "{int: 3}"],
        ),
    ],
)
def test_a_complaint_points_at_the_line(tmp_path, old, new, line, words):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:{line}:" if line else f"{path}:")
    for word in words:
        assert word in text


@pytest.mark.parametrize("text", ["", "- a\n", "a: 1\n---\nb: 2\n", "42", "\x00", "{}"])
def test_what_is_no_cluster_file_is_refused_with_a_reason(tmp_path, text):
    with pytest.raises(ConfigError, match=r"cluster\.yaml"):
        read_cluster_file(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_cluster_file(tmp_path / "nowhere.yaml")


KIND = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: shop
nodes:
  - role: control-plane
    extraPortMappings: [{containerPort: 30000, hostPort: 30000}]
  - role: worker
    labels: {disk: ssd}
  - role: worker
"""


def test_kind_files_give_the_same_node_names_roles_and_labels(tmp_path):
    cluster = read_cluster_file(write(tmp_path, KIND))
    names = [name for pool in cluster.pools for name in pool.node_names()]
    assert names == ["shop-control-plane", "shop-worker", "shop-worker2"]
    assert cluster.pools[0].taints[0]["effect"] == "NoSchedule"
    assert cluster.pools[1].labels == {"disk": "ssd"}
    assert cluster.ignored == ["nodes[0].extraPortMappings"]


def test_a_lone_kind_control_plane_runs_pods(tmp_path):
    text = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"
    assert read_cluster_file(write(tmp_path, text)).pools[0].taints == []


def test_an_unknown_kind_role_is_named(tmp_path):
    path = write(tmp_path, KIND.replace("role: worker", "role: wroker", 1))
    text = r":7: nodes\[1\]\.role: 'wroker' is not one of control-plane, worker"
    with pytest.raises(ConfigError, match=text):
        read_cluster_file(path)
    path = write(tmp_path, KIND + "  - worker\n")
    with pytest.raises(
        ConfigError, match=r"nodes\[\d\]: 'worker' is no node; write {role: worker}"
    ):
        read_cluster_file(path)


def test_a_kind_file_says_that_it_is_one(tmp_path):
    for text in (KIND.replace("kind: Cluster\n", ""), KIND.replace("kind: Cluster", "kind: Pod")):
        with pytest.raises(ConfigError, match=r":1: kind: .*; write Cluster"):
            read_cluster_file(write(tmp_path, text))


def test_scheduler_profiles_come_with_the_cluster(tmp_path):
    text = GOOD + "  schedulerConfig:\n    profiles:\n      - schedulerName: packing\n"
    config = read_cluster_file(write(tmp_path, text)).scheduler
    assert [profile.scheduler_name for profile in config.profiles] == ["packing"]


def test_a_wrong_scheduler_profile_is_shown_by_line(tmp_path):
    text = GOOD + (
        "  schedulerConfig:\n    profiles:\n      - plugins:\n          score:\n"
        "            enabled:\n              - {name: NodeFoo}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(write(tmp_path, text))
    line = 1 + text[: text.index("- {name: NodeFoo}")].count("\n")
    assert f"cluster.yaml:{line}: spec.schedulerConfig.profiles[0].plugins.score" in str(
        caught.value
    )
    assert "NodeFoo" in str(caught.value)


IMAGES = """  images:
    team/solver: {like: mpioperator/openmpi, env: {OMP_NUM_THREADS: "1"}, cmd: [solve]}
    team/plain: {cmd: [sh]}
"""


def test_an_image_can_be_like_a_built_in_one_but_for_what_is_said(tmp_path):
    names = "/etc/passwd", "/home/mpiuser/.sshd_config"
    [config] = node_configs(read_cluster_file(write(tmp_path, GOOD + IMAGES)), None, "", 0, "")
    solver, plain = config.images
    assert (solver.name, solver.cmd) == ("team/solver", ("solve",))
    assert solver.env == {"HOME": "/home/mpiuser", "OMP_NUM_THREADS": "1"}
    assert set(names) <= set(solver.files)
    assert ("sshd", "openssh-server") in solver.programs
    assert plain == ImageConfig("team/plain", cmd=("sh",))


def test_an_image_like_no_built_in_one_is_shown_by_line(tmp_path):
    text = GOOD + IMAGES.replace("openmpi,", "openmp,")
    with pytest.raises(ConfigError) as caught:
        read_cluster_file(write(tmp_path, text))
    line = 1 + text[: text.index("team/solver")].count("\n")
    assert str(caught.value).endswith(
        f"cluster.yaml:{line}: spec.images.team/solver.like: there is no built-in image "
        "'mpioperator/openmp'; did you mean mpioperator/openmpi?"
    )


DEVICES = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
    - name: a
      runtime: process
      devices: [{{{entry}}}]
"""


def with_devices(tmp_path, entry):
    path = tmp_path / "cluster.yaml"
    path.write_text(DEVICES.format(entry=entry))
    return read_cluster_file(path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            "profile: nvidia, model: X900",
            "devices[0].model: unknown model 'X900'; known: A100-40GB",
        ),
        (
            "profile: nvidia, model: H20",
            "devices[0].model: unknown model 'H20'; did you mean H200?",
        ),
        (
            "profile: nvidia, partitions: 2",
            "devices[0].partitions: means nothing to profile nvidia",
        ),
        ("profile: nvml, failures: {mtbf: 1h, mttr: 1h}", "devices[0].failures: means nothing"),
        ("profile: gpu.example.com, mig: true", "it is for nvidia"),
        (
            "profile: nvidia, mig: true, allowMultiple: true",
            "allowMultiple: cannot stand beside mig",
        ),
        (
            "profile: free, driver: x.io, attributes: {v: {version: 1.2}}",
            "devices[0].attributes.v: ",
        ),
        (
            "profile: free, driver: x.io, attributes: {v: {version: 01.2.3}}",
            "'01.2.3': must be a string compatible with semver.org",
        ),
    ],
)
def test_devices_that_could_not_come_are_named(tmp_path, entry, words):
    with pytest.raises(ConfigError) as caught:
        with_devices(tmp_path, entry)
    assert words in str(caught.value)
    assert "cluster.yaml:8:" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "profile: nvidia, model: h100, mig: false, partitions: 0",
        "profile: nvidia, allowMultiple: true",
        "profile: nvml",
        "profile: nic, model: ConnectX-8",
        "profile: free, driver: x.io, attributes: {v: {version: 1.2.3-rc.1+b}}",
    ],
)
def test_devices_that_can_come_are_read(tmp_path, entry):
    assert with_devices(tmp_path, entry).pools[0].devices
