"""What people type about models: validate, deploy, get, manifest."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.fake_operator import STARTED, FakeOperator
from support.installation import Installation

from cortex_core.operator_api import ModelStatus

FILE = """\
- name: iris
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
    multi_model_reloading:
      path: {path}
"""
HANDLER = """\
class Handler:
    def __init__(self, config, model_client):
        self.models = model_client

    def load_model(self, model_path):
        return model_path

    def handle_post(self, payload):
        return self.models.get_model()
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A project whose models are beside it, and wrong."""
    folder = tmp_path / "iris"
    for file in ("models/1/model.pkl", "models/latest/model.pkl"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("weights")
    (folder / "handler.py").write_text(HANDLER)
    (folder / "cortex.yaml").write_text(FILE.format(path="./models"))
    return folder


WRONG = """\
cortex.yaml:7:13: iris.handler.multi_model_reloading.path: {models}: only directories named by digits 0-9 may be beside \
versions; found also 'latest/'
   7 |       path: ./models
     |             ^^^^^^^^

accepted (type: python):

  {models}/
  └── (any files and directories)

or

  {models}/
  ├── 1523423423/
  │   └── (any files and directories)
  └── 2434389194/
      └── (any files and directories)

found:

  {models}/
  ├── 1/
  │   └── model.pkl
  └── latest/
      └── model.pkl


error: cortex.yaml has 1 problem
"""


def test_validate_looks_at_local_models_and_needs_no_operator(
    cortex: Installation, operator: FakeOperator, models: Path
) -> None:
    began = time.monotonic()
    done = cortex.run("validate", cwd=models, expect=1)
    assert time.monotonic() - began < 2
    assert done.stderr == WRONG.format(models=models / "models")
    (models / "models" / "latest").rename(models / "models" / "2")
    assert cortex.run("validate", cwd=models).stdout == "cortex.yaml is valid: iris\n"
    assert operator.requests == []


@pytest.mark.parametrize("path", ["s3://no-such-bucket/models", "/models/of/another/machine"])
def test_validate_leaves_what_may_be_elsewhere_to_the_operator(
    cortex: Installation, models: Path, path: str
) -> None:
    (models / "cortex.yaml").write_text(FILE.format(path=path))
    assert cortex.run("validate", cwd=models).stdout == "cortex.yaml is valid: iris\n"


def test_the_local_operator_is_told_where_the_file_lies(
    cortex: Installation, operator: FakeOperator, models: Path
) -> None:
    cortex.run("deploy", "--yes", "iris/cortex.yaml", cwd=models.parent)
    cortex.run("patch", "--force", "--no-wait", cwd=models)
    folders = [request.folder for request in operator.asked]
    assert folders
    assert set(folders) == {str(models)}


def test_a_remote_operator_is_not(cortex: Installation, operator: FakeOperator, models: Path) -> None:
    token = (cortex.home / "operator" / "token").read_text()
    cortex.run("env", "configure", "far", "--operator-endpoint", operator.endpoint, "--token", token)
    cortex.run("deploy", "--yes", "--env", "far", cwd=models)
    assert {request.folder for request in operator.asked} == {None}


def test_get_shows_twenty_of_many_models_and_json_all(cortex: Installation, operator: FakeOperator) -> None:
    rows = tuple(
        ModelStatus(name=f"m{number:04}", version="1", digest="d", state="available")
        for number in range(5000)
    )
    operator.deployed(FILE.format(path="/models"), models=rows)
    shown = cortex.run("get", "iris", "-e", "local").stdout
    assert "\nm0000        1               available   -\n" in shown
    assert "\nm0019        1               available   -\n… and 4,980 more (-o json shows all)\n" in shown
    assert "m0020" not in shown
    assert len(cortex.json("get", "iris")[0]["models"]) == 5000


def test_get_says_that_a_location_is_not_listed_any_more(
    cortex: Installation, operator: FakeOperator
) -> None:
    now = time.time()
    failed = ModelStatus(
        name="iris",
        version="8",
        digest="d",
        state="failed",
        error="ValueError: bad weights",
        checked_at=now - 300,
    )
    live = ModelStatus(
        name="iris", version="7", digest="d", state="live", loaded_at=STARTED, checked_at=now - 300
    )
    operator.deployed(FILE.format(path="/models"), models=(failed, live))
    shown = cortex.run("get", "iris", "-e", "local").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "model name model version state loaded last checked error" in lines
    assert any(
        line.startswith("iris 8 failed - 5m") and line.endswith("ago ValueError: bad weights")
        for line in lines
    )
    assert any(line.startswith("iris 7 live 4d2h 5m") and line.endswith("ago") for line in lines)


def test_get_says_that_there_are_no_models(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(FILE.format(path="/models"))
    assert "\nno models are known; cortex logs iris may say why\n" in cortex.run("get", "iris").stdout


def test_verbose_shows_how_models_are_followed(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(FILE.format(path="/models") + "      swap_policy: resource\n      load_timeout: 90s\n")
    shown = cortex.run("get", "iris", "-v").stdout
    assert (
        "    multi_model_reloading:\n"
        "      path: /models/\n"
        "      swap_policy: resource\n"
        "      on_missing: keep\n"
        "      load_timeout: 1m30s\n"
    ) in shown


def test_manifest(cortex: Installation, models: Path) -> None:
    path = "models/1/cortex-manifest.json"
    assert cortex.run("manifest", "models/1", cwd=models).stdout == f"{path}: 1 file, 7 bytes\n"
    written = json.loads((models / path).read_text())
    assert list(written["files"]) == ["model.pkl"]
    done = cortex.run("manifest", "models/1", "-o", "json", cwd=models)
    assert json.loads(done.stdout) == {"manifest": path, "files": 1, "bytes": 7}


def test_manifest_of_what_is_no_version(cortex: Installation, models: Path) -> None:
    done = cortex.run("manifest", "models", cwd=models, expect=1)
    assert done.stderr == "error: models holds versions: '1'\nhint: name the directory of one version\n"
    assert "nothing" in cortex.run("manifest", "nothing", cwd=models, expect=1).stderr
