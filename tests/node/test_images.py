"""The image catalogue, and how commands and environments are put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.config import ImageConfig
from kubarium.node.environment import ConfigProblem, command_line, expand
from kubarium.node.images import (
    DEFAULT_PATH,
    ImageCatalogue,
    InvalidImageName,
    UnknownImage,
    repository_of,
)
from kubarium.node.oci.users import Accounts


@pytest.mark.parametrize(
    "reference",
    [
        "busybox",
        "busybox:1.36",
        "docker.io/library/busybox:1.36",
        "registry.example.com:5000/mirror/busybox@sha256:" + "0" * 64,
        "ubuntu:22.04",
        "python:3.12-slim",
        "registry.k8s.io/pause:3.10",
        "kubarium/train:latest",
        "ghcr.io/kubarium/anything",
    ],
)
def test_known_images(reference):
    image = ImageCatalogue().resolve(reference)
    assert image.reference == reference
    assert "@sha256:" in image.image_id


def test_an_unknown_image_says_how_to_map_it():
    with pytest.raises(UnknownImage, match=r"images: \{vllm/vllm-openai: \{cmd: \[sh\]\}\}"):
        ImageCatalogue().resolve("vllm/vllm-openai:v1")


@pytest.mark.parametrize("reference", ["", "Busybox", "a b", ":tag"])
def test_invalid_references(reference):
    with pytest.raises(InvalidImageName, match="invalid reference format"):
        ImageCatalogue().resolve(reference)


def test_entries_of_the_cluster_file_come_first():
    mine = ImageConfig("busybox", cmd=("mine",))
    assert ImageCatalogue([mine]).resolve("busybox:1").cmd == ("mine",)
    prefix = ImageConfig("vllm/*", cmd=("serve",))
    assert ImageCatalogue([prefix]).resolve("docker.io/vllm/openai:1").cmd == ("serve",)


def test_repositories():
    assert repository_of("localhost:5000/a/b:1") == "localhost:5000/a/b"
    assert repository_of("a@sha256:1") == "a"


def test_command_and_args_table():
    # As in Kubernetes' documentation: command replaces entrypoint and cmd, args replaces cmd.
    image = (("/ep",), ("foo", "bar"))
    for container, expected in (
        ({}, ["/ep", "foo", "bar"]),
        ({"command": ["/ep-1"]}, ["/ep-1"]),
        ({"args": ["zoo"]}, ["/ep", "zoo"]),
        ({"command": ["/ep-1"], "args": ["zoo"]}, ["/ep-1", "zoo"]),
    ):
        assert command_line(container, *image, {}) == expected
    with pytest.raises(ConfigProblem, match="no command specified"):
        command_line({}, (), (), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A}", "$A ${A}"),
        ("$(A", "$(A"),
        ("100%$", "100%$"),
    ],
)
def test_references_in_text(text, expected):
    assert expand(text, {"A": "1"}) == expected


@given(st.text().filter(lambda text: "$" not in text))
def test_text_without_a_dollar_is_kept(text):
    assert expand(text, {"A": "1"}) == text


def test_training_images_are_this_machines_python_with_the_framework(monkeypatch):
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: object())
    image = ImageCatalogue().resolve("pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime")
    assert image.cmd == ("python3",)
    assert ImageCatalogue().resolve("nvcr.io/nvidia/jax:25.10-py3").cmd == ("python3",)


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("pytorch/pytorch:2.13.0", "/workspace"),
        ("ghcr.io/kubeflow/trainer/xgboost-runtime", "/workspace"),
        ("ghcr.io/kubeflow/trainer/torchtune-trainer", "/workspace"),
        ("ghcr.io/kubeflow/trainer/deepspeed-runtime", "/home/mpiuser"),
    ],
)
def test_programs_of_a_training_image_work_where_they_do_in_it(reference, place, monkeypatch):
    """Trainer's guide to XGBoost saves its model there."""
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name, path: f"/usr/bin/{name}")
    image = ImageCatalogue().resolve(reference)
    assert image.working_dir == place
    assert place in image.folders


def test_a_training_image_without_its_framework_says_what_to_install(monkeypatch):
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: None)
    with pytest.raises(UnknownImage, match=r"pip install torch\), or map the image"):
        ImageCatalogue().resolve("docker.io/pytorch/pytorch:2")


@pytest.mark.parametrize("framework", ["deepspeed", "mlx"])
def test_images_for_mpi_say_all_that_is_missing_and_what_needs_none_of_it(framework, monkeypatch):
    reference = f"ghcr.io/kubeflow/trainer/{framework}-runtime"
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(UnknownImage) as caught:
        ImageCatalogue().resolve(reference)
    assert f"pip install {framework}" in str(caught.value)
    assert (
        "this machine has no mpirun, no ssh and no sshd (apt-get install openmpi-bin "
        "openssh-client openssh-server); neither is needed by"
    ) in str(caught.value)
    monkeypatch.setattr("shutil.which", lambda name, path: f"/usr/bin/{name}")
    with pytest.raises(UnknownImage, match="an SSH server set up as in it; neither is needed"):
        ImageCatalogue().resolve(reference)
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: object())
    assert ImageCatalogue().resolve(reference).modules == (framework,)


@pytest.mark.parametrize(
    ("image", "rest"),
    [
        ("mpioperator/openmpi:v0.8.2", "in the cluster file"),
        ("ghcr.io/kubeflow/trainer/deepspeed-runtime", "neither is needed by the runtime torch-"),
    ],
)
def test_an_image_without_its_programs_says_what_to_install(image, rest, monkeypatch):
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: object())
    there = {"mpirun": "/usr/bin/mpirun", "ssh": "/usr/bin/ssh"}
    monkeypatch.setattr("shutil.which", lambda name, path: there.get(name))
    with pytest.raises(UnknownImage, match=rest) as caught:
        ImageCatalogue().resolve(image)
    assert "which has no sshd (apt-get install openssh-server) in /usr/local/sbin" in str(
        caught.value
    )


def test_images_for_mpi_have_accounts_and_settings_of_their_own(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name, path: f"/usr/bin/{name}")
    image = ImageCatalogue().resolve("mpioperator/openmpi")
    user = Accounts(image.files["/etc/passwd"], image.files["/etc/group"]).of_number(1000)
    assert (user.gid, user.home) == (1000, "/home/mpiuser")
    assert image.env["HOME"] == user.home
    assert user.home in image.folders
    server = image.files["/home/mpiuser/.sshd_config"].splitlines()
    assert {"Port 2222", "ListenAddress $(POD_IP)", "StrictModes no"} <= set(server)
    # Ranks that the server starts find the Python that others do.
    path = ":".join((*image.path, DEFAULT_PATH))
    assert f"SetEnv PATH={path}" in server


def test_mlx_finds_open_mpi_without_the_package_for_compilers(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name, path: f"/usr/bin/{name}")
    monkeypatch.setattr("kubarium.node.images.find_spec", lambda name: object())
    image = ImageCatalogue().resolve("ghcr.io/kubeflow/trainer/mlx-runtime")
    assert image.env["MLX_MPI_LIBNAME"] == "libmpi.so.40"
    assert " MLX_MPI_LIBNAME=libmpi.so.40\n" in image.files["/home/mpiuser/.sshd_config"]


def test_the_cluster_file_can_map_them_all_the_same():
    given = ImageConfig("kubeflow/trainer/mlx-runtime", cmd=("sh",))
    assert ImageCatalogue([given]).resolve("ghcr.io/kubeflow/trainer/mlx-runtime").cmd == ("sh",)
