"""`get`, `history`, `logs` and `delete`."""

from __future__ import annotations

import json
import re
import subprocess

import msgspec
from support.fake_operator import STARTED, FakeOperator
from support.installation import BIN, Installation, free_ports

from cortex_core.operator_api import (
    GroupCounts,
    HistoryEntry,
    LogRecord,
    Metrics,
    ModelStatus,
    NetworkStats,
    ReplicaCounts,
    ReplicaStatus,
    Status,
)

GRPC = (
    "- {name: hello, kind: RealtimeAPI, networking: {endpoint: /hello.Greeter},"
    " handler: {type: python, path: handler.py, protobuf_path: hello.proto}}"
)
HELLO = "- {name: hello, kind: RealtimeAPI, handler: {type: python, path: handler.py}}"
SPLITTER = """\
- name: split
  kind: TrafficSplitter
  apis: [{name: hello, weight: 100}, {name: b, weight: 5, shadow: true}]
"""


def test_nothing_deployed(cortex: Installation) -> None:
    assert cortex.run("get").stdout == "no APIs are deployed; deploy one with: cortex deploy\n"
    assert cortex.json("get") == [{"env_name": "local", "apis": [], "error": None}]
    assert cortex.json("get", "-e", "local") == []


def test_list(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(
        HELLO, metrics=Metrics(network_stats=NetworkStats(latency=12.3456789, code_2xx=7, total=7))
    )
    operator.deployed(SPLITTER)
    done = cortex.run("get")
    assert done.stdout == (
        "env     realtime api   status   up-to-date   requested   last update   avg request   2XX\n"
        "local   hello          live     1            1           4d2h          ~12 ms        7\n"
        "\n"
        "env     traffic splitter   apis                     last update\n"
        "local   split              hello:100 b:5 (shadow)   4d2h\n"
    )
    assert cortex.run("get", "-e", "local").stdout.startswith("realtime api   status ")


def test_columns_that_matter_only_when_something_is_wrong(
    cortex: Installation, operator: FakeOperator
) -> None:
    counts = ReplicaCounts(requested=2, updated=GroupCounts(failed=1), stale=GroupCounts(ready=1))
    status = Status(status_code="status_error", status="error", replica_counts=counts, message="exit code 1")
    network = NetworkStats(latency=2000, code_2xx=1, code_4xx=2, code_5xx=3, total=6)
    operator.deployed(HELLO, status=status, metrics=Metrics(network_stats=network))
    header, row = cortex.run("get", "-e", "local").stdout.splitlines()
    assert re.split(r" {3,}", header) == [
        "realtime api", "status", "up-to-date", "stale", "requested", "failed", "last update", "avg request",
        "2XX", "4XX", "5XX",
    ]  # fmt: skip
    assert row.split() == ["hello", "error", "0", "1", "2", "1", "4d2h", "~2.0", "s", "1", "2", "3"]
    assert "\nlast failure: exit code 1\n" in cortex.run("get", "hello").stdout


def test_one_api(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(
        HELLO,
        models=(ModelStatus(name="iris", version="3", digest="d", state="live", loaded_at=STARTED),),
        replicas=(
            ReplicaStatus(id="hello-0", release_id="1", state="ready", started_at=STARTED, in_flight=2),
        ),
    )
    operator.history["hello"] = [
        HistoryEntry(release_id="1" * 16, deployed_at=STARTED, reason="deploy", state="live", current=True)
    ]
    output = cortex.run("get", "hello", "-e", "local").stdout
    assert re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", output).replace(
        operator.endpoint, "http://X"
    ) == (
        "realtime api   status   up-to-date   requested   last update   avg request   2XX\n"
        "hello          live     1            1           4d2h          -             0\n"
        "\n"
        "endpoint: http://X/api/hello\n"
        "\n"
        "replica   state   age    in flight\n"
        "hello-0   ready   4d2h   2\n"
        "\n"
        "model name   model version   state   loaded\n"
        "iris         3               live    4d2h\n"
        "\n"
        "api id             last deployed         age    by       state\n"
        "1111111111111111   DATE   4d2h   deploy   live    current\n"
    )


def test_a_grpc_api_is_reached_at_a_host_and_port(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(GRPC)
    address = operator.endpoint.removeprefix("http://")
    assert (
        f"\nendpoint: {address} (gRPC without TLS, service hello.Greeter)\n"
        in cortex.run("get", "hello").stdout
    )


def test_one_api_as_json(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    (api,) = cortex.json("get", "hello")
    assert api["spec"]["handler"]["processes_per_replica"] == 1
    assert api["status"]["replica_counts"]["updated"]["ready"] == 1
    assert (api["status"]["status_code"], api["release_id"]) == ("status_live", "1" * 16)
    assert api["endpoint"] == f"{operator.endpoint}/api/hello"
    assert api["models"] == []


def test_verbose_adds_the_configuration(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    assert "\nconfiguration of hello:\n\n  kind: RealtimeAPI\n" in cortex.run("get", "hello", "-v").stdout


def test_unknown_api_is_exit_code_3(cortex: Installation) -> None:
    done = cortex.run("get", "nope", expect=3)
    assert (done.stdout, done.stderr) == ("", "error: there is no API 'nope'\n")
    document = json.loads(cortex.run("get", "nope", "-o", "json", expect=3).stdout)
    assert document == {"error": {"message": "there is no API 'nope'", "hint": None, "exit_code": 3}}


def test_watch_needs_a_terminal(cortex: Installation) -> None:
    done = cortex.run("get", "--watch", expect=1)
    assert done.stderr == "error: cannot watch: stdout is not a terminal\nhint: drop --watch\n"
    assert "exclude each other" in cortex.run("get", "-w", "-o", "json", expect=2).stderr


def test_unreachable_environment_is_mentioned_at_the_end(
    cortex: Installation, operator: FakeOperator
) -> None:
    operator.deployed(HELLO)
    (port,) = free_ports(1)
    config = cortex.home.parent / "config"
    config.mkdir()
    (config / "cli.yaml").write_text(
        f"environments:\n- {{name: away, operator_endpoint: 'http://127.0.0.1:{port}', token: t}}\n"
    )
    done = cortex.run("get")
    assert "hello" in done.stdout
    assert done.stderr == (
        f"warning: environment 'away': no operator answers at http://127.0.0.1:{port} (environment 'away')\n"
    )
    local, away = cortex.json("get")
    assert (local["env_name"], away["env_name"], away["apis"]) == ("local", "away", [])
    assert "no operator answers" in away["error"]
    assert cortex.run("get", "-e", "away", expect=6).stdout == ""
    assert cortex.run("get", "hello").stderr == "using local environment\n"


def test_wrong_token_says_whose_operator_it_is(cortex: Installation) -> None:
    (cortex.home / "operator" / "token").write_text("another")
    done = cortex.run("get", expect=4)
    assert "belongs to another CORTEX_HOME\nhint: choose other ports" in done.stderr


def test_history(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    entry = HistoryEntry(
        release_id="a" * 16, deployed_at=STARTED, reason="rollback", state="live", current=True
    )
    operator.history["hello"] = [entry]
    assert cortex.json("history", "hello") == [msgspec.to_builtins(entry)]
    assert "rollback   live    current" in cortex.run("history", "hello").stdout
    cortex.run("history", "nope", expect=3)


def record(replica: str, **fields: str) -> LogRecord:
    return LogRecord(replica=replica, line=msgspec.json.encode(fields).decode())


def test_logs_of_one_replica(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    operator.logs["hello"] = [
        record("hello-0", message="ready"),
        record("hello-0", message="failed", exc_info="Traceback:\nValueError: \x1b[2Jno"),
        LogRecord(replica="hello-0", line="printed by the handler"),
    ]
    assert cortex.run("logs", "hello").stdout == (
        "ready\nfailed\nTraceback:\nValueError: \\x1b[2Jno\nprinted by the handler\n"
    )
    assert cortex.run("logs", "hello", "--tail", "1").stdout == "printed by the handler\n"
    lines = cortex.run("logs", "hello", "-o", "json").stdout.splitlines()
    assert json.loads(lines[0]) == {"message": "ready"}


def test_logs_of_several_replicas_say_whose_line_it_is(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO, ready=2)
    operator.logs["hello"] = [record("hello-0", message="a"), record("hello-1", message="b")]
    assert cortex.run("logs", "hello").stdout == "hello-0 | a\nhello-1 | b\n"
    assert cortex.run("logs", "hello", "--replica", "hello-1").stdout == "b\n"


def test_logs_when_there_is_nothing_to_show(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    assert cortex.run("logs", "hello").stderr == "nothing was logged by hello\n"
    assert "'1x' is not a duration" in cortex.run("logs", "hello", "--since", "1x", expect=2).stderr
    cortex.run("logs", "nope", expect=3)
    done = cortex.run("logs", "hello", "--replica", "zz", expect=3)
    assert done.stderr == "error: hello has no replica 'zz', and no log of one\nhint: there is: hello-0\n"


def test_logs_of_a_replica_that_is_gone(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    operator.logs["hello"] = [record("gone", message="a", asctime="2026-03-01T14:05:09.123Z")]
    shown = cortex.run("logs", "hello", "--replica", "gone").stdout
    assert re.fullmatch(r"\d\d:\d5:09\.123 a\n", shown)


def test_delete_says_what_it_waits_for(cortex: Installation, operator: FakeOperator) -> None:
    busy = ReplicaStatus(id="hello-0", release_id="r", state="terminating", in_flight=2)
    operator.deployed(HELLO, replicas=(busy,))
    operator.looks_before_delete = 1
    done = cortex.run("delete", "hello")
    assert done.stderr == "deleting hello\ndeleting hello, waiting for 2 requests in flight\n"


def test_delete(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    assert cortex.run("delete", "hello").stdout == "deleted hello\n"
    cortex.run("delete", "hello", expect=3)


def test_delete_asks_when_much_is_running(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO, ready=3)
    done = cortex.run("delete", "hello", expect=4)
    assert (
        done.stderr == "error: hello has 3 live replicas\nhint: to delete it: cortex delete hello --force\n"
    )
    assert cortex.json("delete", "hello", "--force") == {"message": "deleted hello"}


def test_a_reader_that_has_seen_enough(cortex: Installation, operator: FakeOperator) -> None:
    operator.deployed(HELLO)
    operator.logs["hello"] = [record("hello-0", message="x" * 1000) for _ in range(500)]
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{BIN / 'cortex'} logs hello | head -1"],
        env=dict(cortex.environ), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
