"""Ephemeral containers: added to a running pod, run once, and are nobody's health."""

from __future__ import annotations

import asyncio

from kubarium.api.kinds import PODS

from .conftest import process_world


async def debug(world, name, container, script, **more):
    entry = {"name": container, "image": "busybox", "command": ["sh", "-c", script], **more}
    patch = {"spec": {"ephemeralContainers": [entry]}}
    kind = "application/strategic-merge-patch+json"
    await world.client.patch(
        PODS, name, patch, "default", subresource="ephemeralcontainers", patch_type=kind
    )


async def ended(world, name, container):
    async def question():
        status = (await world.get(name))["status"]
        for entry in status.get("ephemeralContainerStatuses") or ():
            if entry["name"] == container and entry["state"].get("terminated"):
                return entry["state"]["terminated"]
        return None

    return await world.until(question, f"{container} ended")


def test_an_ephemeral_container_runs_once_and_sees_its_target_s_processes():
    look = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null; echo; done; exit 4"

    async def main():
        async with process_world() as world:
            await world.pod("p", "exec sleep 8642", restartPolicy="Always")
            await world.phase("p", "Running")
            await debug(world, "p", "look", look, targetContainerName="main")
            assert (await ended(world, "p", "look"))["exitCode"] == 4
            output = await world.log("p", container="look")
            if world.agent.isolation().level != "plain":
                assert "sleep 8642" in output
            await debug(world, "p", "blind", look)
            await ended(world, "p", "blind")
            pod = await world.get("p")
            assert pod["status"]["phase"] == "Running"
            ready = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
            assert ready["Ready"] == "True"
            entries = pod["status"]["ephemeralContainerStatuses"]
            assert [entry["restartCount"] for entry in entries] == [0, 0]
            if world.agent.isolation().level != "plain":
                assert "sleep 8642" not in await world.log("p", container="blind")

    asyncio.run(main())


def test_the_end_of_a_pod_ends_its_ephemeral_containers_and_they_do_not_fail_it():
    async def main():
        async with process_world() as world:
            await world.pod("p", "sleep 1.5")
            await world.phase("p", "Running")
            await debug(world, "p", "stays", "exec sleep 7531", targetContainerName="main")
            pod = await world.phase("p", "Succeeded")
            assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
            assert (await ended(world, "p", "stays"))["exitCode"] == 137

    asyncio.run(main())


def test_an_ephemeral_container_that_cannot_be_started_is_no_harm():
    async def main():
        async with process_world() as world:
            await world.pod("p", "sleep 1000")
            await world.phase("p", "Running")
            entry = {"name": "x", "image": "busybox", "command": ["/no/such"]}
            patch = {"spec": {"ephemeralContainers": [entry]}}
            kind = "application/strategic-merge-patch+json"
            await world.client.patch(
                PODS, "p", patch, "default", subresource="ephemeralcontainers", patch_type=kind
            )
            assert (await ended(world, "p", "x"))["reason"] == "StartError"
            assert (await world.get("p"))["status"]["phase"] == "Running"

    asyncio.run(main())
