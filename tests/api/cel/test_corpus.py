"""Kubernetes' own table of device selectors (kubernetes/dynamic-resource-allocation cel tests).

Not part of this repository: KUBARIUM_CORPUS names the folder (default: corpus in KUBARIUM_SHARED).
"""

import os
from pathlib import Path

import pytest
import yaml

from kubarium.api.cel.devices import compile_device_selector
from kubarium.api.cel.environment import CelCompileError, CelRuntimeError

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("KUBARIUM_SHARED", ROOT.parent / "shared"))
CORPUS = Path(os.environ.get("KUBARIUM_CORPUS", SHARED / "corpus"))
TABLE = CORPUS / "dra" / "cel.yaml"


def run(case, lists):
    """The outcome, its message, and the estimated cost."""
    stored = case["environment"] == "StoredExpressions"
    multiple = stored or "DRAConsumableCapacity" in case["features"]
    cost = None
    try:
        selector = compile_device_selector(
            case["expression"], list_attributes=stored or lists, multiple_allocations=multiple
        )
        cost = selector.cost
        device = case["device"]
        matched = selector.matches(
            case["driver"],
            device.get("attributes", {}),
            device.get("capacity", {}),
            device.get("allowMultipleAllocations", False),
        )
    except CelCompileError as error:
        return "compile-error", str(error), cost
    except CelRuntimeError as error:
        return "runtime-error", str(error), cost
    return ("match" if matched else "no-match"), "", cost


@pytest.mark.shared
def test_upstreams_selector_table(capsys):
    if not TABLE.is_file():
        pytest.skip(
            f"{TABLE} is not there; set KUBARIUM_CORPUS to the folder that has dra/cel.yaml"
        )
    cases = yaml.safe_load(TABLE.read_text())["cases"]
    passed, wrong, wording, costs = 0, [], [], []
    for case in cases:
        expected = case["expect"]
        for lists in case["listTypeAttributes"]:
            name = f"{case['id']} (list attributes {'on' if lists else 'off'})"
            outcome, message, cost = run(case, lists)
            if outcome != expected["outcome"]:
                wrong.append(f"{name}: {outcome} {message!r}, expected {expected}")
                continue
            passed += 1
            text = expected.get("error", {}).get("contains", "")
            if text not in message:
                wording.append((case["id"], f"{name}: {message!r} lacks {text!r}"))
            if cost is not None and expected.get("estimatedCost", cost) != cost:
                costs.append(f"{name}: cost {cost}, upstream {expected['estimatedCost']}")
    with capsys.disabled():
        print(f"\n{passed} selector runs agree with upstream, {len(wrong)} do not")
        for line in [*wrong, *(text for _, text in wording), *costs]:
            print(f"  {line}")
    assert not wrong
    assert not wording
