"""Whether pods could run on the nodes that a flavor stands for."""

import pytest

from kubarium.engine.queueing.flavor import Flavor, PodConstraints, mismatch
from kubarium.engine.selectors import Requirement
from kubarium.engine.taints import Taint, Toleration


@pytest.mark.parametrize(
    ("operator", "bound", "fits"),
    [("Gt", "4", True), ("Lt", "4", False), ("Gt", "1_0", False), ("Gt", "many", False)],
)
def test_affinities_compare_numbers_as_nodes_do(operator, bound, fits):
    flavor = Flavor("f", (("cores", "1_000" if bound == "1_0" else "8"),))
    pods = PodConstraints(terms=((Requirement("cores", operator, (bound,)),),))
    assert (mismatch(flavor, pods) == "") is fits


def test_an_untolerated_taint_is_told_as_kueue_tells_it():
    flavor = Flavor("f", taints=(Taint("spot", "true", "NoSchedule"),))
    text = "untolerated taint {spot true NoSchedule <nil>} in flavor f"
    assert mismatch(flavor, PodConstraints()) == text
    tolerating = PodConstraints(tolerations=(Toleration("spot", "Exists"),))
    assert mismatch(flavor, tolerating) == ""
