"""Publishes versions of a model, good and broken, and the project that serves them.

A model is three files, each full of one number, which the handler answers with; so an answer made from the files of
two versions shows. Broken versions fail in one of five ways.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from support.buckets import client
from support.projects import write_api

Fault = Literal["raises", "hangs", "dies", "eats memory", "is corrupt"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

FILES = ("first.txt", "second.txt", "deeper/third.txt")
FAULT_FILE = "fault.txt"
MANIFEST = "cortex-manifest.json"
LINES = 1000

HANDLER = """
import os
import signal
import time
from pathlib import Path

FILES = ("first.txt", "second.txt", "deeper/third.txt")


class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        folder = Path(model_path)
        fault = folder / "fault.txt"
        if fault.exists():
            fail(fault.read_text())
        lines = [line for name in FILES for line in read(folder / name)]
        return {"contents": sorted({int(line) for line in lines}), "folder": folder.name}

    def handle_post(self, payload):
        model = self.client.get_model()
        return {"n": payload["n"], "version": model["contents"][0], **model}


def read(file):
    *lines, end = file.read_text().split()
    if end != "end":
        raise ValueError(f"{file.name} is cut off")
    return lines


def fail(fault):
    if fault == "raises":
        raise ValueError("the weights are of another shape")
    if fault == "hangs":
        time.sleep(3600)
    if fault == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)  # a signal may go to another thread, and this one on for a moment
    if fault == "eats memory":
        eaten = [bytearray(os.urandom(1024) * 16 * 1024) for _ in range(64)]
        raise MemoryError(f"{len(eaten)} × 16 MiB were not enough")
"""


class Place(Protocol):
    """Where versions are published."""

    location: str

    def publish(self, version: int, fault: Fault | None = None) -> float:
        """Put a version there, all at once as far as that is possible.

        Returns:
            when it was there, by the monotonic clock.
        """
        ...


class Directory:
    """A directory of versions; one appears by rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)
        path.mkdir(parents=True, exist_ok=True)

    def publish(self, version: int, fault: Fault | None = None) -> float:
        partial = self.path.with_name(f"{self.path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in files(version, fault).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        partial.rename(self.path / str(version))
        return time.monotonic()


class Prefix:
    """A prefix in a bucket, with a directory for each version.

    Args:
        port: of the S3 server at 127.0.0.1.
        described: whether versions have a manifest.
    """

    def __init__(self, port: int, bucket: str, prefix: str = "models", *, described: bool = False) -> None:
        self.location = f"s3://{bucket}/{prefix}/"
        self._client = client(port)
        self._bucket = bucket
        self._prefix = prefix
        self._described = described

    def publish(self, version: int, fault: Fault | None = None) -> float:
        contents = files(version, fault)
        if self._described and MANIFEST not in contents:
            contents[MANIFEST] = manifest(contents)
        return self.upload(str(version), contents)

    def upload(
        self,
        folder: str,
        contents: Mapping[str, bytes],
        *,
        order: Sequence[str] | None = None,
        pause: float = 0,
    ) -> float:
        """Put files below a version's directory one after the other; returns when the last one was there."""
        for name in order if order is not None else contents:
            self._client.put_object(
                Bucket=self._bucket, Key=f"{self._prefix}/{folder}/{name}", Body=contents[name]
            )
            time.sleep(pause)
        return time.monotonic() - pause


def files(number: int, fault: Fault | None = None) -> dict[str, bytes]:
    """A model's files by relative path; what `is corrupt` has a manifest that a file contradicts."""
    content = f"{number}\n".encode() * LINES + b"end\n"
    result = dict.fromkeys(FILES, content)
    if fault == "is corrupt":
        damaged = b"x" + content[1:]
        return {**result, "second.txt": damaged, MANIFEST: manifest(result)}
    if fault is not None:
        result[FAULT_FILE] = fault.encode()
    return result


def manifest(contents: Mapping[str, bytes]) -> bytes:
    """What `cortex manifest` would write beside these files."""
    described = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    return json.dumps({"files": described}).encode()


def fault_of(version: int) -> Fault | None:
    """Every fifth version is broken, in each of the ways in turn."""
    return FAULTS[version // 5 % len(FAULTS)] if version % 5 == 0 else None


def write_project(
    folder: Path, location: str, *, name: str = "swapped", processes: int = 2, extra: str = ""
) -> None:
    """A project that serves the model at a location.

    Args:
        extra: further lines of `multi_model_reloading`.
    """
    reloading = f"    multi_model_reloading:\n      path: {location}\n      load_timeout: 2s\n{extra}"
    write_api(folder, HANDLER, name=name, processes=processes, more=f"{reloading}  compute: {{mem: 1Gi}}\n")
