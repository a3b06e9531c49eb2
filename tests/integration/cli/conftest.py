"""The real command line as a subprocess, against a fake operator in its CORTEX_HOME."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_operator import TOKEN, FakeOperator, serving
from support.installation import Installation

HELLO = """\
- name: hello
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    config:
      threshold: {threshold}
"""


@pytest.fixture
def operator() -> FakeOperator:
    return FakeOperator()


@pytest.fixture
def cortex(tmp_path: Path, operator: FakeOperator) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    token = installation.home / "operator" / "token"
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)
    with serving(operator, port=int(installation.environ["CORTEX_OPERATOR_PORT"])):
        yield installation


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "cortex.yaml").write_text(HELLO.format(threshold=2))
    (folder / "handler.py").write_text(
        "class Handler:\n    def __init__(self, config): ...\n\n    def handle_post(self, payload):\n        return payload\n"
    )
    return folder
