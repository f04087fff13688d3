"""Image references, as registries and as paths."""

from __future__ import annotations

import pytest

from kubarium.node.oci.errors import PullProblem
from kubarium.node.oci.reference import parse_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("registry:5000/a/b_c/d--e:V1.2_3", "registry:5000/a/b_c/d--e:V1.2_3"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        ("docker://busybox:1", "docker.io/library/busybox:1"),
        ("oci:/srv/app", "oci:/srv/app"),
        ("oci:/srv//app/:v1", "oci:/srv/app:v1"),
        ("oci-archive:/srv/a.tar", "oci-archive:/srv/a.tar"),
        (
            "docker-archive:/srv/a.tar:example.com/a:v1",
            "docker-archive:/srv/a.tar:example.com/a:v1",
        ),
    ],
)
def test_canonical_names(text, canonical):
    found = parse_reference(text)
    assert found.canonical == canonical
    assert parse_reference(found.canonical).canonical == canonical


@pytest.mark.parametrize(
    "text",
    ["", "A", "a b", ":x", "a:", "a@sha256:12", "a//b", "a/../b", "-a", "oci:srv/app", "oci:",
     "https://example.com/a", "x" * 300],
)  # fmt: skip
def test_what_is_no_reference_says_so_in_kubelets_words(text):
    with pytest.raises(PullProblem, match="Failed to apply default image tag") as caught:
        parse_reference(text)
    assert caught.value.reason == "InvalidImageName"
    assert f'"{text}"' in str(caught.value)
