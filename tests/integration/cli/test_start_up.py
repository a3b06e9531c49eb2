"""What a command loads before it does anything; each of these costs people time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_operator import FakeOperator
from support.installation import Installation

HELLO = "- {name: hello, kind: RealtimeAPI, handler: {type: python, path: handler.py}}"
PROGRAM = """
import json, sys
from cortex.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(name for name, module in sys.modules.items() if module)]), file=sys.stderr)
"""
HEAVY = {
    "asyncio", "cloudpickle", "filelock", "httpx", "jsonschema", "msgspec", "pathspec", "psutil", "pydantic",
    "pygments", "rich", "ssl", "starlette", "tarfile", "uvicorn", "yaml",
}  # fmt: skip


def loaded(cortex: Installation, *words: str, cwd: Path) -> set[str]:
    """The heavy modules that a command loads."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=cwd, env=dict(cortex.environ), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return HEAVY & set(modules)


@pytest.mark.parametrize("words", [(), ("env", "list"), ("completion", "bash")])
def test_nothing_heavy(cortex: Installation, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert loaded(cortex, *words, cwd=tmp_path) == set()


def test_validate_loads_no_network_and_no_terminal(cortex: Installation, project: Path) -> None:
    assert loaded(cortex, "validate", cwd=project) == {
        "filelock", "jsonschema", "msgspec", "pathspec", "tarfile", "yaml",
    }  # fmt: skip


def test_get_loads_no_validator_and_no_terminal(
    cortex: Installation, operator: FakeOperator, tmp_path: Path
) -> None:
    operator.deployed(HELLO)
    assert loaded(cortex, "get", "hello", cwd=tmp_path) == {"httpx", "msgspec", "ssl"}
