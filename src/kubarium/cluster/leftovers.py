"""What a cluster whose process was killed may have left running, and ending it."""

from __future__ import annotations

from kubarium.base.trees import remove_tree
from kubarium.cluster.state import StateDirectory
from kubarium.node.runtimes.process.engine import end_lingering
from kubarium.node.runtimes.process.group_files import clear_noted_groups
from kubarium.node.runtimes.process.pods import runtime_name


def end_pods(state: StateDirectory) -> bool:
    """End the pods that wait for their cluster to come back; false if there are none."""
    found = end_lingering(runtime_name(str(state.nodes)))
    if found:
        remove_tree(state.nodes / "pods")
    # All that would have removed its control groups may have been killed.
    clear_noted_groups(state.nodes)
    return found
