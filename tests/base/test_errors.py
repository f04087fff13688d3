"""Errors as clients see them."""

from kubarium.base.errors import FieldError, invalid


def test_an_error_that_two_checks_find_is_told_once():
    missing = FieldError("Required", "spec.workloadRef")
    other = FieldError("Required", "spec.name")
    found = invalid("CompositePodGroup", "scheduling.k8s.io", "c", [missing, missing, other])
    assert found.message == (
        'CompositePodGroup.scheduling.k8s.io "c" is invalid:'
        " [spec.workloadRef: Required value, spec.name: Required value]"
    )
    assert [cause["field"] for cause in found.details["causes"]] == [
        "spec.workloadRef",
        "spec.name",
    ]
    assert invalid("A", "", "a", [missing, missing]).message == (
        'A "a" is invalid: spec.workloadRef: Required value'
    )
