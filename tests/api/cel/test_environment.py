"""What environments of CEL have in common."""

from cel_expr_python import cel

from kubarium.api.cel.environment import Environment


def test_declarations_are_read_once_for_all_types_of_variables(monkeypatch):
    """Rules need an environment for each type, and to read functions takes ten milliseconds."""
    first = Environment({"self": "int"})
    read = []
    monkeypatch.setattr(cel, "NewEnvConfigFromYaml", read.append)
    second = Environment({"self": "list<string>"})
    assert read == []
    assert first.compile("self + 1")[1] == "int"
    assert second.compile("self[0]")[1] == "string"
