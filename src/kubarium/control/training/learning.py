"""Memory sizes that were learned, written down on Jobs and JobSets for the pods that come next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubarium.api.resource import Document, Resource
from kubarium.runtime import writes
from kubarium.runtime.protocol import Context
from kubarium.view.memory import LEARNED, larger, learned, learned_text, owed


async def remember(
    context: Context,
    resource: Resource,
    owner: Document,
    sizes: Mapping[str, Mapping[str, int]],
) -> bool:
    """Write ``sizes`` (bytes, by key and container) to the owner where they are more than what it
    knows; whether any were. Conflict when the owner has moved on: ranks that are killed together
    would else forget each other's."""
    known = learned(owner)
    found = larger(known, sizes)
    if found == known:
        return False
    change = {
        "metadata": {
            "resourceVersion": owner["metadata"]["resourceVersion"],
            "annotations": {LEARNED: learned_text(found)},
        }
    }
    await writes.patch(context, resource, owner, change)
    return True


def jobset_key(job: str, index: str) -> str:
    """Under what a JobSet keeps the sizes of its Job's pods, as ``train-workers-0/7``."""
    return f"{job}/{index}"


def owed_by_jobset(pods: Iterable[Document]) -> dict[str, dict[str, int]]:
    """What the pods of a JobSet that come after these begin with."""
    by_job: dict[str, list[Document]] = {}
    for pod in pods:
        owner = writes.controller_of(pod)
        if owner is not None and owner["kind"] == "Job":
            by_job.setdefault(owner["name"], []).append(pod)
    return {
        jobset_key(job, index): sizes
        for job, mine in by_job.items()
        for index, sizes in owed(mine).items()
    }
