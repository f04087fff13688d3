"""Where a run's time went, from documents."""

import json

import pytest

from kubarium.base.clock import rfc3339
from kubarium.view.goodput import run_report

T = 1_700_000_000.0


def job(parallelism=2, name="train-workers-0"):
    return {"metadata": {"name": name}, "spec": {"parallelism": parallelism}}


def jobset(finished=None):
    conditions = []
    if finished is not None:
        conditions = [
            {"type": "Completed", "status": "True", "lastTransitionTime": rfc3339(T + finished)}
        ]
    return {
        "kind": "JobSet",
        "metadata": {"name": "train", "creationTimestamp": rfc3339(T)},
        "spec": {},
        "status": {"conditions": conditions},
    }


def history(rank, number, spans=(), job_name="train-workers-0", **status):
    times = {key: T + status.pop(key) for key in list(status) if key.endswith("At")}
    entries = []
    for what, began, ended, *step in spans:
        entry = {"what": what, "began": T + began, "ended": T + ended}
        if step:
            entry |= {"step": step[0], "count": step[1], "waited": 0.0}
        entries.append(entry)
    return {
        "metadata": {"name": f"pod-{rank}-{number}"},
        "spec": {"rank": rank, "podName": f"pod-{rank}-{number}", "jobName": job_name},
        "status": {**times, **status, "spans": entries},
    }


def whole_run():
    """Two ranks: queued for 2 s, steps 1 to 4, a crash at 10 s, back at 14 s from step 2."""
    first = [("import", 4, 5), ("step", 5, 9, 4, 4)]
    second = [("import", 14, 15), ("step", 15, 20, 7, 5)]
    found = []
    for rank in (0, 1):
        common = {"createdAt": 2, "scheduledAt": 3, "startedAt": 4, "endedAt": 10}
        found.append(history(rank, 0, first, **common, outcome="ExitCode 1", step=4, savedStep=2))
        common = {"createdAt": 11, "scheduledAt": 12, "startedAt": 14, "endedAt": 20}
        found.append(history(rank, 1, second, **common, outcome="Completed", step=7, resumedFrom=2))
    return found


def test_every_second_of_a_run_with_a_crash_is_accounted_for():
    report = run_report(jobset(20), whole_run(), [job()], T + 100)
    report.accounts.check()
    named = {k: pytest.approx(v) for k, v in report.accounts.seconds.items() if v}
    assert named == {
        "queue": 4,
        "assembly": 2,
        "image": 2,
        "import": 4,
        "productive": 8 + 6,
        "recomputed": 4,
        "restart": 2 + 8,
    }
    assert report.is_over
    assert report.restarts == 1
    assert report.lost_steps == (2,)
    assert report.step == 7


def test_a_run_that_nobody_reports_on_says_so():
    silent = [
        history(rank, 0, createdAt=0, scheduledAt=1, startedAt=2, endedAt=10, outcome="Completed")
        for rank in (0, 1)
    ]
    report = run_report(jobset(10), silent, [job()], T + 10)
    report.accounts.check()
    assert report.accounts.seconds["other"] == pytest.approx(16)
    assert report.notes[0].startswith("no rank reports progress, so its time is 'other'")
    assert report.advice is None


def test_what_a_program_did_that_reports_no_steps_is_no_restart():
    told = [("import", 2, 3), ("rendezvous", 3, 4)]  # by its launcher
    common = {"createdAt": 0, "scheduledAt": 1, "startedAt": 2}
    ended = [
        history(0, 0, told, **common, endedAt=20, outcome="Completed"),
        history(1, 0, told, **common, endedAt=20, outcome="Signal 9"),
    ]
    report = run_report(jobset(20), ended, [job()], T + 20)
    report.accounts.check()
    assert report.accounts.seconds["restart"] == 0
    assert report.accounts.seconds["other"] == pytest.approx(32)


def test_a_run_in_its_queue_has_only_waited():
    report = run_report(jobset(), [], [job(3)], T + 7)
    assert report.accounts.seconds["queue"] == pytest.approx(21)
    assert report.accounts.scheduling_goodput == 0
    assert not report.is_over


