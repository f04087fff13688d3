"""Containers started by an OCI runtime (crun, runc) that the machine has."""
