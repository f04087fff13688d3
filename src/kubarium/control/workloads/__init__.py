"""Deployments, ReplicaSets and Jobs."""
