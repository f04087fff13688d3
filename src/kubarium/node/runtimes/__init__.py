"""How pods are carried out: as real processes, or simulated."""
