"""Quota, flavor assignment, preemption and admission cycles as Kueue defines them, all pure.

Start at ``cycle.py`` (one page: heads, nominate, order, process), then ``quota.py`` (the tree).
"""
