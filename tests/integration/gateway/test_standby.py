"""Nobody is refused while Envoy is dead: connections wait for the next one. And a port has one gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.installation import free_ports, wait_for
from support.load import Load, load
from support.replica_double import ReplicaDouble

from cortex_operator.gateway.protocol import GatewayFailed, Upstream
from cortex_operator.gateway.standby import MOST_RELAYED, PATIENCE, Standby

CONNECTIONS = 8


def at(double: ReplicaDouble) -> Upstream:
    return Upstream(host="127.0.0.1", port=double.port)


# --- with the real Envoy --------------------------------------------------------------------------------------


def kill_envoy(site: Any) -> None:
    os.kill(site.gateway.pid, signal.SIGKILL)


def failures_of_a_kill(site: Any, running: Load) -> list[str]:
    """Kill Envoy under load and wait until each connection has been answered many times again."""
    before, dead = running.so_far(), site.gateway.pid
    kill_envoy(site)
    wait_for(lambda: site.gateway.pid not in (dead, None), within=5, what="Envoy is back")
    back = running.so_far().answers
    wait_for(lambda: running.so_far().answers > back + 20 * CONNECTIONS, within=5, what="at full strength")
    return running.so_far().failures[len(before.failures) :]


@pytest.mark.parametrize("adopted", [False, True])
def test_a_kill_loses_only_what_was_in_flight(
    site: Any, replica: Callable[[str], ReplicaDouble], adopted: bool
) -> None:
    site.serve(at(replica("1")))
    lost = []
    with load(f"{site.url}/iris", connections=CONNECTIONS, pause=0.002) as running:
        wait_for(lambda: running.so_far().answers > 100, within=5, what="load")
        for _ in range(10):
            if adopted:
                site.replace_operator()
                site.open()
            lost.append(failures_of_a_kill(site, running))
    print([len(each) for each in lost], {each for kill in lost for each in kill})
    assert max(map(len, lost)) <= CONNECTIONS, lost
    assert not [failure for kill in lost for failure in kill if "refused" in failure], lost
