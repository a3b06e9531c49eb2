"""Envoy as a process: adopted, replaced, alone with its home, and gone when told."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.installation import wait_for
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.envoy import EnvoyGateway
from cortex_operator.gateway.protocol import GatewayFailed, Route, Upstream


def version_at(site: Any, path: str = "/iris") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", site.home.gateway_port, timeout=15)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer.get("version", answer.get("code")))


def at(double: ReplicaDouble) -> Upstream:
    return Upstream(host="127.0.0.1", port=double.port)


def test_the_next_operator_adopts_the_same_envoy(site: Any, replica: Callable[[str], ReplicaDouble]) -> None:
    site.serve(at(replica("first")))
    pid = site.gateway.pid
    site.replace_operator()
    assert version_at(site) == "first", "it serves while no operator is there"
    site.open()
    assert site.gateway.pid == pid
    site.serve(at(replica("second")))
    assert version_at(site) == "second"
    psutil.Process(pid).kill()
    wait_for(lambda: site.gateway.pid not in (pid, None), within=5, what="an adopted Envoy is restarted too")
    assert version_at(site) == "second"


def test_an_envoy_of_another_configuration_is_replaced(
    site: Any, replica: Callable[[str], ReplicaDouble]
) -> None:
    site.serve(at(replica("1")))
    old = psutil.Process(site.gateway.pid)
    site.run(site.gateway.close())
    site.gateway = EnvoyGateway(site.home, address="127.0.0.2")
    site.open()
    assert not old.is_running()
    connection = http.client.HTTPConnection("127.0.0.2", site.home.gateway_port, timeout=15)
    connection.request("GET", "/iris")
    assert connection.getresponse().status == 200
    connection.close()


def test_an_operator_that_dies_leaves_envoy_running(tmp_path: Path, new_site: Callable[[], Any]) -> None:
    site = new_site()
    code = (
        "import asyncio, os, signal, sys, pathlib\n"
        "from cortex_core.home import Home\n"
        "from cortex_operator.gateway.envoy import EnvoyGateway\n"
        "async def main():\n"
        "    home = Home(root=pathlib.Path(sys.argv[1]), gateway_port=int(sys.argv[2]))\n"
        "    gateway = EnvoyGateway(home)\n"
        "    await gateway.open()\n"
        "    print(gateway.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", code, str(site.home.root), str(site.home.gateway_port)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -9, done.stderr
    site.open()
    assert site.gateway.pid == int(done.stdout)
    assert version_at(site) == "not_found"


def test_shutdown_leaves_nothing_behind(site: Any, replica: Callable[[str], ReplicaDouble]) -> None:
    site.serve(at(replica("1")))
    process = psutil.Process(site.gateway.pid)
    site.run(site.gateway.shutdown())
    assert not process.is_running()
    with pytest.raises(ConnectionRefusedError):
        version_at(site)
    site.run(site.gateway.shutdown())
    site.open()
    assert version_at(site) == "not_found", "what was routed before is forgotten"


def test_two_homes_live_side_by_side(
    new_site: Callable[[], Any], replica: Callable[[str], ReplicaDouble]
) -> None:
    first, second = new_site().open(), new_site().open()
    first.serve(at(replica("first")))
    second.serve(at(replica("second")))
    assert (version_at(first), version_at(second)) == ("first", "second")
    first.run(first.gateway.shutdown())
    assert version_at(second) == "second"


def test_a_taken_port_is_explained(new_site: Callable[[], Any]) -> None:
    site = new_site()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", site.home.gateway_port))
        holder.listen()
        with pytest.raises(GatewayFailed) as failure:
            site.open()
    me = psutil.Process()
    assert failure.value.message.startswith(
        f"the gateway cannot listen on 127.0.0.1:{site.home.gateway_port}: Address already in use; "
        f"it belongs to process {me.pid} ("
    )
    assert failure.value.hint is not None
    assert "CORTEX_GATEWAY_PORT" in failure.value.hint
    site.open()


def test_two_homes_on_one_port_do_not_share_it(new_site: Callable[[], Any]) -> None:
    first, second = new_site().open(), new_site()
    second.home = type(first.home)(root=first.home.root.parent / "x", gateway_port=first.home.gateway_port)
    second.home.create()
    second.gateway = EnvoyGateway(second.home)
    with pytest.raises(GatewayFailed, match=r"Address already in use; it belongs to process \d+ \("):
        second.open()


def test_a_configuration_that_envoy_refuses_changes_nothing(
    site: Any, replica: Callable[[str], ReplicaDouble]
) -> None:
    upstream = at(replica("good"))
    site.serve(upstream)
    with pytest.raises(GatewayFailed, match=r"Envoy did not take the routes: .*malformed IP address"):
        site.serve(Upstream(host="no-such-host", port=1))
    assert version_at(site) == "good"
    psutil.Process(site.gateway.pid).kill()
    wait_for(lambda: _answers(site), within=5, what="back with the good configuration")
    assert version_at(site) == "good"
    bad = Route(api="bad", endpoint="/bad", upstreams=(upstream,), max_concurrency=-1)
    with pytest.raises(GatewayFailed):
        site.run(site.gateway.apply([bad]))
    site.serve(upstream)
    assert version_at(site) == "good"


def test_the_log_is_bounded(new_site: Callable[[], Any]) -> None:
    site = new_site()
    site.gateway = EnvoyGateway(site.home, log_limit=100)
    site.open()
    with pytest.raises(GatewayFailed):
        site.serve(Upstream(host="no-such-host", port=1))
    log = site.home.gateway / "envoy.log"
    wait_for(lambda: log.stat().st_size == 0, within=10, what="the log is put aside")
    assert "no-such-host" in log.with_name("envoy.log.1").read_text()
    with pytest.raises(GatewayFailed, match="another-host"):
        site.serve(Upstream(host="another-host", port=1))


def test_everything_is_private_and_only_the_gateway_port_is_open(site: Any) -> None:
    listening = [
        connection.laddr[:2]
        for connection in psutil.Process(site.gateway.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {("127.0.0.1", site.home.gateway_port)}
    for path in site.home.gateway.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_home_with_a_very_long_path_works(tmp_path: Path, new_site: Callable[[], Any]) -> None:
    site = new_site()
    site.home = type(site.home)(root=tmp_path / ("x" * 120), gateway_port=site.home.gateway_port)
    site.home.create()
    site.gateway = EnvoyGateway(site.home)
    site.open()
    assert version_at(site) == "not_found"


def _answers(site: Any) -> bool:
    try:
        version_at(site)
    except OSError:
        return False
    return True
