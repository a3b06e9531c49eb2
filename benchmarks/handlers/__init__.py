"""The handlers that every server of the comparison runs, ours as a project's `handler.py`."""
