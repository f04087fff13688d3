"""Defaults of the kinds that extend the API server: CRDs, webhooks, policies, flow control."""

from __future__ import annotations

from typing import Any

from kubarium.api.defaulting.pods import fill
from kubarium.api.resource import Document

HTTPS_PORT = 443
WEBHOOK_TIMEOUT_S = 10


def default_definition(document: Document) -> None:
    """apiextensions.k8s.io/v1 CustomResourceDefinition."""
    spec = document.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind", "")
    if kind:
        fill(names, "singular", kind.lower())
        fill(names, "listKind", f"{kind}List")
    conversion = spec.setdefault("conversion", {})
    fill(conversion, "strategy", "None")
    _default_client(conversion.get("webhook", {}).get("clientConfig", {}))


def _default_client(config: dict[str, Any]) -> None:
    service = config.get("service")
    if service is not None:
        service.setdefault("port", HTTPS_PORT)


def default_api_service(document: Document) -> None:
    """apiregistration.k8s.io/v1 APIService."""
    _default_client(document.get("spec", {}))


def default_mutating_webhooks(document: Document) -> None:
    """MutatingWebhookConfiguration."""
    for webhook in document.get("webhooks", ()):
        _default_webhook(webhook)
        fill(webhook, "reinvocationPolicy", "Never")


def default_validating_webhooks(document: Document) -> None:
    """ValidatingWebhookConfiguration."""
    for webhook in document.get("webhooks", ()):
        _default_webhook(webhook)


def _default_webhook(webhook: dict[str, Any]) -> None:
    fill(webhook, "failurePolicy", "Fail")
    fill(webhook, "matchPolicy", "Equivalent")
    webhook.setdefault("namespaceSelector", {})
    webhook.setdefault("objectSelector", {})
    webhook.setdefault("timeoutSeconds", WEBHOOK_TIMEOUT_S)
    _default_client(webhook.get("clientConfig", {}))
    for rule in webhook.get("rules", ()):
        fill(rule, "scope", "*")


def default_admission_policy(document: Document) -> None:
    """ValidatingAdmissionPolicy and MutatingAdmissionPolicy."""
    spec = document.setdefault("spec", {})
    fill(spec, "failurePolicy", "Fail")
    match = spec.get("matchConstraints")
    if match is not None:
        fill(match, "matchPolicy", "Equivalent")
        match.setdefault("namespaceSelector", {})
        match.setdefault("objectSelector", {})
        for rule in (*match.get("resourceRules", ()), *match.get("excludeResourceRules", ())):
            fill(rule, "scope", "*")


def default_flow_schema(document: Document) -> None:
    """flowcontrol FlowSchema."""
    spec = document.setdefault("spec", {})
    if not spec.get("matchingPrecedence"):
        spec["matchingPrecedence"] = 1000


def default_priority_level(document: Document) -> None:
    """flowcontrol PriorityLevelConfiguration."""
    spec = document.setdefault("spec", {})
    limited = spec.get("limited")
    if limited is not None:
        limited.setdefault("nominalConcurrencyShares", 30)
        limited.setdefault("lendablePercent", 0)
        queuing = limited.get("limitResponse", {}).get("queuing")
        if queuing is not None:
            for key, value in (("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)):
                if not queuing.get(key):
                    queuing[key] = value
