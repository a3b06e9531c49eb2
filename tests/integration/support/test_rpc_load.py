"""The gRPC load finds what goes back, and only that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from support.rpc_load import OPTIONS, Report, RpcLoad
from support.rpc_project import compiled

Said = tuple[int, int, int]
"""Release, replica, version."""

Says = Callable[[int, int, int], Said]
"""Of a channel, its RPC and the message of that; all from 0 but the messages of RPCs that have one answer."""


class Forms:
    """The service of `support.rpc_project`, answered by whom the test says."""

    Fail = FailLater = Abort = None

    def __init__(self, says: Says) -> None:
        self._says = says

    def Once(self, asked: Any, context: Any) -> Any:
        return self._told(asked, "Once", 1)

    def Fan(self, asked: Any, context: Any) -> Iterator[Any]:
        return (self._told(asked, "Fan", count) for count in range(asked.count))

    def Gather(self, asks: Iterator[Any], context: Any) -> Any:
        asked = list(asks)
        return self._told(asked[-1], "Gather", len(asked))

    def Chat(self, asks: Iterator[Any], context: Any) -> Iterator[Any]:
        return (self._told(asked, "Chat", count) for count, asked in enumerate(asks))

    def _told(self, asked: Any, rpc: str, count: int) -> Any:
        release, replica, version = self._says(*divmod(asked.number, 1_000_000), count)
        return compiled()[0].Told(
            number=asked.number, rpc=rpc, count=count, padding=asked.padding,
            release=release, replica=replica, version=version,
        )  # fmt: skip


@contextmanager
def serving(says: Says) -> Iterator[str]:
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=OPTIONS)
        compiled()[1].add_FormsServicer_to_server(Forms(says), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(5).wait()


def report_of(says: Says, *, rpcs: int, channels: int = 1, skew: int = 0) -> Report:
    """What is found until the first channel has had so many answers."""
    done = threading.Event()

    def also_ends(channel: int, rpc: int, message: int) -> Said:
        if (channel, rpc) == (0, rpcs):
            done.set()
        return says(channel, rpc, message)

    with serving(also_ends) as target:
        load = RpcLoad(target, channels=channels, pause=0.001, skew=skew)
        load.start()
        try:
            assert done.wait(20)
        finally:
            report = load.stop()
    return report


def went_back(*said: Said, skew: int = 1) -> Sequence[str]:
    """What is found in these answers to one channel, the last of which is given for ever."""
    report = report_of(lambda _, rpc, __: said[min(rpc, len(said) - 1)], rpcs=len(said), skew=skew)
    assert report.failures == []
    return report.went_back


def test_nothing_goes_back() -> None:
    assert went_back((1, 1, 1), (1, 1, 2), (1, 1, 3), (2, 2, 3), skew=0) == []


def test_another_replica_may_be_one_version_behind_where_that_is_allowed() -> None:
    answers = (1, 1, 2), (1, 2, 1), (1, 1, 3), (1, 2, 2), (2, 3, 2), (2, 3, 3)
    assert went_back(*answers) == []
    assert len(went_back(*answers, skew=0)) == 3


@pytest.mark.parametrize(
    "answers",
    [
        [(1, 1, 1), (1, 1, 2), (1, 1, 1), (1, 1, 2)],
        [(1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 2, 1), (1, 2, 2)],
        [(1, 1, 3), (1, 2, 1), (1, 1, 3)],
        [(2, 1, 1), (1, 2, 1), (2, 1, 1)],
    ],
    ids=["a replica", "a new replica", "another replica by two", "a release"],
)
def test_what_goes_back(answers: Sequence[Said]) -> None:
    assert len(went_back(*answers)) == 1


@pytest.mark.parametrize(("old", "found"), [(1, 0), (2, 1)], ids=["overtaken", "asked later"])
def test_rpcs_are_held_to_what_others_were_answered_before(old: int, found: int) -> None:
    """The first channel has `old` answers by version 1, while the other one has had version 2 before the first comes."""
    asked, overtaken = threading.Event(), threading.Event()

    def says(channel: int, rpc: int, _: int) -> Said:
        if channel == 0:
            asked.set()
            assert overtaken.wait(10)
            return (1, 1, 1 if rpc < old else 2)
        if rpc == 0:
            assert asked.wait(10)
        else:
            overtaken.set()
        return (1, 1, 2)

    report = report_of(says, rpcs=3, channels=2)
    assert report.failures == []
    assert report.versions == {1, 2}
    assert len(report.went_back) == found


def test_an_rpc_that_is_answered_by_several_versions_fails() -> None:
    report = report_of(lambda _, __, message: (1, 1, 9 + message), rpcs=5)
    assert {failure.partition(":")[0] for failure in report.failures} == {"server streaming", "bidirectional"}
