"""Kueue documents to engine state, engine plans to statuses, jobs to pod sets, and ``why``.

Start at ``world.py`` (documents to a snapshot); ``statuses.py`` goes the other way.
"""
