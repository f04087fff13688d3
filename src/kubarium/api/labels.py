"""Labels and annotations of upstream's that several parts read."""

# Of the pods of an Indexed Job, as a label and as an annotation: which index the pod is.
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
