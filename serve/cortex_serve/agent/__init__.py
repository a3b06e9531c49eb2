"""Follows model directories: one agent a replica, in the supervisor's process; see `agent.py`."""
