"""The servers that ours is compared with: each a program, started in an environment of its own (`environments.py`).

A program reads what it shall serve with `served.py`, which needs nothing, and serves it as its documents say.
"""
