"""`cortex.client()` as a script uses it, against the fake operator and against the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_operator import TOKEN, FakeOperator
from support.installation import Installation

SPEC = '{"name": "hello", "kind": "RealtimeAPI", "handler": {"type": "python", "path": "handler.py"}}'
CLASS = """
import json

import cortex

GREETING = "Hello"


class Greeter:
    def __init__(self, config):
        self.greeting = GREETING

    def handle_post(self, payload):
        return {"text": f"{self.greeting}, {payload['name']}!"}


spec = {"name": "hello", "kind": "RealtimeAPI", "handler": {"type": "python"}}
"""


def script(cortex: Installation, folder: Path, text: str) -> str:
    """Run a script; the last line it prints."""
    path = folder / "script.py"
    path.write_text(f"import json\n\nimport cortex\n{text}")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=folder, env=dict(cortex.environ), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_deploy_get_patch_refresh_delete(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    printed = script(
        cortex,
        project,
        f"""
client = cortex.client()
began = client.deploy({SPEC}, ".")
live = client.deploy({{**{SPEC}, "networking": {{"endpoint": "x"}}}}, ".", wait=True)
print(json.dumps([
    began["message"], began["error"], live["release_id"], [api["spec"]["name"] for api in client.list_apis()],
    client.get_api("hello")["status"]["status_code"], client.refresh("hello")["message"],
    client.patch({SPEC})[0]["error"], client.delete("hello"),
]))
""",
    )
    assert json.loads(printed) == [
        "creating hello (RealtimeAPI)", None, "2" * 16, ["hello"], "status_live", "updating hello (RealtimeAPI)",
        None, None,
    ]  # fmt: skip
    assert operator.apis == {}


def test_errors(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.steps = ({"state": "failed", "error": "bad", "log_tail": ("NameError: nope",)},)
    printed = script(
        cortex,
        project,
        f"""
def error(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except (cortex.CortexError, ValueError) as error:
        return [type(error).__name__, str(error).splitlines()[0]]

class Handler: ...

client = cortex.client()
print(json.dumps([
    error(client.get_api, "nope"),
    error(client.deploy, {{"name": "x"}}, "."),
    error(client.deploy, {SPEC}, ".", wait=True),
    error(client.deploy_batch_api, {SPEC}, Handler),
    error(client.deploy_realtime_api, {SPEC}, Handler),
    error(cortex.client, "nope"),
]))
""",
    )
    assert json.loads(printed) == [
        ["NotFound", "there is no API 'nope'"],
        ["InvalidConfig", "cortex.yaml:1:3: x: missing key 'kind'"],
        ["DeployFailed", "hello: bad"],
        ["InvalidKindForMethod", "this method deploys a BatchAPI, the specification is of kind RealtimeAPI"],
        ["ValueError", "handler.path and a class exclude each other; to ship a folder, use deploy()"],
        ["NotFound", "there is no environment named 'nope' (there is: local)"],
    ]


def test_environments(cortex: Installation, operator: FakeOperator, tmp_path: Path) -> None:
    printed = script(
        cortex,
        tmp_path,
        f"""
new = cortex.new_client("prod", "{operator.endpoint}", token="{TOKEN}")
names = [new.env_name, [each["name"] for each in cortex.env_list()], cortex.client("prod").list_apis()]
cortex.env_delete("prod")
print(json.dumps([*names, len(cortex.env_list())]))
""",
    )
    assert json.loads(printed) == ["prod", ["local", "prod"], [], 1]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.down()


def test_a_class_becomes_a_live_api(real: Installation, tmp_path: Path) -> None:
    live = script(real, tmp_path, CLASS + """
print(cortex.client().deploy_realtime_api(spec, Greeter, wait=True)["status"]["status"])
""")  # fmt: skip
    assert live == "live"
    assert real.run("predict", "hello", '{"name": "Ada"}').stdout == '{"text":"Hello, Ada!"}'
