from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import CRON_JOBS, JOBS
from kubarium.control.workloads.cronjob.controller import CronJobController
from kubarium.control.workloads.cronjob.schedule import ScheduleError, parse
from kubarium.control.workloads.job.controller import JobController


def at(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("*/15 * * * *", "2026-01-01T00:00", "2026-01-01T00:15"),
        ("0 3 * * *", "2026-01-01T03:00", "2026-01-02T03:00"),
        ("@monthly", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("0 0 29 feb *", "2026-01-01T00:00", "2028-02-29T00:00"),
        ("30 9 * * mon-fri", "2026-01-02T10:00", "2026-01-05T09:30"),
        ("0 0 13 * fri", "2026-01-02T00:00", "2026-01-09T00:00"),
        ("5/20 1,2 * * *", "2026-01-01T01:45", "2026-01-01T02:05"),
    ],
)
def test_next_time(schedule, after, expected):
    assert parse(schedule).next_after(at(after), UTC) == at(expected)


def test_a_day_that_never_comes():
    assert parse("0 0 30 2 *").next_after(at("2026-01-01T00:00"), UTC) is None


def test_times_that_the_clock_skips_are_skipped():
    berlin = ZoneInfo("Europe/Berlin")
    found = parse("30 2 * * *").next_after(at("2026-03-28T12:00", berlin), berlin)
    assert found == at("2026-03-30T02:30", berlin)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("* * * *", "expected exactly 5 fields"),
        ("60 * * * *", "minute: '60' is not within 0-59"),
        ("* * * * fry", "day of week: 'fry' is not a number"),
        ("*/0 * * * *", "must be at least 1"),
        ("* 5-3 * * *", "hour: '5-3' is not within"),
    ],
)
def test_bad_schedules_name_the_field(text, message):
    with pytest.raises(ScheduleError, match=message):
        parse(text)


@given(
    minute=st.sampled_from(["*", "*/7", "3,33", "10-20/5"]),
    hour=st.sampled_from(["*", "*/5", "0", "22-23"]),
    day=st.sampled_from(["*", "1", "10-12"]),
    weekday=st.sampled_from(["*", "0", "1-5"]),
    start=st.integers(1767225600, 1767225600 + 60 * 86400),
)
@settings(max_examples=60, deadline=None)
def test_the_next_time_is_the_first_minute_that_matches(minute, hour, day, weekday, start):
    schedule = parse(f"{minute} {hour} {day} * {weekday}")
    found = schedule.next_after(start, UTC)

    def matches(moment):
        if moment.minute not in schedule.minutes or moment.hour not in schedule.hours:
            return False
        by_day = moment.day in schedule.days
        by_weekday = moment.isoweekday() % 7 in schedule.weekdays
        if day == "*" or weekday == "*":
            return by_day and by_weekday
        return by_day or by_weekday

    moment = datetime.fromtimestamp(start, UTC).replace(second=0) + timedelta(minutes=1)
    while not matches(moment):
        moment += timedelta(minutes=1)
    assert found == moment.timestamp()


def cron_job(schedule="*/10 * * * *", **spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {
            "schedule": schedule,
            "jobTemplate": {
                "spec": {
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "containers": [{"name": "main", "image": "busybox"}],
                        }
                    }
                }
            },
            **spec,
        },
    }


async def started(world, document):
    await world.start(CronJobController(world.context), JobController(world.context))
    await world.settle(1)
    await world.create(CRON_JOBS, document)


async def finish_all(world):
    for pod in await world.live_pods():
        await world.set_phase(pod, "Succeeded")
    await world.settle(1)


def test_jobs_start_on_time_and_old_ones_go(world_run):
    async def story(world):
        await started(world, cron_job(successfulJobsHistoryLimit=2))
        await world.settle(590)
        assert await world.names(JOBS) == []
        await world.settle(15)
        [name] = await world.names(JOBS)
        assert name == f"tick-{(1767225600 + 600) // 60}"
        job = await world.get(JOBS, name)
        stamp = job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"]
        assert stamp == "2026-01-01T00:10:00Z"
        status = (await world.get(CRON_JOBS, "tick"))["status"]
        assert status["lastScheduleTime"] == "2026-01-01T00:10:00Z"
        assert [item["name"] for item in status["active"]] == [name]
        for _ in range(4):
            await finish_all(world)
            await world.settle(600)
        await finish_all(world)
        assert len(await world.names(JOBS)) == 2
        status = (await world.get(CRON_JOBS, "tick"))["status"]
        assert "active" not in status
        assert status["lastSuccessfulTime"]

    world_run(story)


@pytest.mark.parametrize(("policy", "count"), [("Allow", 3), ("Forbid", 1), ("Replace", 1)])
def test_concurrency_policies(world_run, policy, count):
    async def story(world):
        await started(world, cron_job(concurrencyPolicy=policy))
        await world.settle(1810)
        names = await world.names(JOBS)
        assert len(names) == count
        first = f"tick-{(1767225600 + 600) // 60}"
        assert (first in names) is (policy != "Replace")

    world_run(story)


def test_a_suspended_cron_job_starts_only_the_last_missed_time(world_run):
    async def story(world):
        await started(world, cron_job("* * * * *", suspend=True))
        await world.settle(2 * 86400)
        assert await world.names(JOBS) == []
        await world.client.patch(CRON_JOBS, "tick", {"spec": {"suspend": False}}, "default")
        await world.settle(5)
        assert len(await world.names(JOBS)) == 1
        assert (await world.events("TooManyMissedTimes")) != []
        status = (await world.get(CRON_JOBS, "tick"))["status"]
        assert status["lastScheduleTime"] == "2026-01-03T00:00:00Z"

    world_run(story)
