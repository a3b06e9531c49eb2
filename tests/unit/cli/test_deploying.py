"""Finding the file, asking, following a deployment, and telling how it ended."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from cortex import deploying, deployment_report
from cortex.console import Console
from cortex.deploy_conclusion import TerminalQuestions
from cortex.deploying import Outcome
from cortex_core.errors import CortexError, OperatorUnreachable
from cortex_core.operator_api import (
    ApiResult,
    ApiStatus,
    Change,
    Deployment,
    GroupCounts,
    ModelStatus,
    ReplicaCounts,
    Status,
)
from cortex_core.spec.load import load

HELLO = "- {name: hello, kind: RealtimeAPI, handler: {type: python, path: handler.py}}\n"


def result(name: str = "hello", **fields: Any) -> ApiResult:
    return ApiResult(**{
        "name": name, "kind": "RealtimeAPI", "action": "creating", "message": "",
        "deployment_id": f"d-{name}",
        "release_id": "r", **fields,
    })  # fmt: skip


def deployment(state: Any, sequence: int, *, api: str = "hello", **fields: Any) -> Deployment:
    return Deployment(
        id=f"d-{api}", api=api, release_id="r", state=state, sequence=sequence,
        replicas_requested=2, replicas_ready=fields.pop("replicas_ready", 0), **fields,
    )  # fmt: skip


class Operator:
    """Answers as told; an exception in the list is raised."""

    def __init__(self, answers: dict[str, list[Deployment | Exception]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, float, int | None]] = []

    def deployment(self, deployment_id: str, *, wait: float, after: int | None) -> Deployment:
        self.asked.append((deployment_id, wait, after))
        answers = self.answers[deployment_id]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    """Time that passes when somebody sleeps or asks."""

    def __init__(self, *, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def follow(
    operator: Operator, *outcomes: Outcome, clock: Clock | None = None
) -> tuple[list[Outcome], list[str]]:
    clock = clock or Clock()
    said: list[str] = []
    found = deploying.follow(
        operator, outcomes, timeout=60, report=said.append, clock=clock, sleep=clock.sleep
    )
    return found, said


def test_follows_to_the_end_and_says_each_change_once() -> None:
    operator = Operator({"d-hello": [
        deployment("preparing", 0), deployment("preparing", 0), deployment("starting", 1, replicas_ready=1),
        deployment("switching", 2), deployment("live", 3),
    ]})  # fmt: skip
    (outcome,), said = follow(operator, Outcome(result=result()))
    assert outcome.is_live
    assert outcome.error is None
    assert said == [
        "hello: preparing", "hello: starting, 1 of 2 replicas ready", "hello: switching", "hello: live",
    ]  # fmt: skip
    assert [after for _, _, after in operator.asked] == [None, 0, 0, 1, 2]


def test_nothing_to_wait_for() -> None:
    up_to_date = Outcome(result=result(action="up to date", deployment_id=None))
    assert follow(Operator({}), up_to_date) == ([up_to_date], [])


def test_several_are_followed_at_once_and_one_failure_does_not_hide_the_others() -> None:
    operator = Operator({
        "d-a": [deployment("starting", 1, api="a"), deployment("failed", 2, api="a", error="bad")],
        "d-b": [deployment("live", 1, api="b")],
    })  # fmt: skip
    (a, b), _ = follow(operator, Outcome(result=result("a")), Outcome(result=result("b")))
    assert (a.error, b.error) == ("bad", None)
    assert [name for name, _, _ in operator.asked] == ["d-a", "d-b", "d-a"]


def test_an_operator_that_is_replaced_is_waited_for() -> None:
    away = OperatorUnreachable("away")
    operator = Operator({"d-hello": [deployment("starting", 1), away, away, deployment("live", 2)]})
    (outcome,), said = follow(operator, Outcome(result=result()))
    assert outcome.is_live
    assert "hello: the operator does not answer, trying again" in said


def test_an_operator_that_stays_away_ends_the_wait() -> None:
    operator = Operator({"d-hello": [OperatorUnreachable("away")]})
    with pytest.raises(OperatorUnreachable):
        follow(operator, Outcome(result=result()))
    assert len(operator.asked) < 30


def test_timeout() -> None:
    operator = Operator({"d-hello": [deployment("starting", 1)]})
    (outcome,), _ = follow(operator, Outcome(result=result()), clock=Clock(step=5))
    assert outcome.timed_out
    assert outcome.error is not None
    assert "the deployment goes on" in outcome.error


@pytest.mark.parametrize(
    ("why", "shown"),
    [("the API was deleted", "the API was deleted"), (None, "a newer deployment has taken over")],
)
def test_superseded_is_a_failure(why: str | None, shown: str) -> None:
    operator = Operator({"d-hello": [deployment("superseded", 1, error=why)]})
    (outcome,), _ = follow(operator, Outcome(result=result()))
    assert outcome.error == shown


def test_a_refused_api_is_not_waited_for() -> None:
    refused = Outcome(result=result(error="hello is already updating", code="conflict"))
    assert follow(Operator({}), refused) == ([refused], [])
    assert deployment_report.failure_lines(refused, None) == ["error: hello is already updating"]


def test_plan_says_what_changes() -> None:
    changes = tuple(Change(path=f"p{number}", before=None, after="x") for number in range(32))
    lines = deployment_report.plan_lines([
        result("a"), result("b", action="unchanged"), result("c", action="failed", error="used by d"),
        result("e", action="updating", changes=changes),
    ])  # fmt: skip
    assert lines[:5] == [
        "a: will be created (RealtimeAPI)", "b: unchanged", "c: used by d",
        "e: will be updated; its replicas keep running", '  p0: none → "x"',
    ]  # fmt: skip
    assert lines[-1] == "  and 2 more"


def test_versions_that_fail_beside_a_live_api_are_named() -> None:
    failed = [
        ModelStatus(name="iris", version=str(number), digest="d", state="failed", error="ValueError: 6")
        for number in range(1, 8)
    ]
    live = ModelStatus(name="iris", version="9", digest="d", state="live")
    (spec,) = load(HELLO)
    counts = ReplicaCounts(requested=1, updated=GroupCounts(ready=1), stale=GroupCounts())
    api = ApiStatus(
        spec=spec,
        status=Status(status_code="status_live", status="live", replica_counts=counts),
        endpoint="",
        release_id="r",
        last_updated=0.0,
        models=(live, *failed),
    )
    lines = deployment_report.model_warnings(api)
    assert lines[0] == "model iris: version 1 is not served: ValueError: 6"
    assert lines[5:] == ["… and 2 more (cortex get hello)"]


def test_next_commands_name_the_environment() -> None:
    lines = deployment_report.next_commands([Outcome(result=result())], suffix=" --env prod")
    assert lines[1] == "  cortex get hello --env prod            its status, replicas and history"
    assert "cortex predict hello DATA" in lines[3]
    assert deployment_report.next_commands([Outcome(result=result(error="no"))], suffix="") == []


def test_predict_is_not_suggested_for_what_it_cannot_call() -> None:
    lines = deployment_report.next_commands([Outcome(result=result())], suffix="", grpc={"hello"})
    assert [line for line in lines if "predict" in line] == []


def test_plan_does_not_show_digests() -> None:
    change = Change(path="project", before="0" * 64, after="1" * 64)
    lines = deployment_report.plan_lines([result(action="updating", changes=(change,))])
    assert lines[1:] == ["  project: its files changed"]


@pytest.mark.parametrize("path", ["-", "/dev/stdin", "/proc/self/fd/0", "/dev/fd/63"])
def test_an_api_file_from_a_stream(path: str) -> None:
    with pytest.raises(CortexError, match=f"^{path}: an API file cannot be read from a stream"):
        deploying.find(Path(path))


def test_find(tmp_path: Path) -> None:
    (tmp_path / "cortex.yaml").write_text(HELLO)
    assert deploying.find(tmp_path) == tmp_path / "cortex.yaml"
    assert deploying.find(tmp_path / "cortex.yaml") == tmp_path / "cortex.yaml"
    with pytest.raises(CortexError, match="no such file"):
        deploying.find(tmp_path / "other.yaml")


class Answers:
    """A person with one answer, who remembers the questions."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.questions: list[str] = []

    def ask(self, question: str) -> bool:
        self.questions.append(question)
        return self.answer


