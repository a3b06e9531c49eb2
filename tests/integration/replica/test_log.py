"""What ends up in the log of a replica, whoever wrote it and however much it is."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

from support.replicas import ECHO, RunningReplica, until

Start = Callable[..., RunningReplica]


def _lines(replica: RunningReplica, message: str) -> list[dict[str, object]]:
    return until(lambda: [line for line in replica.log() if line["message"] == message])  # type: ignore[no-any-return]


def test_every_way_of_writing_becomes_a_line(start: Start) -> None:
    source = """
        import logging, os, subprocess, sys, warnings
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                print("by", "print")
                print("by stderr", file=sys.stderr)
                os.write(1, b"by the descriptor\\n")
                os.write(2, b"binary \\xff \\x1b[31mred\\x1b[0m\\n")
                subprocess.run(["echo", "by a subprocess"])
                logger.warning("by the logger", extra={"answer": 42, "odd": {1, 2}.__class__})
                logging.getLogger("somewhere").info("by another logger")
                warnings.warn("by warnings")
                sys.stdout.buffer.write(b"by the buffer\\n")
                sys.stdout.flush()
                print("without an end", end="")

            def handle_get(self):
                return "here"
    """
    replica = start(source)
    replica.stop()
    levels = {line["message"]: line["levelname"] for line in replica.log()}
    assert levels["by print"] == "INFO"
    assert levels["by stderr"] == "ERROR"
    assert levels["by the descriptor"] == "INFO"
    assert levels["binary \ufffd \x1b[31mred\x1b[0m"] == "ERROR"
    assert levels["by a subprocess"] == "INFO"
    assert levels["by the buffer"] == "INFO"
    assert levels["by another logger"] == "INFO"
    assert levels["without an end"] == "INFO"
    assert [level for message, level in levels.items() if "by warnings" in message] == ["WARNING"]
    [logged] = _lines(replica, "by the logger")
    assert logged["levelname"] == "WARNING"
    assert logged["answer"] == 42
    assert logged["odd"] == "<class 'set'>"
    assert logged["replica"] == "trial-0"
    assert isinstance(logged["process"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(logged["asctime"]))


def test_every_line_of_a_request_has_its_id(start: Start) -> None:
    source = """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                self.pool = ThreadPoolExecutor(1)

            def handle_get(self):
                print("printed")
                logger.info("logged")
                thread = threading.Thread(target=logger.info, args=("logged by a thread",))
                thread.start()
                thread.join()
                self.pool.submit(print, "printed by a pool").result()
                return "here"
    """
    replica = start(source)
    for request_id in ("first", "second"):
        with replica.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: %b\r\n\r\n" % request_id.encode())
            connection.recv(4096)
    replica.stop()
    for message in ("printed", "logged", "logged by a thread", "printed by a pool", "GET / 200"):
        assert [line["request_id"] for line in _lines(replica, message)] == ["first", "second"], message


def test_access_lines_say_what_was_asked_and_answered(start: Start) -> None:
    replica = start(ECHO)
    replica.request(body=b"1")
    [line] = _lines(replica, "POST / 200")
    assert (line["method"], line["path"], line["status_code"]) == ("POST", "/", "200 OK")
    assert line["levelname"] == "INFO"
    assert 0 < float(str(line["latency_ms"])) < 1000


def test_the_level_of_the_spec_counts(start: Start) -> None:
    source = """
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                logger.info("too little")
                logger.error("enough")

            def handle_get(self):
                return "here"
    """
    replica = start(source, log_level="warning")
    replica.request("GET")
    replica.stop()
    assert "enough" in replica.messages()
    assert not {"too little", "GET / 200"} & set(replica.messages())


def test_the_last_words_of_a_killed_worker_are_written(start: Start) -> None:
    source = """
        import os
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                for number in range(1000):
                    logger.info("line %d", number)
                os.kill(os.getpid(), 9)
    """
    replica = start(source)
    with replica.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.recv(1)
    _lines(replica, "line 999")
    assert [m for m in replica.messages() if m.startswith("line ")] == [f"line {n}" for n in range(1000)]


def test_a_thread_that_dies_says_why(start: Start) -> None:
    source = """
        import threading

        class Handler:
            def __init__(self, config):
                threading.Thread(target=lambda: 1 / 0, name="worker bee").start()

            def handle_get(self):
                return "here"
    """
    replica = start(source)
    [line] = _lines(replica, "thread worker bee died: ZeroDivisionError")
    assert "1 / 0" in str(line["exc_info"])


def test_long_lines_are_cut(start: Start) -> None:
    source = """
        import os

        class Handler:
            def __init__(self, config):
                print("p" * 6_000_000)
                os.write(1, b"")
                with open(1, "wb", closefd=False) as stdout:
                    stdout.write(b"d" * 10_000_000 + b"\\n" + b"after\\n")

            def handle_get(self):
                return "here"
    """
    replica = start(source)
    _lines(replica, "after")
    replica.stop()
    cut = [m for m in _all_messages(replica) if "[line cut: " in m]
    assert sorted(len(message) // 1_000_000 for message in cut) == [4, 5]
    assert {message.partition(" ")[2] for message in cut} == {
        "[line cut: 6000000 characters]",
        "[line cut: 10000000 bytes]",
    }


def test_the_log_is_rotated(start: Start) -> None:
    source = """
        import time

        class Handler:
            def __init__(self, config):
                for number in range(30_000):
                    print(f"{number} {'x' * 1000}")
                    if number % 1000 == 0:
                        time.sleep(0.02)  # for the disk to keep up

            def handle_get(self):
                return "here"
    """
    replica = start(source)
    replica.stop()
    assert replica.log_file.with_name("trial-0.jsonl.2").exists()
    assert all(file.stat().st_size <= 10 * 2**20 for file in replica.log_file.parent.iterdir())
    numbers = [int(m.split()[0]) for m in _all_messages(replica) if m.endswith("xxx")]
    assert numbers == list(range(30_000))


def test_what_a_flood_loses_is_counted(start: Start) -> None:
    source = """
        import os
        from cortex_internal.lib.log import logger

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                for number in range(30_000):
                    logger.info("flood %d %s", number, "x" * 1000)
                return "here"

            def handle_post(self):
                print("after the flood")
    """
    replica = start(source)
    assert replica.request("GET")[0] == 200
    until(lambda: replica.request("POST") and "after the flood" in replica.messages())
    dropped = replica.metric("cortex_log_lines_dropped_total")
    replica.stop()
    written = sum(message.startswith("flood ") for message in _all_messages(replica))
    assert written + dropped == 30_000


def test_a_full_disk_drops_lines_and_nothing_else(start: Start, tmp_path: Path) -> None:
    replica = start(ECHO)
    log = replica.log_file
    log.rename(log.with_name("before"))
    replica.stop()
    log.symlink_to("/dev/full")
    source = ECHO.replace("return payload", "print('lost'); return payload")
    full = start(source, wait=False, ports=_free_ports())
    until(full.ready)
    for _ in range(50):
        assert full.request()[0] == 200
    until(lambda: full.metric("cortex_log_lines_dropped_total") >= 50)
    assert full.stop() == 0


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return first.getsockname()[1], second.getsockname()[1]


def _all_messages(replica: RunningReplica) -> list[str]:
    files = sorted(replica.log_file.parent.glob("trial-0.jsonl*"), key=_age, reverse=True)
    return [json.loads(line)["message"] for file in files for line in file.read_text().splitlines()]


def _age(file: Path) -> int:
    suffix = file.suffix[1:]
    return int(suffix) if suffix.isdigit() else 0


def test_a_stream_that_fails_is_logged_once_and_without_frames_of_ours(start: Start) -> None:
    source = """
        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                return self.pieces()

            def pieces(self):
                yield "begun"
                raise ValueError("in the middle")
    """
    replica = start(source)
    with replica.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while connection.recv(65536):
            pass
    assert replica.stop() == 0
    errors = [line for line in replica.log() if line["levelname"] == "ERROR"]
    assert [line["message"] for line in errors] == ["the handler raised ValueError: in the middle"]
    assert "cortex_serve" not in errors[0]["exc_info"]
