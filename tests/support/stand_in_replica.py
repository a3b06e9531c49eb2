"""A stand-in for `cortex-serve` that keeps the contract of `cortex_core.runtime` and does as it is told.

Run with the command line of a replica. `handler.config` of the release says how it behaves:

    ready_after: seconds        not ready before
    waiting_for: text           meanwhile `/readyz` says so
    fail: text                  log an error with this text and exit with `code` (1)
    ignore_sigterm: true        only SIGKILL ends it
    leave_behind: true          start a process that leaves the session and ignores all signals it can

and `GET` on its serving port what it does: `/exit/3`, `/unready`, `/allocate/300` (MiB, in a process of its
own that it waits for), `/grow/300` (MiB, itself), `/log/text`, `/environ`, `/models` (what is in its folder of
models, where it leaves a file more each time it starts).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LEFT_BEHIND = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
"""


def main() -> None:
    options = _options()
    config = json.loads(Path(options.release).read_text())["spec"]["handler"]["config"]
    log = Log(Path(options.log_dir) / f"{options.replica}.jsonl")
    if config.get("leave_behind"):
        subprocess.run([sys.executable, "-S", "-c", LEFT_BEHIND], check=True)
    if "fail" in config:
        log.write(
            "ERROR", "the handler could not be loaded", exc_info=f"Traceback\nValueError: {config['fail']}"
        )
        sys.exit(config.get("code", 1))
    if options.models is not None:
        options.models.mkdir(exist_ok=True)
        (options.models / f"start-{len(list(options.models.iterdir()))}").touch()
    replica = Replica(config, log, options.models)
    signal.signal(signal.SIGTERM, replica.on_sigterm)
    for port in (options.admin_port, *options.port):
        server = ThreadingHTTPServer((options.host, port), replica.handler(admin=port == options.admin_port))
        threading.Thread(target=server.serve_forever, daemon=True).start()
    log.write("INFO", f"started {options.replica}")
    replica.ended.wait()


class Log:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, level: str, message: str, **extra: str) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"asctime": now, "levelname": level, "message": message, **extra}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Replica:
    def __init__(self, config: dict[str, Any], log: Log, models: Path | None) -> None:
        self.config = config
        self.log = log
        self.models = models
        self.ended = threading.Event()
        self.ready_at = time.monotonic() + config.get("ready_after", 0)

    def on_sigterm(self, *_: object) -> None:
        if not self.config.get("ignore_sigterm"):
            self.ready_at = float("inf")
            self.ended.set()

    def act(self, verb: str, argument: str) -> str:
        if verb == "exit":
            os._exit(int(argument))
        elif verb == "unready":
            self.ready_at = float("inf")
        elif verb == "allocate":
            subprocess.run([sys.executable, "-c", f"bytearray({argument} * 2**20)"], check=False)
        elif verb == "grow":
            self.config["grown"] = bytearray(int(argument) * 2**20)
        elif verb == "log":
            self.log.write("INFO", argument)
        elif verb == "models":
            return json.dumps(sorted(path.name for path in self.models.iterdir()) if self.models else None)
        elif verb == "environ":
            return json.dumps(dict(os.environ) | {"cwd": str(Path.cwd())})
        return "{}"

    def handler(self, *, admin: bool) -> type[BaseHTTPRequestHandler]:
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = 200, "{}"
                if admin and time.monotonic() < replica.ready_at:
                    status = 503
                    reasons = ["0 of 1 workers are ready", replica.config.get("waiting_for", "")]
                    body = json.dumps({"ready": False, "reasons": [each for each in reasons if each]})
                elif not admin:
                    _, verb, argument = (f"{self.path}/").split("/", 2)
                    body = replica.act(verb, argument.rstrip("/"))
                self.send_response(status)
                self.send_header("content-length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module")
    parser.add_argument("release")
    for name in ("--project", "--replica", "--host", "--log-dir"):
        parser.add_argument(name, required=True)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--port", required=True, type=int, action="append")
    parser.add_argument("--admin-port", required=True, type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
