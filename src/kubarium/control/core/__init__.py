"""Controllers that every cluster has: garbage, namespaces, accounts, endpoints, nodes, clean-up.

They know objects in general, Services and Nodes; they know nothing of workloads or queues."""

from __future__ import annotations

from kubarium.api.catalog import Catalog
from kubarium.control.core.accounts import NamespaceDefaults
from kubarium.control.core.disrupted import StaleDisruptions
from kubarium.control.core.disruption import DisruptionController
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.namespaces import NamespaceController
from kubarium.control.core.nodes import NodeLifecycle
from kubarium.control.core.podgc import PodGarbage
from kubarium.control.core.quotas import QuotaController
from kubarium.control.core.roles import ClusterRoleAggregation
from kubarium.control.core.served import ServedResources
from kubarium.control.core.services import EndpointsController
from kubarium.control.core.ttl import TtlAfterFinished
from kubarium.runtime.protocol import Component, Context

__all__ = [
    "ClusterRoleAggregation",
    "DisruptionController",
    "EndpointsController",
    "GarbageCollector",
    "NamespaceController",
    "NamespaceDefaults",
    "NodeLifecycle",
    "PodGarbage",
    "QuotaController",
    "ServedResources",
    "StaleDisruptions",
    "TtlAfterFinished",
    "components",
]


def components(
    context: Context, *, root_ca: str = "", catalog: Catalog | None = None
) -> list[Component]:
    """All controllers of this family.

    ``root_ca`` (PEM) is published to every namespace; ``catalog`` holds the built-in kinds
    (Kubernetes' own if None), custom ones are followed through their definitions.
    """
    served = ServedResources(context, catalog)
    return [
        GarbageCollector(context, served),
        NamespaceController(context, served),
        NamespaceDefaults(context, root_ca),
        EndpointsController(context),
        NodeLifecycle(context),
        PodGarbage(context),
        DisruptionController(context, served),
        StaleDisruptions(context),
        TtlAfterFinished(context),
        QuotaController(context, served),
        ClusterRoleAggregation(context),
    ]
