"""The command that carries out a suggestion, where one line does."""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.engine.verdict import Suggestion


def command(suggestion: Suggestion, rules: Mapping[str, str]) -> str:
    """A line to paste into a shell; "" if the change is one of a manifest, or takes more.

    ``rules`` names the DeviceTaintRule of a device taint, where one puts it there.
    """
    match suggestion.kind:
        case "uncordon":
            return f"kubectl uncordon {suggestion.node}"
        case "free-pod" | "free-pods":
            return _delete_pods(suggestion.subject.split(","))
        case "tolerate-device-taint":
            rule = rules.get(suggestion.subject, "")
            return f"kubectl delete devicetaintrule {rule}" if rule else ""
    return ""


def _delete_pods(names: list[str]) -> str:
    namespaces = {name.partition("/")[0] for name in names}
    if len(namespaces) != 1:
        return ""
    [namespace] = namespaces
    pods = " ".join(name.partition("/")[2] for name in names)
    return f"kubectl delete pod -n {namespace} {pods}"