def test_while_one_rank_hangs_all_do():
    spans = [("step", 2, 6, 4, 4)]
    common = {
        "createdAt": 0,
        "scheduledAt": 1,
        "startedAt": 2,
        "endedAt": 12,
        "outcome": "Signal 9",
    }
    culprit = history(1, 0, [*spans, ("hang", 7, 11)], **common, step=4)
    waiting = history(0, 0, spans, **common, step=4)
    report = run_report(jobset(12), [waiting, culprit], [job()], T + 12)
    assert report.accounts.seconds["hang"] == pytest.approx(12)


def test_ranks_of_several_jobs_are_counted_one_after_the_other():
    jobs = [job(1, "train-leader-0"), job(2, "train-workers-0")]
    common = {"createdAt": 0, "scheduledAt": 0, "startedAt": 0}
    histories = [
        history(0, 0, [("step", 1, 2, 1, 1)], "train-leader-0", **common),
        history(0, 0, [("step", 1, 2, 1, 1)], "train-workers-0", **common),
        history(1, 0, [("step", 1, 3, 1, 1)], "train-workers-0", **common),
    ]
    report = run_report(jobset(), histories, jobs, T + 5)
    assert list(report.ranks) == [0, 1, 2]
    assert report.scores == {0: 1.0, 1: 1.0, 2: 2.0}
    assert report.ended == T + 3  # known up to the newest report


def test_the_advice_weighs_what_was_measured():
    spans = [("import", 0, 1), *[("step", n, n + 1, n, 1) for n in range(1, 50)]]
    saves = [("checkpoint", n + 0.5, n + 0.9) for n in range(10, 50, 10)]
    common = {"createdAt": 0, "scheduledAt": 0, "startedAt": 0}
    report = run_report(jobset(), [history(0, 0, spans + saves, **common)], [job(1)], T + 50)
    assert report.save_s == pytest.approx(0.4)
    assert report.advice is not None
    assert report.advice.interval_s == pytest.approx(report.advice.young_s, rel=0.05)
    found = report.to_json()
    assert found["advice"]["everySteps"] == report.advice.every_steps
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_a_spare_that_takes_a_rank_begins_with_it_and_what_it_waited_is_beside_the_ranks():
    lost = history(
        1,
        0,
        [("import", 2, 3), ("step", 3, 8, 5, 5)],
        createdAt=0,
        scheduledAt=1,
        startedAt=2,
        endedAt=9,
        outcome="Signal 9",
        step=5,
    )
    spare = history(
        1,
        1,
        [("import", 2, 3), ("spare", 3, 10), ("import", 10, 11), ("step", 11, 19, 12, 8)],
        createdAt=0,
        scheduledAt=1,
        startedAt=2,
        endedAt=20,
        outcome="Completed",
        step=12,
        resumedFrom=4,
    )
    stays = history(
        0,
        0,
        [
            ("import", 2, 3),
            ("step", 3, 8, 5, 5),
            ("restart", 8, 11),
            ("step", 11, 19, 12, 8),
        ],
        createdAt=0,
        scheduledAt=1,
        startedAt=2,
        endedAt=20,
        outcome="Completed",
        step=12,
    )
    for made in (spare, stays):
        made["status"]["spans"][-1]["first"] = True
    waiting = history(-1, 0, [], createdAt=10, scheduledAt=10, startedAt=11)
    gang = {
        "attempt": 2,
        "at": T + 10,
        "ranks": [{}, {}],
        "step": 4,
        "why": "rank 1 lost",
        "spares": [{"pod": "pod-1-1", "rank": 1}],
        "history": [{"attempt": 1, "ranks": 2, "at": T + 2, "step": 0, "why": "", "spares": []}],
    }
    one = job()
    one["metadata"]["annotations"] = {"kubarium.dev/gang": json.dumps(gang)}
    report = run_report(jobset(20), [lost, spare, stays, waiting], [one], T + 30)
    report.accounts.check()
    assert report.accounts.ranks == 2
    assert report.spare_s == pytest.approx((10 - 1) + (20 - 10))
    assert report.restarts == 1
    assert report.lost_steps == (1,)
    assert report.accounts.seconds["restart"] == pytest.approx(3 + 2)
    assert [a.spares for a in report.gang] == [(), ("pod-1-1",)]
