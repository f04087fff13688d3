"""Addresses, names and services of pods that share the machine's loopback."""
