"""Workers that serve gRPC: they open their ports themselves, and live and die like others."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
import pytest
from support.replicas import RunningReplica, until

Start = Callable[..., RunningReplica]

PROTO = """
    syntax = "proto3";
    package trial;
    service Workers { rpc Ask (Text) returns (Text); }
    message Text { string text = 1; }
"""
HANDLER = """
    import os

    class Handler:
        def __init__(self, config, proto_module_pb2):
            self.proto = proto_module_pb2

        def Ask(self, payload, context):
            while payload.text == "hang": pass
            return self.proto.Text(text=f"{os.getpid()} {os.environ['CORTEX_SERVING_PROTOCOL']}")
"""
HANG = b"\x0a\x04hang"


@pytest.mark.parametrize("share", [False, True], ids=["own ports", "one port"])
def test_workers_answer_and_those_that_die_or_hang_are_replaced(start: Start, share: bool) -> None:
    replica = start(
        HANDLER,
        processes=2,
        share=share,
        files={"trial.proto": PROTO},
        protobuf_path="trial.proto",
        request_timeout=10**9,
    )
    assert _who_answer(replica) == set(replica.worker_pids())
    killed = replica.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in replica.worker_pids() and len(replica.worker_pids()) == 2)
    assert _who_answer(replica) == set(replica.worker_pids())
    with pytest.raises(grpc.RpcError) as raised:
        _ask(replica.port, HANG)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: any("hung and was killed by SIGABRT" in message for message in replica.messages()))
    until(lambda: len(replica.worker_pids()) == 2)
    assert _who_answer(replica) == set(replica.worker_pids())
    assert replica.stop() == 0


def _who_answer(replica: RunningReplica) -> set[int]:
    answers = {_ask(port).removeprefix(b"\x0a") for port in replica.worker_ports for _ in range(30)}
    assert all(answer.endswith(b" grpc") for answer in answers)
    return {int(answer[1:].split()[0]) for answer in answers}


def _ask(port: int, request: bytes = b"") -> bytes:
    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        answer: bytes = channel.unary_unary("/trial.Workers/Ask")(request, timeout=10, wait_for_ready=True)
    return answer
