"""JobSet's own published examples, run by our controllers."""

import pytest
import yaml

from kubarium.api.kinds import JOB_SETS, JOBS
from kubarium.control import core, training, workloads

# (file below site/static/examples, Jobs that run at first, Jobs once their pods are ready)
CASES = [
    ("simple/paralleljobs.yaml", 2, 2),
    ("simple/group.yaml", 2, 2),
    ("simple/coordinator.yaml", 2, 2),
    ("simple/jobset-with-network.yaml", 2, 2),
    ("simple/exclusive-placement.yaml", 3, 3),
    ("failure-policy/failjobset-action.yaml", 2, 2),
    ("failure-policy/onjobfailurereasons-present.yaml", 2, 2),
    ("failure-policy/restartjobsetandignoremaxrestarts-action.yaml", 2, 2),
    ("depends-on/depends-on.yaml", 1, 1),
    ("depends-on/multiple-depends-on.yaml", 2, 2),
    ("startup-policy/startup-driver-ready.yaml", 1, 2),
    ("volume-claim-policy/single-pvc.yaml", 1, 1),
    ("tensorflow/mnist.yaml", 1, 1),
    ("tpu-multislice/v6e-jax-workload.yaml", 2, 2),
]


@pytest.mark.shared
@pytest.mark.parametrize(("path", "first", "later"), CASES, ids=[case[0] for case in CASES])
def test_published_examples_start(world_run, shared, path, first, later):
    file = shared / "manifests/jobset/site/static/examples" / path
    if not file.is_file():
        pytest.skip(f"{path} is absent from the upstream data folder")

    async def story(world):
        await world.install("jobset.x-k8s.io")
        families = (core, workloads, training)
        controllers = [item for family in families for item in family.components(world.context)]
        await world.start(*controllers)
        documents = [item for item in yaml.safe_load_all(file.read_text()) if item]
        for document in documents:
            if document["kind"] == "JobSet":
                await world.create(JOB_SETS, document)
        await world.settle(5)
        assert len(await world.names(JOBS)) == first
        for pod in await world.live_pods():
            await world.set_phase(pod, "Running")
        await world.settle(5)
        assert len(await world.names(JOBS)) == later
        assert not [error for item in controllers for error in item.controller.errors]

    world_run(story)
