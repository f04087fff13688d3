"""API documents to engine snapshots and engine plans back to documents: the only translator."""
