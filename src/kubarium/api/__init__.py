"""Kubernetes API knowledge without I/O: schemas, defaulting, validation, patches, CEL, tables.

Works on JSON documents (plain dicts). Knows no store, no network, no clock."""
