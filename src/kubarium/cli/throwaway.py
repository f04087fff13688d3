"""`run`: a cluster that lives as long as one set of manifests."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubarium.cli import outcome, presentation
from kubarium.cli.lifecycle import described
from kubarium.client.http import HttpClient
from kubarium.cluster.daemon import Launch, start_detached
from kubarium.cluster.file import ClusterFile
from kubarium.cluster.state import StateDirectory, stop


@contextmanager
def temporary_cluster(cluster: ClusterFile) -> Iterator[StateDirectory]:
    """A cluster under a folder of its own that is gone afterwards, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="kubarium-") as home:
        state = StateDirectory("run", Path(home))
        launch = Launch(state, cluster, in_memory=True)
        record = start_detached(launch)
        try:
            presentation.announce_temporary(record, launch)
            yield state
        finally:
            stop(record, now=True)


def run(
    files: list[Path],
    cluster_file: Path | None,
    nodes: int | None,
    simulated: bool,
    timeout_s: float,
) -> None:
    """A throw-away cluster for one set of manifests; the exit code is the outcome."""
    documents = outcome.read_manifests(files)
    cluster = described(cluster_file, nodes, simulated)

    async def watch(state: StateDirectory) -> int:
        async with HttpClient.from_kubeconfig(str(state.kubeconfig)) as client:
            return await outcome.apply_and_wait(client, documents, timeout_s)

    with temporary_cluster(cluster) as state:
        code = asyncio.run(watch(state))
    sys.exit(code)
