"""The queueing shell: Kueue's Workload life cycle around engine.queueing."""
