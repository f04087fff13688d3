"""Names of scheduling.k8s.io that several parts use: the finalizer, annotations, limits."""

from __future__ import annotations

# Keeps a PodGroup until its pods have ended, and a CompositePodGroup until its groups are gone.
PROTECTION_FINALIZER = "scheduling.k8s.io/podgroup-protection"

# On a Job whose parent owns the Workload (KEP-6089): the template there that stands for its pods,
# and the composite of which its group becomes a child.
TEMPLATE_ANNOTATION = "scheduling.k8s.io/group-template-name"
PARENT_ANNOTATION = "scheduling.k8s.io/parent-composite-podgroup"

# Levels of templates in a Workload, those of pod groups included.
MAX_TREE_DEPTH = 4
