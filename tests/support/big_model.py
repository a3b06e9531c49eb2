"""An API whose model is 20 MiB of numpy's numbers, and what its workers take."""

from __future__ import annotations

from pathlib import Path

import psutil

from support.installation import Installation
from support.projects import write_api

MODEL_BYTES = 20 * 1024**2
ALLOWED = MODEL_BYTES + MODEL_BYTES // 2 + 32 * 1024**2
"""What a worker may take above what it takes without a model."""

_HANDLER = f"""
from pathlib import Path

import numpy


class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        folder = Path(model_path)
        number = int((folder / "first.txt").read_text().split()[0])
        return {{"folder": folder.name, "numbers": numpy.full({MODEL_BYTES // 8}, number, dtype=numpy.float64)}}

    def handle_post(self, payload, query_params):
        model = self.client.get_model(query_params.get("model"))
        numbers = sorted({{int(model["numbers"][0]), int(model["numbers"][-1])}})
        return {{"n": payload["n"], "version": numbers[0], "contents": numbers, "folder": model["folder"]}}
"""


def write_project(folder: Path, models: str, *, name: str = "big", processes: int = 1) -> None:
    """A project that serves what `support.swapper` publishes as big models.

    Args:
        models: lines of `multi_model_reloading`, indented by six.
    """
    (folder / "requirements.txt").write_text("numpy\n")
    write_api(folder, _HANDLER, name=name, processes=processes, more=f"    multi_model_reloading:\n{models}")


def taken(cortex: Installation) -> int:
    """Bytes of memory of the worker that takes most."""
    sizes = []
    for process in cortex.processes():
        try:
            if "cortex_serve.worker" in " ".join(process.cmdline()):
                sizes.append(process.memory_info().rss)
        except psutil.Error:
            continue
    assert sizes, "no worker runs"
    return max(sizes)
