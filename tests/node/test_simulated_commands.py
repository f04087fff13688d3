"""What commands say plainly about time and end; what they do not say is not guessed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import JOBS, PODS
from kubarium.node.runtimes.simulated_commands import Outcome, of_command, told_by
from kubarium.testing import run_virtual

SAID = [
    (["sleep", "30"], Outcome(30, 0)),
    (["/bin/sleep", "1.5m", "2"], Outcome(92, 0)),
    (["sleep", "infinity"], Outcome(math.inf, 0)),
    (["true"], Outcome(0, 0)),
    (["false"], Outcome(0, 1)),
    (["sh", "-c", "sleep 10"], Outcome(10, 0)),
    (["/bin/bash", "-c", "echo 'a b'; sleep 1h"], Outcome(3600, 0)),
    (["sh", "-c", "sleep 1\nsleep 2\nexit 42\n"], Outcome(3, 42)),
    (["sh", "-c", "sleep 1 && false"], Outcome(1, 1)),
    (["sh", "-c", "sleep inf"], Outcome(math.inf, 0)),
]
UNSAID = [
    [],
    ["python", "-c", "print(1)"],
    ["sleep"],
    ["sleep", "soon"],
    ["sh", "-c", "echo done"],
    ["sh", "-c", "sleep $N"],
    ["sh", "-c", "sleep 5 &"],
    ["sh", "-c", "sleep 5 || exit 1"],
    ["sh", "-c", "while true; do sleep 1; done"],
    ["sh", "-c", "test -f /x; sleep 5"],
    ["sh", "-c", "exit 1; sleep 5"],
    ["sh", "-c", "echo 'open"],
    ["sh", "script.sh"],
]


@pytest.mark.parametrize(("words", "outcome"), SAID, ids=[" ".join(words) for words, _ in SAID])
def test_plain_commands_are_understood(words, outcome):
    assert of_command(words) == outcome


@pytest.mark.parametrize("words", UNSAID, ids=" ".join)
def test_of_others_nothing_is_said(words):
    assert of_command(words) is None


@given(st.lists(st.text(max_size=8), max_size=4), st.text(max_size=30))
def test_no_text_breaks_it(words, script):
    for command in (words, ["sleep", *words], ["sh", "-c", script]):
        outcome = of_command(command)
        assert outcome is None or (outcome.run_s >= 0 and 0 <= outcome.exit_code < 256)


def test_containers_end_together_and_one_that_says_nothing_decides():
    def pod(*commands):
        return {"spec": {"containers": [{"command": command} for command in commands]}}

    assert told_by(pod(["sleep", "5"], ["false"])) == Outcome(5, 1)
    assert told_by(pod(["sleep", "5"], ["python"])) is None


def job(name, command, annotations=None):
    template = {
        "metadata": {"annotations": annotations or {}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "busybox", "command": command}],
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": template},
    }


def test_simulated_jobs_take_the_time_they_sleep():
    async def story(cluster):
        started = cluster.clock.now()
        await cluster.apply(job("hour", ["sleep", "3600"]))
        await cluster.apply(job("broken", ["sh", "-c", "sleep 60; exit 7"]))
        await cluster.apply(job("endless", ["sleep", "infinity"]))
        await cluster.apply(job("told", ["sleep", "infinity"], {"kubarium.dev/run-duration": "5s"}))
        await cluster.until_true(JOBS, "told", "Complete", timeout_s=20)
        await cluster.until_true(JOBS, "broken", "Failed", timeout_s=120)
        await cluster.until_true(JOBS, "hour", "Complete", timeout_s=7200)
        assert 3600 <= cluster.clock.now() - started < 3610
        pods = {p["metadata"]["labels"]["job-name"]: p for p in await cluster.pods()}
        [status] = pods["broken"]["status"]["containerStatuses"]
        assert status["state"]["terminated"]["exitCode"] == 7
        endless = await cluster.get(PODS, pods["endless"]["metadata"]["name"])
        assert endless["status"]["phase"] == "Running"

    run_virtual(story)
