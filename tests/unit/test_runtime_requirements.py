from __future__ import annotations

import re
from pathlib import Path

from cortex_core.runtime import GRPC_REQUIREMENTS, REQUIREMENTS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_runtimes_requirements_are_those_of_the_distribution() -> None:
    """What is installed beside a handler is what we are installed, and so tested, with."""
    _, _, rest = PYPROJECT.read_text().partition("\ndependencies = [\n  # the runtime")
    runtime, operator, _ = rest.partition("  # the operator\n")
    assert operator, "the dependencies are in parts: the runtime, the operator, the command line"
    assert tuple(re.findall(r'^  "(.+)",$', runtime, re.MULTILINE)) == REQUIREMENTS


def test_what_grpc_takes_is_installed_with_us_too() -> None:
    """A handler without requirements of its own runs beside us, also one with a .proto file."""
    _, _, rest = PYPROJECT.read_text().partition("  # gRPC:")
    grpc, _, _ = rest.partition("  # the command line\n")
    assert tuple(re.findall(r'^  "(.+)",$', grpc, re.MULTILINE)) == GRPC_REQUIREMENTS
