"""gRPC as clients see it, through the gateway: all forms, errors, deadlines, swaps of the model, redeploys, kills."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.installation import Installation, wait_for
from support.load import Load
from support.replica_admin import admin_addresses, ready_workers
from support.rpc_load import LARGE, OPTIONS, RpcLoad
from support.rpc_project import ask, compiled, write_rpc_project
from support.swapper import Directory

SWAPS = 6
REDEPLOYS = 2
PROCESSES = 2


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """Attributes: target: of the gateway, for gRPC; noted: the file in which the handler notes some calls."""

    cortex: Installation
    project: Path
    models: Directory
    target: str
    noted: Path

    def deploy(self, release: int) -> None:
        write_rpc_project(self.project, release=release, models=self.models.location, processes=PROCESSES)
        self.cortex.run("deploy", "--yes", cwd=self.project)


@pytest.fixture(scope="module")
def deployed(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    folder = tmp_path_factory.mktemp("grpc")
    (folder / "project").mkdir()
    models = Directory(folder / "models")
    models.publish(1)
    made = Deployed(
        cortex=cortex,
        project=folder / "project",
        models=models,
        target=cortex.gateway_url.removeprefix("http://"),
        noted=folder / "noted",
    )
    made.deploy(1)
    return made


@pytest.fixture
def channel(deployed: Deployed) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(deployed.target, options=OPTIONS) as channel:
        yield channel


@pytest.fixture
def forms(channel: grpc.Channel) -> Any:
    return compiled()[1].FormsStub(channel)


@pytest.fixture
def load(deployed: Deployed) -> Iterator[RpcLoad]:
    running = RpcLoad(deployed.target)
    running.start()
    yield running
    running.stop()


def test_metadata_goes_both_ways(forms: Any) -> None:
    told, call = forms.Once.with_call(
        ask(1), timeout=10, metadata=[("x-said", "hello"), ("x-request-id", "my-own")]
    )
    trailing = dict(call.trailing_metadata())
    assert list(told.metadata) == ["x-said=hello"]
    assert trailing["x-trailing"] == "once"
    assert trailing["x-request-id"] == "my-own"
    assert trailing["x-cortex-model"].endswith(":1")


def test_messages_may_be_large_but_not_without_limit(forms: Any) -> None:
    padding = os.urandom(LARGE)
    assert forms.Once(ask(1, padding=padding), timeout=20).padding == padding
    with pytest.raises(grpc.RpcError) as refused:
        forms.Once(ask(1, padding=bytes(65 * 2**20)), timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_errors_tell_nothing_of_the_handler(deployed: Deployed, forms: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        forms.Fail(ask(1), timeout=10)
    assert (failed.value.code(), failed.value.details()) == (
        grpc.StatusCode.INTERNAL,
        "internal server error",
    )
    answers = forms.FailLater(ask(2), timeout=10)
    assert next(answers).number == 2
    with pytest.raises(grpc.RpcError) as later:
        next(answers)
    assert (later.value.code(), later.value.details()) == (grpc.StatusCode.INTERNAL, "internal server error")
    with pytest.raises(grpc.RpcError) as aborted:
        forms.Abort(ask(3), timeout=10)
    assert (aborted.value.code(), aborted.value.details()) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "not today",
    )
    logs = wait_for(
        lambda: text if (text := deployed.cortex.run("logs", "rpcs").stdout).count("a secret") >= 2 else "",
        within=5,
        what="both tracebacks in the log",
    )
    assert 'handler.py", line' in logs


@pytest.mark.parametrize("path", ["/rpcs.Forms/Unknown", "/rpcs.Unknown/Once", "/unknown.Forms/Once"])
def test_what_is_not_there_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as unknown:
        channel.unary_unary(path)(b"", timeout=10)
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_what_is_no_message_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/rpcs.Forms/Once")(b"\xff\xff\xff", timeout=10)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)


def test_deadlines_are_kept_and_logged(deployed: Deployed, forms: Any) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as late:
        forms.Once(ask(1, seconds=3), timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 1.5
    wait_for(
        lambda: "GRPC /rpcs.Forms/Once 504" in deployed.cortex.run("logs", "rpcs").stdout,
        within=10,
        what="the call's line in the log, when its method has ended",
    )


def test_a_cancelled_stream_ends_its_generator(deployed: Deployed, forms: Any) -> None:
    answers = forms.Fan(ask(77, count=100_000, seconds=0.01), timeout=60)
    for _ in range(3):
        next(answers)
    answers.cancel()
    wait_for(lambda: "Fan 77\n" in deployed.noted.read_text(), within=3, what="the generator is closed")


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "rpcs.Forms"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="rpcs.Unknown"), timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (listed,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        asked, timeout=10, metadata=[("x-cortex-api", "rpcs")]
    )
    assert "rpcs.Forms" in {service.name for service in listed.list_services_response.service}


def test_swaps_of_the_model_fail_no_rpc(deployed: Deployed, load: RpcLoad) -> None:
    for version in range(2, SWAPS + 2):
        deployed.models.publish(version)
        wait_for(lambda now=version: now in load.so_far().versions, within=10, what=f"version {version}")
    report = load.stop()
    assert report.failures == []
    assert report.went_back == []
    assert report.versions == set(range(1, SWAPS + 2))
    assert min(report.answers.values()) > 10


def test_redeploys_fail_no_rpc_and_cut_no_stream(deployed: Deployed, forms: Any, load: RpcLoad) -> None:
    beside = Load(deployed.cortex.url("plain"), connections=2)
    beside.start()
    ends = threading.Event()
    sent = 0

    def asks() -> Iterator[Any]:
        nonlocal sent
        while not ends.wait(0.02):
            sent += 1
            yield ask(sent)

    stream = forms.Chat(asks(), timeout=100)
    first = next(stream)
    for release in range(2, REDEPLOYS + 2):
        deployed.deploy(release)
    deployed.cortex.run("refresh", "rpcs")
    wait_for(lambda: REDEPLOYS + 1 in load.so_far().releases, within=10, what="the last release answers")
    ends.set()
    rest = list(stream)

    assert stream.code() is grpc.StatusCode.OK
    assert [told.number for told in (first, *rest)] == list(range(1, sent + 1))
    assert {told.release for told in rest} == {first.release}
    report = load.stop()
    assert report.failures == []
    assert report.went_back == []
    assert report.releases == set(range(1, REDEPLOYS + 2))
    assert beside.stop().failures == []


def test_a_killed_worker_fails_only_what_it_had(deployed: Deployed, load: RpcLoad) -> None:
    wait_for(lambda: sum(load.so_far().answers.values()) > 20, within=10, what="load")
    left = "the replicas of earlier releases have left"
    wait_for(lambda: len([*admin_addresses(deployed.cortex, "rpcs")]) == 1, within=20, what=left)
    victim = random.choice(sorted(ready_workers(deployed.cortex, "rpcs")))
    os.kill(victim, signal.SIGKILL)
    wait_for(
        lambda: len(ready_workers(deployed.cortex, "rpcs") - {victim}) == PROCESSES,
        within=4,
        what="another worker",
    )
    after = len(load.so_far().failures)
    time.sleep(0.5)
    report = load.stop()
    assert len(report.failures) == after
    assert len(report.failures) <= 2 * 4
    # What had begun to answer is cut; a client of gRPC calls that INTERNAL.
    told = ("UNAVAILABLE", "RST_STREAM")
    assert all(any(word in failure for word in told) for failure in report.failures), report.failures
