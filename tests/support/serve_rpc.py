"""Serves a handler project over gRPC alone: no supervisor, no agent. A program for the tests of the gRPC contract.

    python serve_rpc.py FOLDER PORT THREADS MAX_IN_FLIGHT HANDLER [MODELS CELLS CONTROL]

Log records are JSON lines on stderr. With MODELS, a folder for a snapshot, there is an agent on the other end of CONTROL.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cortex_core.errors import CortexError
from cortex_core.spec.types import Models
from cortex_serve.log import follow_threads
from cortex_serve.rpc import serving
from support.serve_project import JsonLog, follow, release_of


def main() -> int:
    folder, port, threads, max_in_flight, handler, *agent = sys.argv[1:]
    log = JsonLog()
    follow_threads()
    release = release_of(
        Path(folder),
        threads=int(threads),
        max_in_flight=int(max_in_flight),
        models=Models(dir="/models") if agent else None,
        protobuf_path="talk.proto",
        **json.loads(handler),
    )
    table = follow(log, *agent, "0") if agent else None
    try:
        loaded = serving.load_handler(release, Path(folder), log=log)
        application = serving.create_application(release, loaded, log=log, models=table)
        if table is not None:
            table.start()
            table.wait_until_held()
        serving.run(
            application,
            host="127.0.0.1",
            port=int(port),
            in_flight=lambda: application.stats.snapshot().in_flight,
            started=lambda: sys.stderr.write("{}\n"),
        )
    except CortexError as failure:
        sys.stderr.write(failure.message)
        return 1
    application.close()
    sys.stderr.write(json.dumps({"stats": str(application.stats.snapshot())}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
