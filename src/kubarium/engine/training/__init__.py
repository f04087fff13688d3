"""Training runs as numbers: how often to save, and where the time of a run went."""
