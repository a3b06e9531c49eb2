"""S3 in a process of its own (moto), at a port the kernel picks. Run as a program it serves until its input ends.

With `CORTEX_TEST_S3_PORT` set, the S3 that runs at that port of 127.0.0.1 is taken instead (`support.swift_server`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START_SECONDS = 60


@contextmanager
def running_s3() -> Iterator[int]:
    """The port at 127.0.0.1."""
    other = os.environ.get("CORTEX_TEST_S3_PORT")
    if other:
        yield int(other)
        return
    argv = [sys.executable, "-W", "ignore", __file__]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        try:
            line = process.stdout.readline()
            late.cancel()
            assert line, "the S3 server did not start"
            yield int(line)
        finally:
            late.cancel()
            process.kill()


def main() -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
