"""What a request costs, layer by layer: the bare server, our replica, the gateway in front.

The same echo everywhere, one worker and one thread, load by wrk on the other core, rounds in turn.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from support.installation import Installation, free_ports, wait_for

ROUNDS = 3
SECONDS = 4
CONNECTIONS = 32

BARE = """
import json
def app(environ, start_response):
    value = json.loads(environ["wsgi.input"].read())
    body = json.dumps(value).encode()
    start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(body)))])
    return [body]
"""

HANDLER = """
class Handler:
    def __init__(self, config):
        pass

    def handle_post(self, payload):
        return payload
"""

CONFIG = """
- name: echo
  kind: RealtimeAPI
  handler:
    type: python
    path: handler.py
"""

SCRIPT = """
wrk.method = "POST"
wrk.body = '{"n": 12345, "values": [1.5, 2.5, 3.5]}'
wrk.headers["content-type"] = "application/json"
"""


def report(cortex: Installation, folder: Path) -> None:
    """Print requests a second and latency of each layer, and the ratio to the bare server."""
    if shutil.which("wrk") is None:
        print("request times: not measured, wrk is not installed (apt-get install wrk)\n")
        return
    script = folder / "echo.lua"
    script.write_text(SCRIPT)
    bare = start_bare(folder)
    try:
        replica = deploy_echo(cortex, folder)
        targets = {
            "granian WSGI, bare": f"http://127.0.0.1:{bare.port}/",
            "replica": f"http://127.0.0.1:{replica}/",
            "gateway and replica": cortex.url("echo"),
        }
        rates: dict[str, list[float]] = {name: [] for name in targets}
        p99s: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(ROUNDS):
            for name, url in targets.items():
                rate, p99 = measure(url, script)
                rates[name].append(rate)
                p99s[name].append(p99)
    finally:
        bare.stop()
    print(f"{'echo, one worker, one thread':<32}{'requests/s':>12}{'p99':>11}{'of bare':>9}")
    base = statistics.median(rates["granian WSGI, bare"])
    for name in targets:
        rate = statistics.median(rates[name])
        print(f"{name:<32}{rate:>12,.0f}{statistics.median(p99s[name]):>8.2f} ms{rate / base:>9.2f}")
    print()


class Bare:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self._process = process

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def start_bare(folder: Path) -> Bare:
    (folder / "bare.py").write_text(BARE)
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "--blocking-threads", "1",
         "--no-ws", "--log-level", "error", "bare:app"],
        cwd=folder, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/"), within=20, what="the bare server")
    return Bare(process, port)


def answers(url: str) -> bool:
    request = urllib.request.Request(url, b"{}", {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def deploy_echo(cortex: Installation, folder: Path) -> int:
    """Deploy the echo; returns its replica's port."""
    project = folder / "echo"
    project.mkdir()
    (project / "handler.py").write_text(HANDLER)
    (project / "cortex.yaml").write_text(CONFIG)
    cortex.run("deploy", "--yes", cwd=project)
    return int(cortex.api("echo")["replicas"][0]["port"])


def measure(url: str, script: Path) -> tuple[float, float]:
    """Requests a second and the 99th percentile in ms, by wrk."""
    time.sleep(0.5)
    output = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script), url],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    failed = re.search(r"(Non-2xx.*|Socket errors.*)", output)
    if failed:
        print(f"  {url}: {failed[1]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    assert rate is not None
    assert p99 is not None
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]
