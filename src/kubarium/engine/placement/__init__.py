"""Which node each pod goes to: filters, scores, gangs and preemption over the snapshot's columns.

Read fit.py (one shape against all nodes), then place.py, then cycle.py."""
