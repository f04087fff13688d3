"""GPU fabrics: NVIDIA's ComputeDomains. Start reading at compute_domain.py.

Knows the domains, the claim templates that lead workloads to them and the cliques that the nodes'
drivers fill in; which node joins a domain follows from where the scheduler puts the claims.
"""

from __future__ import annotations

from kubarium.control.fabric.compute_domain import ComputeDomainController
from kubarium.runtime.protocol import Component, Context


def components(context: Context) -> list[Component]:
    """All controllers of this family. They need the kinds of resource.nvidia.com to be served."""
    return [ComputeDomainController(context).controller]
