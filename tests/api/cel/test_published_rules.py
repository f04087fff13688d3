"""The rules of CustomResourceDefinitions that others publish compile (upstream data folder)."""

import os
from pathlib import Path

import pytest
import yaml

from kubarium.api.cel.rules import compile_rules
from kubarium.api.crds import kinds_of

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("KUBARIUM_SHARED", ROOT.parent / "shared"))


def count(node):
    below = [*node.fields.values(), *filter(None, (node.items, node.values))]
    return len(node.rules) + sum(map(count, below))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("project", "at_least"), [("gateway-api", 150), ("kueue", 60), ("jobset", 8), ("trainer", 40)]
)
def test_every_rule_of_a_published_definition_compiles(project, at_least):
    folder = SHARED / "crds" / project
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set KUBARIUM_SHARED to the folder that has crds/")
    compiled = 0
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader):
            if (document or {}).get("kind") != "CustomResourceDefinition":
                continue
            for kind in kinds_of(document):
                rules = compile_rules(kind.schema)
                assert [str(error) for error in rules.errors] == [], path.name
                compiled += count(rules.root)
    assert compiled >= at_least
