"""Gangs that lose ranks and go on, from documents."""

import json

import pytest

from kubarium.view.elastic import (
    Report,
    elastic_policy,
    gang_lines,
    hostname_of,
    keep_apart,
    problem_of,
    put_launcher_first,
    rank_lines,
    report_message,
    report_of,
)


def pod(report=None, annotations=None, **labels):
    conditions = []
    if report is not None:
        conditions = [
            {
                "type": "gang.kubarium.dev/rank",
                "status": "True",
                "reason": report.state,
                "message": report_message(report),
            }
        ]
    return {
        "metadata": {"name": "p", "labels": labels, "annotations": annotations or {}},
        "spec": {"hostname": "train-2", "containers": [{"command": ["./train"]}]},
        "status": {"conditions": conditions},
    }


@pytest.mark.parametrize(
    "report",
    [
        Report("Waiting", 0),
        Report("Running", 3, 0, 120),
        Report("Failed", 12, 137, 40, 25),
        Report("Stopped", 2, 143, -1, 0),
    ],
)
def test_a_report_is_read_back_as_it_was_written(report):
    assert report_of(pod(report)) == report


def test_defaults_and_durations():
    policy = elastic_policy({"kubarium.dev/spares": "2", "kubarium.dev/elastic-wait": "1m"})
    assert (policy.spares, policy.min_ranks, policy.wait_s, policy.max_restarts) == (
        2,
        None,
        60,
        10,
    )


def test_the_launcher_is_put_before_the_command_once():
    made = pod()
    put_launcher_first(made)
    put_launcher_first(made)
    [container] = made["spec"]["containers"]
    assert container["command"] == ["python3", "-m", "kubarium.train.launch", "--", "./train"]


def test_a_spare_keeps_what_affinity_it_has():
    made = pod()
    made["spec"]["affinity"] = {"nodeAffinity": {"x": 1}}
    keep_apart(made, {"a": "b"})
    assert set(made["spec"]["affinity"]) == {"nodeAffinity", "podAntiAffinity"}


def test_a_spare_answers_to_the_name_of_the_rank_it_has_taken():
    assert hostname_of(pod()) == "train-2"
    assert hostname_of(pod(annotations={"kubarium.dev/hostname": "train-0"})) == "train-0"


def test_without_a_command_there_is_nothing_to_start_again():
    template = {
        "metadata": {"annotations": {"kubarium.dev/spares": "0"}},
        "spec": {"containers": [{"name": "main"}]},
    }
    spec = {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "template": template}
    path, _, why = problem_of(spec)
    assert path == "template.spec.containers[0].command"
    assert why.startswith("is needed for kubarium.dev/spares")


def test_why_says_how_the_gang_stands():
    template = {
        "metadata": {"annotations": {"kubarium.dev/min-ranks": "2"}},
        "spec": {"containers": [{"name": "main", "command": ["x"]}]},
    }
    job = {
        "kind": "Job",
        "metadata": {"name": "train", "annotations": {}},
        "spec": {
            "completionMode": "Indexed",
            "completions": 4,
            "parallelism": 4,
            "template": template,
        },
    }
    assert gang_lines(job) == ["the gang begins when all 4 ranks wait at the rendezvous"]
    record = {"attempt": 3, "ranks": [{}] * 3, "step": 40, "why": "rank 1 lost"}
    job["metadata"]["annotations"]["kubarium.dev/gang"] = json.dumps(record)
    assert gang_lines(job) == ["attempt 3 with 3 of 4 ranks, from step 40: rank 1 lost"]
    spare = pod(Report("Waiting", 0), **{"kubarium.dev/spare": "true"})
    assert rank_lines(spare) == ["a spare: it waits to take the rank of a pod that is lost"]
    world = {"kubarium.dev/world": json.dumps({"rank": 1, "world": 3})}
    assert rank_lines(pod(Report("Running", 3, 0, 40), world)) == [
        "rank 1 of 3; its command is Running, attempt 3, step 40"
    ]
