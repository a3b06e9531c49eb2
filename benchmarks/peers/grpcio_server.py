"""The bare gRPC server: grpcio's own, with as many threads as ours. BENCH_FOLDER has the compiled messages and service."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

sys.path.insert(0, os.environ["BENCH_FOLDER"])

import echo_pb2  # made by the benchmark, in its folder
import echo_pb2_grpc


class Echo(echo_pb2_grpc.EchoServicer):
    def Say(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the service calls it
        return echo_pb2.Said(n=request.n, values=request.values)


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(int(os.environ["BENCH_STYLE"])))
    echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['BENCH_PORT']}")
    server.start()
    server.wait_for_termination()
