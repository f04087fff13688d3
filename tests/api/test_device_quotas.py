"""Devices of claims and pods under the names that quotas have for them (KEP-4381, KEP-5004)."""

from __future__ import annotations

from fractions import Fraction

from kubarium.api.device_quotas import resource_names
from kubarium.api.kinds import PODS, RESOURCE_CLAIMS
from kubarium.api.quotas import counts, usage_of

GPU = "example.com/gpu"
CLASSES = [
    {"metadata": {"name": "mine"}, "spec": {"extendedResourceName": GPU}},
    {"metadata": {"name": "other"}, "spec": {}},
]
HARD = {
    f"requests.{GPU}": "10",
    "requests.deviceclass.resource.kubernetes.io/mine": "10",
    "mine.deviceclass.resource.k8s.io/devices": "10",
}


def claim(*requests, **metadata):
    return {"metadata": {"name": "c", **metadata}, "spec": {"devices": {"requests": requests}}}


def exactly(device_class="mine", **more):
    return {"name": "r", "exactly": {"deviceClassName": device_class, **more}}


def used(resource, document):
    return usage_of(resource, document, HARD, resource_names(CLASSES))


def test_a_users_claim_counts_under_every_name_of_its_class():
    assert counts(RESOURCE_CLAIMS, {f"requests.{GPU}": "1"})
    found = used(RESOURCE_CLAIMS, claim(exactly(count=2), exactly("other", count=5)))
    assert found == dict.fromkeys(HARD, Fraction(2))


def test_the_claim_behind_extended_resources_counts_by_class_only():
    notes = {"resource.kubernetes.io/extended-resource-claim": "true"}
    found = used(RESOURCE_CLAIMS, claim(exactly(count=2), annotations=notes))
    assert found == {"mine.deviceclass.resource.k8s.io/devices": Fraction(2)}


def test_of_alternatives_the_largest_counts_and_all_is_32():
    options = [
        {"name": "a", "deviceClassName": "mine", "count": 3},
        {"name": "b", "deviceClassName": "mine", "allocationMode": "All"},
    ]
    found = used(RESOURCE_CLAIMS, claim({"name": "r", "firstAvailable": options}))
    assert found[f"requests.{GPU}"] == 32


def test_a_pod_that_names_the_class_counts_under_the_resource_too():
    requests = {GPU: "1", "deviceclass.resource.kubernetes.io/mine": "2"}
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]},
    }
    found = used(PODS, pod)
    assert found[f"requests.{GPU}"] == 3
    assert found["requests.deviceclass.resource.kubernetes.io/mine"] == 3


def test_a_pod_that_names_the_resource_counts_under_the_class_that_answers_it():
    requests = {GPU: "1", "deviceclass.resource.kubernetes.io/mine": "2"}
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]},
    }
    hidden = {
        "metadata": {"name": "hidden", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"extendedResourceName": GPU},
    }
    mine = {
        "metadata": {"name": "mine", "creationTimestamp": "2026-01-02T00:00:00Z"},
        "spec": {"extendedResourceName": GPU},
    }
    prefix = "requests.deviceclass.resource.kubernetes.io/"
    names = {prefix + "mine": "9", prefix + "hidden": "9", f"requests.{GPU}": "9"}
    found = usage_of(PODS, pod, names, resource_names([hidden, mine]))
    assert found == {prefix + "mine": Fraction(3), f"requests.{GPU}": Fraction(3)}
