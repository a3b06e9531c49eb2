"""`env`, `version`, `completion`, `init`, `validate`: what needs no operator, or only one to look at."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest
from support.fake_operator import TOKEN, FakeOperator
from support.installation import BIN, Installation

from cortex_core.version import __version__


def test_life_of_an_environment(cortex: Installation, operator: FakeOperator) -> None:
    configured = cortex.run(
        "env", "configure", "prod", "-o", operator.endpoint, "--token", "-", stdin=TOKEN + "\n"
    )
    assert configured.stdout == "configured prod\n"
    file = cortex.home.parent / "config" / "cli.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    cortex.run("env", "default", "prod")
    cortex.run("env", "rename", "prod", "live")
    assert cortex.json("env", "list") == [
        {"name": "local", "operator_endpoint": operator.endpoint, "default": False},
        {"name": "live", "operator_endpoint": operator.endpoint, "default": True},
    ]
    assert TOKEN not in cortex.run("env", "list").stdout
    assert cortex.run("get", "hello", expect=3).stderr.startswith("using live environment\n")
    cortex.run("env", "delete", "live")
    assert cortex.run("env", "default").stdout == "local\n"
    cortex.run("env", "delete", "live", expect=3)


def test_configure_verifies(cortex: Installation, operator: FakeOperator) -> None:
    wrong = cortex.run("env", "configure", "prod", "-o", operator.endpoint, "--token", "wrong", expect=1)
    assert "does not accept the token of environment 'prod'" in wrong.stderr
    other = cortex.run(
        "env", "configure", "prod", "-o", operator.endpoint + "/api/x", "--token", "x", expect=6
    )
    assert "is not a Cortex operator" in other.stderr
    assert "the operator's token is missing" in cortex.run("env", "c", "p", "-o", "http://x", expect=1).stderr
    assert "'x' is not an address" in cortex.run("env", "configure", "p", "-o", "x", expect=1).stderr
    cortex.run("env", "configure", "local", "-o", "http://x", expect=4)


def test_an_operator_of_another_version_is_mentioned(cortex: Installation, operator: FakeOperator) -> None:
    cortex.run("env", "configure", "prod", "-o", operator.endpoint, "--token", TOKEN)
    operator.version = "9.9"
    done = cortex.run("get", "-e", "prod")
    assert done.stderr == (
        f"warning: the operator of environment 'prod' has version 9.9, this is {__version__}; "
        "get the same with: pip install cortex-deploy==9.9\n"
    )


def test_version(cortex: Installation) -> None:
    assert cortex.run("version").stdout == f"client: {__version__}\noperator: {__version__}\n"
    assert cortex.run("--version").stdout == f"cortex {__version__}\n"


def test_init_gives_what_validates(cortex: Installation, tmp_path: Path) -> None:
    templates = cortex.run("init", "--list").stdout.splitlines()[1:]
    for line in templates:
        name = line.split()[0]
        cortex.run("init", name, "--template", name, cwd=tmp_path)
        assert cortex.run("validate", f"{name}/cortex.yaml", cwd=tmp_path).stderr == ""
    again = cortex.run("init", "python", cwd=tmp_path, expect=4)
    assert again.stderr.startswith("error: python/cortex.yaml exists already; nothing was written\n")
    assert "did you mean 'async'?" in cortex.run("init", "x", "-t", "asinc", cwd=tmp_path, expect=1).stderr


def test_validate_as_json(cortex: Installation, project: Path) -> None:
    assert cortex.json("validate", str(project)) == {
        "valid": True,
        "apis": [{"name": "hello", "kind": "RealtimeAPI"}],
        "problems": [],
    }
    (project / "cortex.yaml").write_text("- name: hello\n  kind: RealtimeApi\n")
    done = cortex.run("validate", "-o", "json", cwd=project, expect=1)
    document = json.loads(done.stdout)
    assert document["valid"] is False
    assert [(each["line"], each["path"]) for each in document["problems"]] == [(2, "hello.kind")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_both_names(cortex: Installation, shell: str) -> None:
    script = cortex.run("completion", shell).stdout
    assert "_CORTEX_COMPLETE" in script
    assert "_CX_COMPLETE" in script


def test_completion_in_bash(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed("- {name: hello, kind: RealtimeAPI, handler: {type: python, path: handler.py}}")
    cortex.run("get")
    asked = len(operator.requests)
    assert completed(cortex, "cortex", "get", "he") == ["hello"]
    assert completed(cortex, "cortex", "ro") == ["rollback"]
    assert completed(cortex, "cx", "get", "--en") == ["--env"]
    assert completed(cortex, "cx", "get", "--env", "l") == ["local"]
    assert len(operator.requests) == asked


def completed(cortex: Installation, *words: str) -> list[str]:
    """What bash offers after these words."""
    script = (
        f"PATH={BIN}:$PATH; source <(cortex completion bash); COMP_WORDS=({' '.join(words)}); "
        f'COMP_CWORD={len(words) - 1}; _{words[0]}_completion {words[0]}; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env=dict(cortex.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()
