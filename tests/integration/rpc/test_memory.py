"""No call leaves memory behind, however it ends. A part of grpcio's own does: see `ALLOWED`.

The server says what it has allocated, for its size does not show it: a leak takes what was free before, megabytes of it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import grpc
import pytest
from support.talk import Served

CALLS, ROUNDS = 200, 5

LEAK = 1024
"""Bytes a call that are found."""

ALLOWED = LEAK / 2
"""Bytes a call. grpcio keeps some 350 of each stream that its client cancels (https://github.com/grpc/grpc/issues/43360)."""

EXACT = {"PYTHONMALLOC": "malloc"}
"""Python's objects are in pools of their own otherwise, which grow by a megabyte."""

SOURCE = """
    import ctypes
    import gc

    from shared.text_pb2 import Text

    KEPT = []

    class Allocated(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                         "keepcost")
        ]

    allocated = ctypes.CDLL(None).mallinfo2
    allocated.restype = Allocated

    class Handler:
        def __init__(self, config, proto_module_pb2):
            self.leak = config["leak"]

        def Echo(self, payload):
            KEPT.append(b"x" * self.leak)
            return payload

        def Count(self, payload):
            KEPT.append(b"x" * self.leak)
            for number in range(int(payload.text)):
                yield Text(text=str(number))

        def Join(self, payload):
            gc.collect()
            says = allocated()
            return Text(text=str(says.uordblks + says.hblkhd))

        def Chat(self, payload):
            yield from payload

        def Nothing(self): ...
"""


def is_answered(api: Served) -> None:
    assert api.stub.Echo(api.text("a")).text == "a"


def is_streamed(api: Served) -> None:
    assert len(list(api.stub.Count(api.text("3")))) == 3


def is_cancelled(api: Served) -> None:
    answers = api.stub.Count(api.text("1000000000"))
    assert next(answers).text == "0"
    answers.cancel()


def fails(api: Served) -> None:
    with pytest.raises(grpc.RpcError, match="INTERNAL"):
        next(api.stub.Count(api.text("not a number")))


def grows(api: Served, call: Callable[[Served], None]) -> float:
    """Bytes a call that the server has more, once warm: the median of rounds, since what leaks does so in each."""
    sizes = []
    for _ in range(1 + ROUNDS):
        for _ in range(CALLS):
            call(api)
        sizes.append(int(api.stub.Join(iter(())).text))
    return statistics.median(after - before for before, after in itertools.pairwise(sizes)) / CALLS


@pytest.mark.parametrize("call", [is_answered, is_streamed, is_cancelled, fails])
def test_no_call_leaves_memory_behind(serve: Callable[..., Served], call: Callable[[Served], None]) -> None:
    grown = grows(serve(SOURCE, environ=EXACT, config={"leak": 0}), call)
    print(f"{grown:.0f} bytes a call")
    assert grown < ALLOWED


@pytest.mark.parametrize("call", [is_streamed, is_cancelled])
def test_a_leak_is_found(serve: Callable[..., Served], call: Callable[[Served], None]) -> None:
    grown = grows(serve(SOURCE, environ=EXACT, config={"leak": LEAK}), call)
    print(f"{grown:.0f} bytes a call")
    assert grown > ALLOWED
