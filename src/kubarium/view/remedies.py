"""The command that carries out a suggestion, where one line does."""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.api.resource import Document
from kubarium.engine.verdict import Suggestion


def command(suggestion: Suggestion, rules: Mapping[str, str], pod: Document | None = None) -> str:
    """A line to paste into a shell; "" if the change is one of a manifest, or takes more.

    ``rules`` names the DeviceTaintRule of a device taint, where one puts it there; ``pod`` is the
    one whose gates are spoken of.
    """
    match suggestion.kind:
        case "uncordon":
            return f"kubectl uncordon {suggestion.node}"
        case "free-pod" | "free-pods":
            return _delete_pods(suggestion.subject.split(","))
        case "tolerate-device-taint":
            rule = rules.get(suggestion.subject, "")
            return f"kubectl delete devicetaintrule {rule}" if rule else ""
        case "remove-gate" if pod is not None:
            metadata = pod["metadata"]
            patch = '{"spec":{"schedulingGates":null}}'
            of = f"{metadata['name']} -n {metadata.get('namespace', 'default')}"
            return f"kubectl patch pod {of} --type merge -p '{patch}'"
    return ""


def _delete_pods(names: list[str]) -> str:
    namespaces = {name.partition("/")[0] for name in names}
    if len(namespaces) != 1:
        return ""
    [namespace] = namespaces
    pods = " ".join(name.partition("/")[2] for name in names)
    return f"kubectl delete pod -n {namespace} {pods}"
