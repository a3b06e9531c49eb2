"""The load generator finds what it is there to find."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.load import Load, Report

Said = dict[str, Any]


def said(number: int, *, contents: list[int] | None = None, folder: int | None = None) -> Said:
    return {"version": number, "contents": contents or [number], "folder": str(folder or number)}


@contextmanager
def answering(answers: list[Said]) -> Iterator[tuple[str, threading.Event]]:
    """A server that gives these answers in turn, then the last one for ever; the event: the last was given."""
    remaining = iter(answers)
    done = threading.Event()
    last = answers[-1]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = next(remaining, None)
            if answer is None:
                done.set()
            answer = answer or last
            body = json.dumps({"n": request["n"], **answer}).encode()
            self.send_response(answer.get("status", 200))
            self.send_header("content-length", str(len(body)))
            self.send_header("x-cortex-model", f"counted:{answer['version']}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/", done
        server.shutdown()
        serving.join()


def report_of(*answers: Said, connections: int = 1) -> Report:
    with answering(list(answers)) as (url, done):
        load = Load(url, connections=connections, pause=0.001, models=True)
        load.start()
        try:
            assert done.wait(20)
        finally:
            report = load.stop()
    return report


def test_nothing_is_wrong() -> None:
    report = report_of(said(1), said(1), said(2), said(3))
    assert (report.failures, report.mixed, report.went_back) == ([], [], [])
    assert report.seen == {"1", "2", "3"}
    assert report.answers == len(report.starts) == len(report.seconds) >= 4


@pytest.mark.parametrize("mixed", [said(2, contents=[1, 2]), said(2, contents=[1]), said(2, folder=1)])
def test_an_answer_by_two_versions(mixed: Said) -> None:
    report = report_of(said(1), mixed, said(2))
    assert len(report.mixed) == 1


def test_a_version_that_goes_back() -> None:
    report = report_of(said(1), said(2), said(1), said(2))
    assert report.went_back == ["1 after 2"]


def test_an_error() -> None:
    report = report_of(said(1), {**said(1), "status": 503}, said(2))
    assert len(report.failures) == 1
    assert "503" in report.failures[0]


def test_when_a_version_is_live_and_for_how_long_the_old_one_answers() -> None:
    together = report_of(said(1), said(1), said(2))
    live = together.live_since(2)
    assert live is not None
    assert together.starts[2] <= live <= together.starts[3]
    assert together.live_since(3) is None
    overlap = together.overlap(2)
    assert overlap is not None
    assert overlap < 0

    apart = Report(sightings=together.sightings + report_of(said(1)).sightings)
    assert apart.live_since(2) is None
    overlap = apart.overlap(2)
    assert overlap is not None
    assert overlap > 0
