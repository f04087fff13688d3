"""For tests of controllers and manifests: a whole cluster in process, in no time.

    from kubarium.testing import run_virtual

    def test_a_job_completes():
        async def story(cluster):
            await cluster.apply(JOB)
            await cluster.until(lambda: cluster.condition(JOBS, "one", "Complete"))
        run_virtual(story, nodes=3)

``run_virtual`` runs on the virtual clock: an hour of back-off passes in milliseconds, and the same
seed gives the same history, write for write (``cluster.history_hash()``). ``run_real`` runs the
same story on the real clock, with real processes if the pools say so.
"""

from kubarium.testing.cluster import TestCluster, run_real, run_virtual

__all__ = ["TestCluster", "run_real", "run_virtual"]
