"""Dynamic resource allocation: which devices satisfy which claims on which node.

Read model.py, then search.py. Knows nothing of pods, of documents or of CEL: selectors are
evaluated by a predicate that ``view`` injects."""
