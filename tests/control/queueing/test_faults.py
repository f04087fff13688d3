"""Writes of the admission loop that fail: they are tried again, and hold up no other workload."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubarium.api.kinds import CLUSTER_QUEUES, WORKLOADS
from kubarium.api.resource import copy_document
from kubarium.control.queueing.admission import RETRY_S
from tests.control.queueing.test_jobs import Story, job
from tests.control.scheduling.test_faults import Faulty, unavailable

ERRORS = pytest.mark.parametrize(
    "error", [unavailable(), KeyError("uid")], ids=["refused", "nobody foresaw"]
)


@pytest.fixture
def waiting(world_run, queues, conditions, caplog):
    """Jobs that wait for quota; the first's admission is going to fail, then quota comes."""

    def run(names, errors, check):
        async def main(world):
            client = Faulty(world.controller_client)
            world.context = replace(world.context, client=client)
            story = Story(world, queues, conditions)
            await story.start(cpu="4")
            jobs = [await story.submit(job(name, cpu="5")) for name in names]
            workload = (await story.workload(jobs[0]))["metadata"]["name"]
            client.fail("update", WORKLOADS, workload, "status", *errors)
            queue = copy_document(await world.get(CLUSTER_QUEUES, "cq"))
            quota = queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]
            quota["nominalQuota"] = "20"
            await world.client.update(CLUSTER_QUEUES, queue)
            await world.clock.sleep(RETRY_S / 2)
            await check(story, jobs)
            assert len(client.failed) == len(errors)

        world_run(main)
        logged = [r.getMessage() for r in caplog.records if r.name == "kubarium.queueing"]
        assert len(logged) == len(errors)
        assert all(f"again in {RETRY_S:g}s" in line for line in logged)
        caplog.clear()  # it was told, as it should be

    return run


@ERRORS
def test_an_admission_that_fails_is_tried_again_although_nothing_changes(waiting, error):
    async def check(story, jobs):
        await story.world.settle(20 * RETRY_S)
        assert (await story.conditions(jobs[0]))["QuotaReserved"][0] == "True"
        assert await story.runs(jobs[0])

    waiting(["only"], [error] * 8, check)


@ERRORS
def test_an_admission_that_fails_again_and_again_holds_up_no_other(waiting, error):
    async def check(story, jobs):
        assert (await story.conditions(jobs[0]))["QuotaReserved"][0] == "False"
        assert (await story.conditions(jobs[1]))["QuotaReserved"][0] == "True"
        await story.world.settle(20 * RETRY_S)
        assert await story.runs(jobs[0])

    waiting(["first", "second"], [error] * 8, check)
