"""gRPC through the gateway, on the same port as HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.envoy_clock import envoy_clock
from support.grpc_double import SERVICE, Caller, GrpcDouble
from support.installation import wait_for
from support.replica_double import ReplicaDouble
from support.replicas import start_replica

from cortex_operator.gateway.admin import Admin
from cortex_operator.gateway.envoy_config import ADMIN_SOCKET
from cortex_operator.gateway.protocol import Route, Upstream

HEALTH = "grpc.health.v1.Health"


@pytest.fixture
def new_double() -> Iterator[Callable[..., GrpcDouble]]:
    """Starts stand-ins for replicas; ends them all."""
    doubles: list[GrpcDouble] = []

    def start(version: str = "1", **options: Any) -> GrpcDouble:
        doubles.append(GrpcDouble(version, **options).start())
        return doubles[-1]

    yield start
    for double in doubles:
        double.kill()


def at(double: Any, *, draining: bool = False) -> Upstream:
    return Upstream(host="127.0.0.1", port=double.port, draining=draining)


def speech(*upstreams: Upstream, api: str = "speech", service: str = SERVICE, **options: Any) -> Route:
    return Route(
        api=api,
        endpoint=f"/{service}",
        upstreams=upstreams,
        protocol="grpc",
        **{"max_concurrency": 100, **options},
    )


def serve(site: Any, *routes: Route) -> None:
    site.run(site.gateway.apply(routes))


def caller(site: Any, **metadata: str) -> Caller:
    return Caller(f"127.0.0.1:{site.home.gateway_port}", **metadata)


def failed(call: Callable[[], object]) -> tuple[str, str]:
    """How a call ends that does not succeed."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def in_flight(site: Any, double: GrpcDouble) -> int:
    counted: int = site.run(site.gateway.in_flight())["speech"][at(double)]
    return counted


def test_all_forms_of_calls_beside_http(
    site: Any, new_double: Callable[..., GrpcDouble], replica: Callable[[str], ReplicaDouble]
) -> None:
    iris = Route(api="iris", endpoint="/iris", upstreams=(at(replica("http")),), max_concurrency=9)
    serve(site, iris, speech(at(new_double("a"))))

    with caller(site) as call:
        assert call.echo(b"hello") == b"a hello"
        assert list(call.count(count="3")) == [b"a 0", b"a 1", b"a 2"]
        assert call.sum(iter([b"12", b"345"])) == b"a 5"
        assert list(call.chat(iter([b"x", b"y"]))) == [b"a x", b"a y"]
        assert _asked(site, "GET", "/iris")[0] == 200


