"""A virtual environment for each peer, made once: `.bench/<peer>` beside the source, of `peers/<peer>.txt`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".bench"
PEERS = Path(__file__).with_name("peers")
PATIENCE = 900

_FAILED: dict[str, str] = {}
"""Why a peer's environment could not be made, so that it is tried once."""


class Unavailable(Exception):
    """A peer cannot be measured; its text says why."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or of other requirements.

    Raises:
        Unavailable: it cannot be installed.
    """
    requirements = PEERS / f"{peer}.txt"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    environment = FOLDER / peer
    python = environment / "bin" / "python"
    made_of = environment / "made-of.txt"
    if made_of.exists() and made_of.read_text() == wanted:
        return python
    if peer in _FAILED:
        raise Unavailable(_FAILED[peer])
    print(f"installing {peer} into {environment.relative_to(FOLDER.parent)}", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    try:
        _uv("venv", "--python", sys.executable, str(environment))
        _uv("pip", "install", "--python", str(python), "--requirement", str(requirements))
    except Unavailable as reason:
        _FAILED[peer] = f"cannot be installed: {reason}"
        raise Unavailable(_FAILED[peer]) from None
    made_of.write_text(wanted)
    return python


def _uv(*words: str) -> None:
    command = [sys.executable, "-m", "uv", "--quiet", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`uv {words[0]}` took more than {PATIENCE} s") from None
    if done.returncode != 0:
        raise Unavailable(f"`uv {words[0]}` failed: {' '.join(done.stderr.split())[-300:]}")
