"""Verbs on API documents as protocols, and the HTTP client that speaks them to any cluster."""
