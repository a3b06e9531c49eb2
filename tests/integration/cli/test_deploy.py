"""`deploy`, `patch`, `refresh` and `rollback`: what is asked of the operator, and what is printed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.fake_operator import FakeOperator
from support.installation import BIN, Installation, wait_for

from cortex_core.operator_api import Problem

HELLO = """\
- name: hello
  kind: RealtimeAPI
  handler: {{type: python, path: handler.py, config: {{threshold: {0}}}}}
"""
FAILED = {
    "state": "failed",
    "error": "replica hello-0 ended with exit code 1",
    "log_tail": ("the handler cannot be loaded", 'Traceback:\n  File "handler.py", line 1\nNameError: nope'),
}


def plain(text: str, operator: FakeOperator) -> str:
    return text.replace(operator.endpoint, "http://OPERATOR")


def words(text: str) -> str:
    """Without what differs from run to run: how long it took."""
    return re.sub(r"after \d+\.\d s", "after N s", text)


def test_new_api(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    done = cortex.run("deploy", cwd=project)
    assert words(plain(done.stdout, operator)) == (
        "created hello (RealtimeAPI), live after N s at http://OPERATOR/api/hello\n"
    )
    assert done.stderr == (
        "hello: will be created (RealtimeAPI)\n"
        "hello: preparing\n"
        "hello: starting, 0 of 1 replicas ready\n"
        "hello: live\n"
        "  cortex get                  all APIs\n"
        "  cortex get hello            its status, replicas and history\n"
        "  cortex logs hello           its log\n"
        "  cortex predict hello DATA   call it\n"
    )
    assert len(operator.projects) == 1


def test_changed_api_shows_the_plan(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.deployed(HELLO.format(1))
    done = cortex.run("deploy", "--env", "local", cwd=project)
    assert done.stdout.startswith("updated hello (RealtimeAPI), live after ")
    assert done.stderr.startswith(
        "hello: will be updated; its replicas are replaced\n  handler.config.threshold: 1 → 2\n"
    )


def test_the_same_again_is_up_to_date(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    cortex.run("deploy", cwd=project)
    assert cortex.run("deploy", cwd=project).stdout.startswith("up to date hello (RealtimeAPI) at ")
    assert [each for each in operator.requests if each.startswith("PUT")] == [
        f"PUT /v1/projects/{next(iter(operator.projects))}"
    ]


def test_failure_shows_the_log_and_what_serves(
    cortex: Installation, operator: FakeOperator, project: Path
) -> None:
    operator.deployed(HELLO.format(1))
    operator.steps = (FAILED,)
    done = cortex.run("deploy", cwd=project, expect=1)
    assert done.stdout == ""
    assert done.stderr.endswith(
        "hello: failed\n"
        "error: hello: replica hello-0 ended with exit code 1\n"
        "the end of its log:\n"
        "  the handler cannot be loaded\n"
        "  Traceback:\n"
        '    File "handler.py", line 1\n'
        "  NameError: nope\n"
        "the release before goes on serving: 1111111111111111\n"
    )


def test_a_conflict_is_refused_at_once(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.deployed(HELLO.format(1))
    operator.conflict = "hello (RealtimeAPI) is already updating"
    done = cortex.run("deploy", cwd=project, expect=4)
    assert (done.stdout, done.stderr) == ("", "error: hello (RealtimeAPI) is already updating\n")
    assert not any("deployments" in each for each in operator.requests)
    cortex.run("deploy", "--dry-run", cwd=project, expect=4)


def test_json(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    (entry,) = json.loads(cortex.run("deploy", "-o", "json", cwd=project).stdout)
    assert (entry["message"], entry["error"]) == ("created hello (RealtimeAPI)", None)
    assert entry["api"]["status"]["status_code"] == "status_live"
    operator.apis.clear()
    operator.steps = (FAILED,)
    (entry,) = json.loads(cortex.run("deploy", "-o", "json", cwd=project, expect=1).stdout)
    assert entry == {
        "api": None,
        "message": "creating hello (RealtimeAPI)",
        "error": "replica hello-0 ended with exit code 1",
    }


def test_dry_run_changes_nothing(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.deployed(HELLO.format(1))
    done = cortex.run("deploy", "--dry-run", cwd=project)
    assert (
        done.stdout
        == "hello: will be updated; its replicas are replaced\n  handler.config.threshold: 1 → 2\n"
    )
    assert done.stderr == ""
    (entry,) = json.loads(cortex.run("deploy", "--dry-run", "-o", "json", cwd=project).stdout)
    assert (entry["action"], entry["changes"][0]["after"]) == ("updating", 2)
    assert operator.deployments == {}


def test_invalid_file_is_refused_before_anything_is_asked(
    cortex: Installation, operator: FakeOperator, project: Path
) -> None:
    (project / "cortex.yaml").write_text("- name: hello\n  kidn: RealtimeAPI\n")
    done = cortex.run("deploy", cwd=project, expect=1)
    assert done.stdout == ""
    assert "cortex.yaml:2:3: hello.kidn: unknown key; did you mean 'kind'?" in done.stderr
    assert "\nerror: cortex.yaml has 2 problems\n" in done.stderr
    assert operator.requests == []
    (entry,) = json.loads(cortex.run("deploy", "-o", "json", cwd=project, expect=1).stdout)
    assert entry["api"] is None
    assert "unknown key" in entry["error"]


def test_no_wait_returns_at_once(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    done = cortex.run("deploy", "--no-wait", cwd=project)
    assert done.stdout == "creating hello (RealtimeAPI)\n"
    assert not any("deployments" in each for each in operator.requests)


def test_timeout_is_exit_code_5(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.steps = ()
    done = cortex.run("deploy", "--timeout", "0.3", cwd=project, expect=5)
    assert "error: hello: not live after 0 s; the deployment goes on\n" in done.stderr
    assert done.stderr.endswith("hint: see how far it is with: cortex get hello --watch\n")


def test_interrupt_is_exit_code_130(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.steps = ()
    process = subprocess.Popen(
        [str(BIN / "cortex"), "deploy"],
        cwd=project,
        env=dict(cortex.environ),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: sum("deployments" in each for each in operator.requests) > 2, within=20, what="it waits")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.endswith("the deployment goes on; see how far it is with: cortex get\n\ninterrupted\n")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "not_found", 3),
        (409, "conflict", 4),
        (504, "timed_out", 5),
        (400, "bad_request", 1),
        (500, "internal", 1),
    ],
)
def test_refusals(
    cortex: Installation, operator: FakeOperator, project: Path, status: int, code: str, expected: int
) -> None:
    operator.refusal = (status, Problem(code=code, message="no", hint="do that"))
    done = cortex.run("patch", cwd=project, expect=expected)
    assert done.stderr == "error: no\nhint: do that\n"
    (entry,) = json.loads(cortex.run("patch", "-o", "json", cwd=project, expect=expected).stdout)
    assert entry == {"api": None, "message": "", "error": "no"}


def test_patch_ships_nothing(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.deployed(HELLO.format(1))
    assert cortex.run("patch", cwd=project).stdout.startswith("updated hello (RealtimeAPI)")
    assert operator.projects == {}


def test_failed_patch_is_not_success(cortex: Installation, operator: FakeOperator, project: Path) -> None:
    operator.deployed(HELLO.format(1))
    operator.steps = (FAILED,)
    cortex.run("patch", cwd=project, expect=1)


def test_refresh_and_rollback_wait(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO.format(1))
    assert cortex.run("refresh", "hello").stdout.startswith("updated hello (RealtimeAPI), live after ")
    assert cortex.run("rollback", "hello", "4" * 16).stdout.startswith(
        "updated hello (RealtimeAPI), live after "
    )
    assert operator.apis["hello"].release_id == "4" * 16


def test_a_folder_without_a_file_says_what_to_do(cortex: Installation, tmp_path: Path) -> None:
    done = cortex.run("deploy", cwd=tmp_path, expect=1)
    assert done.stderr == "error: cortex.yaml: no such file\nhint: write one with: cortex init\n"
