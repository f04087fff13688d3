"""A training script's side of surviving: resume, save, report progress, stop at a common step.

    from kubarium import train

    with train.Run(folder="/checkpoints", every=50, total=10_000) as run:
        state = run.resume({"weights": weights, "velocity": velocity})
        for step in run.steps():
            gradient = compute(state)
            with run.waiting():
                gradient = all_reduce(gradient)
            state = update(state, gradient)
            run.save_if_due(state)

With torch, ``dcp=True`` saves modules and optimizers so that any number of ranks can resume.

Nothing here is needed to train on Kubarium, and nothing here needs Kubarium: outside it the run
saves and resumes all the same, and reports go nowhere. It imports the standard library; NumPy is
imported with the first NumPy state, torch with the first torch state.
"""

from kubarium.train.checkpoints import Checkpoints, CorruptCheckpointError
from kubarium.train.fence import FencedError
from kubarium.train.run import Run

__all__ = ["Checkpoints", "CorruptCheckpointError", "FencedError", "Run"]
