"""Small handler projects that tests deploy."""

from __future__ import annotations

from pathlib import Path

VERSIONED = """
class Handler:
    def __init__(self, config):
        self.version = config["version"]

    def handle_post(self, payload):
        return {"n": payload["n"], "version": self.version}
"""


def write_versioned(
    folder: Path, *, version: str, name: str = "counted", processes: int = 1, extra: str = ""
) -> None:
    """An API that repeats the request's number and says which version answered."""
    (folder / "handler.py").write_text(VERSIONED + extra)
    (folder / "cortex.yaml").write_text(f"""\
- name: {name}
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    processes_per_replica: {processes}
    threads_per_process: 4
    config:
      version: "{version}"
""")
