"""Annotations of ours that nobody can read are told to whoever writes them."""

from __future__ import annotations

import pytest

from kubarium.view.annotations import unreadable


def annotated(**annotations):
    named = {f"kubarium.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"metadata": {"name": "x", "annotations": named}}


@pytest.mark.parametrize(
    ("name", "good", "bad", "wanted"),
    [
        ("data-locality", ["required", "Preferred"], ["must", ""], "required or preferred"),
        ("start-delay", ["0s", "2", "1h30m"], ["-3s", "soon"], "a duration, such as 90s or 1h30m"),
        ("run-duration", ["never", "250ms"], ["5 minutes"], "never or a duration, such as"),
        ("exit-code", ["0", "255"], ["256", "-1", "x", "1.5"], "a number from 0 to 255"),
        ("oom", ["true", "false"], ["yes"], "true or false"),
        ("gpu-utilization", ["0", "99.5"], ["101", "nan", "lots"], "a number from 0 to 100"),
        ("memory-usage", ["1Gi", "0"], ["lots", "-1Gi"], "a quantity, such as 500m or 2Gi"),
        ("pids", ["7"], ["many"], "a quantity"),
    ],
)
def test_what_to_write_for_a_pod_is_said(name, good, bad, wanted):
    key = name.replace("-", "_")
    for value in good:
        assert list(unreadable(annotated(**{key: value}), "Pod")) == []
    for value in bad:
        [text] = unreadable(annotated(**{key: value}), "Pod")
        where = f"metadata.annotations[kubarium.dev/{name}]"
        assert text.startswith(f"{where}: {value!r} cannot be read: write {wanted}")


def test_of_nodes_the_order_to_end_and_the_report_are_read():
    good = {"cached": '{"dataset/web": "150Gi", "model/a": 5, "b": null}', "shutdown": "1m"}
    assert not list(unreadable(annotated(**good), "Node"))
    assert not list(unreadable(annotated(shutdown="configured"), "Node"))
    bad = ("soon", '{"a": "150Gi"', '{"a": "lots"}', "[]", '{"a": ["1"]}')
    texts = [text for value in bad for text in unreadable(annotated(cached=value), "Node")]
    assert len(texts) == len(bad)
    [text] = unreadable(annotated(shutdown="soon"), "Node")
    assert text.endswith(
        "'soon' cannot be read: write configured or a duration, such as 90s or 1h30m"
    )


def test_templates_of_pods_are_looked_at_wherever_they_are():
    template = annotated(oom="yes")
    job = {"spec": {"template": template}}
    job_set = {"spec": {"replicatedJobs": [{"name": "w", "template": job}]}}
    found = [
        next(unreadable(document, kind)).partition("[kubarium")[0]
        for document, kind in (
            (job, "Deployment"),
            ({"spec": {"jobTemplate": job}}, "CronJob"),
            (job_set, "JobSet"),
        )
    ]
    assert found == [
        "spec.template.metadata.annotations",
        "spec.jobTemplate.spec.template.metadata.annotations",
        "spec.replicatedJobs[0].template.spec.template.metadata.annotations",
    ]
    assert list(unreadable({"spec": {}}, "Job")) == []


def test_other_annotations_are_nobodys_business():
    other = {"metadata": {"annotations": {"example.com/oom": "yes", "kubarium.dev/new": "?"}}}
    assert list(unreadable(other, "Pod")) == []
    assert list(unreadable({"metadata": {"annotations": None}}, "Pod")) == []
