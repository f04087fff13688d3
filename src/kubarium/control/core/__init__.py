"""Namespaces, garbage collection, ServiceAccounts, endpoints, node life cycle."""
