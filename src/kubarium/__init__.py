"""Kubarium: a Kubernetes platform for AI workloads in one Python package, a cluster under glass."""

__version__ = "0.1.0"