def test_a_stream_flows_while_it_goes_on(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    """Neither direction waits for the end of the other."""
    serve(site, speech(at(new_double("a"))))
    with caller(site) as call:
        said = threading.Semaphore(0)

        def messages() -> Iterator[bytes]:
            for number in range(5):
                said.acquire(timeout=5)
                yield str(number).encode()

        answers = call.chat(messages())
        for number in range(5):
            said.release()
            assert next(answers) == f"a {number}".encode()


def test_messages_are_not_limited_to_what_http_bodies_are(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    serve(site, speech(at(new_double("a"))))
    size = 65 * 1024**2
    with caller(site) as call:
        assert len(call.echo(b"x" * size)) == size + 2
        assert len(call.echo(bytes=str(size))) == size + 2


def test_what_a_replica_says_arrives_as_it_said_it(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    serve(site, speech(at(new_double())))
    with caller(site) as call:
        assert failed(lambda: call.echo(abort="NOT_FOUND")) == ("NOT_FOUND", "as you wish")
        assert failed(lambda: call.one_to_one("Nope")(b""))[0] == "UNIMPLEMENTED"


def test_what_the_gateway_refuses_is_a_status_with_words(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    serve(site, speech())
    with caller(site) as call:
        assert failed(call.echo) == ("UNAVAILABLE", "no replica of 'speech' is ready")
        assert failed(lambda: call.one_to_one("Echo", "other.Service")(b"")) == (
            "UNIMPLEMENTED",
            "no API has the method '/other.Service/Echo'",
        )
        serve(site)
        assert failed(lambda: call.one_to_one("Check", HEALTH)(b"")) == (
            "UNIMPLEMENTED",
            f"no API has the method '/{HEALTH}/Check'",
        )
        double = new_double()
        serve(site, speech(at(double), max_concurrency=1))
        running = call.one_to_one("Echo").future(b"", metadata=[("seconds", "1")])
        wait_for(lambda: in_flight(site, double) == 1, within=5, what="in flight")
        for _ in range(16):  # how long to wait is drawn by lot, and each lot has its own entry
            with pytest.raises(grpc.RpcError) as refused:
                call.echo()
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert refused.value.details() == "'speech' has as many requests in flight as it may; try again"
            assert dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"] in ("1000", "2000")
        assert running.result(timeout=10) == b"1 "
        assert call.echo() == b"1 "


def test_plain_http_is_told_that_it_is_grpc(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    serve(site, speech(at(new_double())))
    for method, target in (("POST", f"/{SERVICE}/Echo"), ("GET", f"/{SERVICE}"), ("GET", f"/{SERVICE}/")):
        status, answer = _asked(site, method, target)
        assert (status, answer["code"]) == (415, "unsupported")
        assert answer["message"] == "'speech' is a gRPC API: call it with a gRPC client"


def test_shared_services_belong_to_the_api_that_is_named(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    one, two = speech(at(new_double("one"))), speech(at(new_double("two")), api="text", service="text.Reader")
    with caller(site) as call:
        check = call.one_to_one("Check", HEALTH)
        serve(site, one)
        assert check(b"") == b"one"
        serve(site, one, two)
        for name, version in (("speech", b"one"), ("text", b"two")):
            assert check(b"", metadata=[("x-cortex-api", name)]) == version
        which = f"{HEALTH}: say with metadata x-cortex-api which API is meant: speech, text"
        assert failed(lambda: check(b"")) == ("UNIMPLEMENTED", which)
        assert failed(lambda: check(b"", metadata=[("x-cortex-api", "iris")])) == ("UNIMPLEMENTED", which)


def test_a_call_ends_at_its_deadline_or_at_the_apis_limit(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    double = new_double()
    serve(site, speech(at(double)))
    with caller(site) as call:
        assert failed(lambda: call.echo(seconds="5", timeout=0.3))[0] == "DEADLINE_EXCEEDED"
        wait_for(lambda: in_flight(site, double) == 0, within=2, what="given up at the replica")
        serve(site, speech(at(double), timeout=0.5))
        started = envoy_clock()
        assert failed(lambda: call.echo(seconds="5", timeout=None))[0] == "DEADLINE_EXCEEDED"
        assert 500_000 <= envoy_clock() - started < 3_000_000


def test_answers_are_counted_by_their_status(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    double = new_double()
    serve(site, speech(at(double)))
    with caller(site) as call:
        call.echo()
        list(call.count(count="2"))
        for status in ("NOT_FOUND", "INVALID_ARGUMENT", "INTERNAL"):
            failed(lambda status=status: call.echo(abort=status))
        assert site.run(site.gateway.stats())["speech"].total == 5
        serve(site, speech(at(double), max_concurrency=7))
        call.echo()
    stats = site.run(site.gateway.stats())["speech"]
    assert (stats.code_2xx, stats.code_4xx, stats.code_5xx, stats.total) == (3, 2, 1, 6)


def test_a_replica_that_cannot_be_reached_costs_no_call(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    here, gone = new_double("here"), new_double("gone")
    serve(site, speech(at(here), at(gone)))
    with caller(site) as call:
        call.echo()
        gone.kill()
        wait_for(lambda: call.echo() == b"here ", within=5, what="an answer")
        assert {call.echo(b"x" * 100_000)[:5] for _ in range(200)} == {b"here "}


def test_a_lone_replica_that_restarts_is_waited_for(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    double = new_double()
    serve(site, speech(at(double)))
    with caller(site) as call:
        call.echo()
        double.kill()
        # Else what it sends there may have been begun, and is not repeated.
        wait_for(lambda: connections(site) == 0, within=5, what="the gateway has noticed")
        answer = call.one_to_one("Echo").future(b"still", timeout=15)
        time.sleep(0.5)  # how long the restart takes
        double.start()
        assert answer.result(timeout=15) == b"1 still"


def connections(site: Any) -> int:
    """How many the gateway has to replicas of `speech`."""
    name = "cluster.speech.upstream_cx_active"
    return int(site.run(Admin(site.home.gateway, ADMIN_SOCKET).state(name))[name])


def test_the_first_calls_go_to_as_many_processes(site: Any, new_double: Callable[..., GrpcDouble]) -> None:
    """Although all wait for connections at first."""
    doubles = {str(number): new_double(str(number), threads=1) for number in range(8)}
    serve(site, speech(*map(at, doubles.values())))
    with caller(site) as call:
        echo = call.one_to_one("Echo")
        running = [echo.future(b"", timeout=20, metadata=[("seconds", "0.5")]) for _ in doubles]
        answered = [call.result().decode().strip() for call in running]
    assert sorted(answered) == sorted(doubles)
    assert site.run(site.gateway.stats())["speech"].total == len(doubles)


WORKERS = """
    import os, time

    class Handler:
        def __init__(self, config, proto_module_pb2):
            self.messages = proto_module_pb2

        def Ask(self, payload):
            time.sleep(0.5)
            return self.messages.Text(text=str(os.getpid()))
"""
WORKERS_PROTO = """
    syntax = "proto3";
    package trial;
    service Workers { rpc Ask (Text) returns (Text); }
    message Text { string text = 1; }
"""


def test_the_first_calls_go_to_both_processes_of_a_replica(site: Any, tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        with start_replica(
            folder, WORKERS, processes=2, files={"trial.proto": WORKERS_PROTO}, protobuf_path="trial.proto"
        ) as replica:
            upstreams = [Upstream(host="127.0.0.1", port=port) for port in replica.worker_ports]
            serve(site, speech(*upstreams, service="trial.Workers"))
            assert site.run(site.gateway.in_flight())["speech"] == dict.fromkeys(upstreams, 0)
            with caller(site) as call:
                ask = call.one_to_one("Ask", "trial.Workers")
                answers = [running.result() for running in [ask.future(b"", timeout=20) for _ in upstreams]]
            pids = {int(answer.removeprefix(b"\x0a")[1:]) for answer in answers}
            assert pids == set(replica.worker_pids())


def test_who_watches_health_takes_no_calls_place(site: Any, tmp_path: Path) -> None:
    """Nor does it make a process look busy, or keep a replica from leaving."""
    with (
        start_replica(
            tmp_path, WORKERS, files={"trial.proto": WORKERS_PROTO}, protobuf_path="trial.proto"
        ) as replica,
        caller(site) as call,
    ):
        upstream = Upstream(host="127.0.0.1", port=replica.worker_ports[0])
        serve(site, speech(upstream, service="trial.Workers", max_concurrency=1))
        watches = [call.channel.unary_stream(f"/{HEALTH}/Watch")(b"", timeout=60) for _ in range(3)]
        for watch in watches:
            assert next(watch) == b"\x08\x01"
        assert site.run(site.gateway.in_flight()) == {"speech": {upstream: 0}}
        assert call.one_to_one("Ask", "trial.Workers")(b"", timeout=20)
        assert site.run(site.gateway.stats())["speech"].total == 1
        assert set(site.run(site.gateway.stats())) == {"speech"}
        for watch in watches:
            watch.cancel()


@dataclass
class Load:
    """Calls from several threads until told to stop.

    Attributes:
        answered: calls and streams that ended well.
        failures: how the others ended.
        seen: versions that answered.
    """

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def call(self, call: Callable[[], list[bytes]]) -> None:
        while not self.stop.wait(0.005):
            try:
                messages = call()
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")  # type: ignore[attr-defined]  # a call
            else:
                self.answered += 1
                self.seen |= {message.split(b" ")[0] for message in messages}
                if len({message.split(b" ")[0] for message in messages}) != 1:
                    self.failures.append(f"one call answered by several: {messages}")


@contextmanager
def under_load(site: Any) -> Iterator[Load]:
    """Two connections with calls and a stream of 0.5 s each."""
    running = Load()
    with caller(site) as one, caller(site) as two:
        calls: list[Callable[[], list[bytes]]] = []
        for call in (one, two):
            calls += [
                lambda call=call: [call.echo(b"x")],
                lambda call=call: [call.echo(b"y" * 50_000)],
                lambda call=call: list(call.count(count="10", seconds="0.05")),
                lambda call=call: list(call.chat(iter([b"a"] * 20))),
            ]
        threads = [threading.Thread(target=running.call, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        try:
            yield running
        finally:
            running.stop.set()
            for thread in threads:
                thread.join(20)


def test_replacements_fail_neither_calls_nor_streams(
    site: Any, new_double: Callable[..., GrpcDouble]
) -> None:
    old = new_double("0")
    serve(site, speech(at(old)))
    with under_load(site) as load:
        for number in range(1, 9):
            new = new_double(str(number))
            serve(site, speech(at(new), at(old, draining=True)))
            wait_for(lambda old=old: in_flight(site, old) == 0, within=10, what="drained")
            old.terminate()
            serve(site, speech(at(new)))
            wait_for(lambda n=number: str(n).encode() in load.seen, within=5, what="the new one answers")
            old = new
    assert load.failures == []
    assert load.answered > 200
    assert len(load.seen) == 9


def _asked(site: Any, method: str, target: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", site.home.gateway_port, timeout=15)
    connection.request(method, target)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer
