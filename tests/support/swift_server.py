"""A second S3 beside moto: OpenStack Swift with its S3 API, one node of it, at ports of 127.0.0.1 the kernel picks.

    PYTHONPATH=tests python -m support.swift_server COMMAND...

installs Swift where it is missing (Debian, Ubuntu; as root), starts it in a folder of its own, runs the command with
`CORTEX_TEST_S3_PORT` set to its port, ends all it has started, and exits as the command did.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.buckets import ACCESS_KEY, ENVIRONMENT, SECRET_KEY
from support.installation import free_ports

PACKAGES = ("swift-proxy", "swift-account", "swift-container", "swift-object", "memcached")
START_SECONDS = 60
STOP_SECONDS = 10

_CONF = """\
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = only
default = yes
"""

_STORE = """\
[DEFAULT]
devices = {folder}/disks
mount_check = false
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
recon_cache_path = {folder}
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes "
    "symlink proxy-server"
)
"""In this order: versioning needs symlinks, CopyObject needs copy."""

_PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = {pipeline}
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memory}
[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false
allow_multipart_uploads = true
[filter:tempauth]
use = egg:swift#tempauth
user_{account} = {secret} .admin .reseller_admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""

_PLAIN_FILTERS = (
    "catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "slo", "dlo", "symlink",
)  # fmt: skip


def install() -> None:
    """Have Swift on this machine.

    Raises:
        SystemExit: it is not, and cannot be installed.
    """
    commands = ("swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server",
                "swift-ring-builder", "memcached", "setpriv")  # fmt: skip
    missing = [command for command in commands if shutil.which(command) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        sys.exit(f"{', '.join(missing)}: not found; as root on Debian: apt-get install {' '.join(PACKAGES)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet, timeout=300)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
        check=True, env=quiet, stdout=subprocess.DEVNULL, timeout=600,
    )  # fmt: skip


@contextmanager
def running_swift() -> Iterator[int]:
    """The port of its S3 API at 127.0.0.1. It accepts the keys of `support.buckets`.

    Its data lies in a temporary folder on a file system with extended attributes. Its processes end with this one,
    however it ends.
    """
    with tempfile.TemporaryDirectory(prefix="swift-") as name, ExitStack() as running:
        folder = Path(name)
        ports = dict(zip(("account", "container", "object", "proxy", "memory"), free_ports(5), strict=True))
        _configure(folder, ports)
        memory = ("memcached", "-l", "127.0.0.1", "-p", str(ports["memory"]), "-u", _user(), "-m", "16")
        running.enter_context(_process(memory, folder / "memcached.log"))
        for kind in ("account", "container", "object", "proxy"):
            argv = (f"swift-{kind}-server", str(folder / f"{kind}-server.conf"))
            running.enter_context(_process(argv, folder / f"{kind}.log"))
        _wait(ports["proxy"], folder)
        yield ports["proxy"]


def _configure(folder: Path, ports: Mapping[str, int]) -> None:
    (folder / "disks/d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(_CONF)
    for kind in ("account", "container", "object"):
        text = _STORE.format(folder=folder, user=_user(), kind=kind, port=ports[kind])
        (folder / f"{kind}-server.conf").write_text(text)
        for words in (
            ("create", "4", "1", "1"),
            ("add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"),
            ("rebalance",),
        ):
            argv = ["swift-ring-builder", str(folder / f"{kind}.builder"), *words]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)
    proxy = _PROXY.format(
        folder=folder, user=_user(), port=ports["proxy"], memory=ports["memory"], pipeline=_PIPELINE,
        region=ENVIRONMENT["AWS_DEFAULT_REGION"], account=ACCESS_KEY.replace(":", "_"), secret=SECRET_KEY,
    )  # fmt: skip
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _PLAIN_FILTERS)
    (folder / "proxy-server.conf").write_text(proxy + filters)


def _user() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _process(argv: tuple[str, ...], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def _wait(port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                logs = "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in folder.glob("*.log"))
                raise TimeoutError(f"Swift did not start within {START_SECONDS} s\n{logs}") from error
            time.sleep(0.1)


def main() -> int:
    install()
    with running_swift() as port:
        environ = {**os.environ, "CORTEX_TEST_S3_PORT": str(port)}
        return subprocess.run(sys.argv[1:], env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
