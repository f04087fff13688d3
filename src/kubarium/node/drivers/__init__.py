"""Simulated DRA drivers: devices published as ResourceSlices, claims prepared for containers."""
