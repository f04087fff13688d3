"""Pressure on a node, and who has to go: thresholds, ranking, local storage, measurement."""