@pytest.fixture
def large_project(tmp_path: Path) -> Path:
    (tmp_path / "cortex.yaml").write_text(HELLO)
    (tmp_path / "handler.py").write_text(
        "class Handler:\n    def __init__(self, config): ...\n    def handle_get(self): ...\n"
    )
    (tmp_path / "big.bin").write_bytes(b"\0" * (11 * 1024 * 1024))
    return tmp_path


def test_a_large_file_is_asked_about_and_can_be_left_out(large_project: Path) -> None:
    for answer in (True, False):
        answers = Answers(answer)
        document = deploying.read(large_project / "cortex.yaml", questions=answers)
        assert document.project is not None
        assert ("big.bin" in document.project.files) is answer
        assert answers.questions == ["big.bin is 11 MiB; ship it?"]


def test_many_files_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "cortex.yaml").write_text(HELLO)
    (tmp_path / "handler.py").write_text(
        "class Handler:\n    def __init__(self, config): ...\n    def handle_get(self): ...\n"
    )
    for number in range(1000):
        (tmp_path / f"{number}.txt").touch()
    answers = Answers(False)
    with pytest.raises(CortexError, match="nothing was deployed"):
        deploying.read(tmp_path / "cortex.yaml", questions=answers)
    assert answers.questions == ["the project has 1001 files; ship them?"]


def test_questions_need_a_terminal_and_no_yes() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def questions(stream: type[io.StringIO], *, yes: bool) -> TerminalQuestions:
        console = Console(stdin=stream("n\n"), stdout=stream(), stderr=stream(), environ={})
        return TerminalQuestions(console=console, yes=yes)

    assert questions(io.StringIO, yes=False).ask("?")
    assert questions(Terminal, yes=True).ask("?")
    assert not questions(Terminal, yes=False).ask("?")


def test_package_is_removed_at_the_end(large_project: Path) -> None:
    (large_project / "big.bin").unlink()
    document = deploying.read(large_project / "cortex.yaml")
    assert document.project is not None
    with deploying.package(document.project) as package:
        assert package.archive.stat().st_size > 0
        assert len(package.digest) == 64
    assert not package.archive.exists()
