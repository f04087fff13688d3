"""Labels and annotations of upstream's that several parts read."""

# Of the pods of an Indexed Job, as a label and as an annotation: which index the pod is.
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
# How often a DaemonSet's template has changed: its annotation, and the label of its pods.
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
POD_TEMPLATE_GENERATION = "pod-template-generation"
