"""The rules of one API that a schema cannot say: what crosses fields, and what must be in the project.

Each rule is a function that yields what it finds; it stays silent about values that are wrong already. Rules
that look at several APIs are in `neighbours`. The ids are those of docs/rules.md.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from heapq import nsmallest
from typing import TYPE_CHECKING, Protocol

from cortex_core.spec import handler_file, proto, schema
from cortex_core.spec.contracts import CONTRACTS, Contract, with_batching, with_models
from cortex_core.spec.endpoint import canonical
from cortex_core.spec.problems import Finding, clipped, closest, listed, shown
from cortex_core.spec.units import parse_duration, parse_quantity
from cortex_core.spec.view import View

if TYPE_CHECKING:
    from cortex_core.spec.proto_compiler import Compiled

SECOND = 10**9
LONGEST_DURATION = 2**63 - 1
LOCATIONS = ("path", "paths", "dir")
MODEL_SECTIONS = ("handler.models", "handler.multi_model_reloading")
NEURON_CORES = 4
MOST_CANDIDATES = 100


class ProjectFiles(Protocol):
    """The files that are shipped."""

    @property
    def files(self) -> Collection[str]:
        """Relative paths with `/`."""

    def read(self, path: str) -> bytes:
        """The content of one of the files.

        Raises:
            OSError: it cannot be read.
        """


def check(api: View, project: ProjectFiles | None) -> Iterator[Finding]:
    """Apply every rule to one API.

    Args:
        project: None leaves out the rules about files.
    """
    for rule in _RULES:
        yield from rule(api)
    if project is not None:
        for file_rule in _FILE_RULES:
            yield from file_rule(api, project)


def model_location(api: View) -> Iterator[Finding]:
    """S-03, S-04: exactly one of path, paths and dir."""
    for section in MODEL_SECTIONS:
        if not api.has(section) or not api.is_sound(section):
            continue
        given = [key for key in LOCATIONS if api.get(f"{section}.{key}")]
        if len(given) == 2:
            yield api.finding(
                section, f"{listed([f'{key!r}' for key in given])} conflict; keep one of them", at_key=True
            )
        elif len(given) != 1:
            found = "none is given" if not given else "all three are given"
            yield api.finding(section, f"specify only one of 'path', 'paths' and 'dir'; {found}", at_key=True)


def model_names(api: View) -> Iterator[Finding]:
    """S-35: no model is listed twice."""
    for section in MODEL_SECTIONS:
        models = api.get(f"{section}.paths") if api.is_sound(f"{section}.paths") else None
        seen = set[str]()
        for index, model in enumerate(models or ()):
            if model["name"] in seen:
                message = f"the model name {shown(model['name'])} is used twice; names must be unique"
                yield api.finding(f"{section}.paths", message, index, "name")
            seen.add(model["name"])


def cache_sizes(api: View) -> Iterator[Finding]:
    """S-07, S-08: both cache sizes or none, and memory within disk."""
    for section in MODEL_SECTIONS:
        memory, disk = f"{section}.cache_size", f"{section}.disk_cache_size"
        if not (api.has(memory) or api.has(disk)) or not api.is_sound(memory, disk):
            continue
        if not (api.has(memory) and api.has(disk)):
            given = "cache_size" if api.has(memory) else "disk_cache_size"
            message = f"give both 'cache_size' and 'disk_cache_size', or neither; only '{given}' is given"
            yield api.finding(section, message, at_key=True)
        elif api.get(memory) > api.get(disk):
            message = (
                f"cache_size ({api.get(memory)}) cannot be greater than disk_cache_size ({api.get(disk)})"
            )
            yield api.finding(memory, message)


def caching_processes(api: View) -> Iterator[Finding]:
    """S-09: what all processes may hold fits on the disk they share; the cache of a model server is for one."""
    processes_path = "handler.processes_per_replica"
    values = api.values(processes_path)
    if values is None or values[0] == 1:
        return
    [processes] = values
    for section in MODEL_SECTIONS:
        memory, disk = f"{section}.cache_size", f"{section}.disk_cache_size"
        if not (api.has(memory) and api.has(disk)) or not api.is_sound(memory, disk):
            continue
        held = api.get(memory) * processes
        if section == "handler.models":
            message = f"must be 1 with model caching (cache_size, disk_cache_size), got {processes}"
            yield api.finding(processes_path, message)
        elif api.get(memory) <= api.get(disk) < held:
            product = f"{api.get(memory)} × {processes} = {held}"
            message = (
                f"cache_size × processes_per_replica ({product}) cannot be greater than "
                f"disk_cache_size ({api.get(disk)})"
            )
            yield api.finding(memory, message)


def batch_size(api: View) -> Iterator[Finding]:
    """S-11, S-12: with tensorflow, a request that waits for a batch holds a thread; larger ones could not fill."""
    size_path = "handler.server_side_batching.max_batch_size"
    values = api.values(
        "handler.type",
        size_path,
        "handler.processes_per_replica",
        "handler.threads_per_process",
        "compute.inf",
    )
    if values is None or values[1] is None:
        return
    kind, size, processes, threads, inf = values
    if kind == "tensorflow" and not inf and size > processes * threads:
        most = (
            f"processes_per_replica × threads_per_process ({processes} × {threads} = {processes * threads})"
        )
        message = f"max_batch_size ({size}) cannot be greater than {most}"
        yield api.finding(size_path, message)
    elif kind == "tensorflow" and inf and size > threads:
        message = (
            f"max_batch_size ({size}) cannot be greater than threads_per_process ({threads}) with Inferentia"
        )
        yield api.finding(size_path, message)


def batch_timing(api: View) -> Iterator[Finding]:
    """S-38: batches leave after an interval, or in time for a target."""
    section = "handler.server_side_batching"
    interval, target = f"{section}.batch_interval", f"{section}.target_latency"
    if api.is_sound("handler.type", interval, target) and api.has(interval) and api.has(target):
        message = "'batch_interval' and 'target_latency' conflict; keep one of them"
        yield api.finding(section, message, at_key=True)


def batches_in_time(api: View) -> Iterator[Finding]:
    """S-39: batches leave before their requests' time is up, if the API says when that is."""
    timeout_path = "handler.request_timeout"
    for key, consequence in _BATCH_DURATIONS.items():
        path = f"handler.server_side_batching.{key}"
        values = api.values(path, timeout_path)
        if values is None or None in values:
            continue
        if parse_duration(values[0]) >= parse_duration(values[1]):
            duration, timeout = map(clipped, values)
            message = f"{key} ({duration}) must be less than request_timeout ({timeout}): {consequence}"
            yield api.finding(path, message)


_BATCH_DURATIONS = {
    "batch_interval": "a request that waits alone would be answered 504",
    "target_latency": "requests would be answered 504 before they are late",
}


def grpc_without_batching(api: View) -> Iterator[Finding]:
    """S-15: no server_side_batching over gRPC."""
    protobuf, batching = "handler.protobuf_path", "handler.server_side_batching"
    if api.is_sound("kind", protobuf, "handler.type") and api.has(protobuf) and api.has(batching):
        yield api.finding(
            batching, "'protobuf_path' and 'server_side_batching' conflict; keep one of them", at_key=True
        )


def durations(api: View) -> Iterator[Finding]:
    """V-07, V-08: durations lie within their bounds."""
    for path, least in _LEAST_DURATIONS.items():
        values = api.values(path)
        if values is None or values[0] is None:
            continue
        text, nanoseconds = values[0], parse_duration(values[0])
        if nanoseconds > LONGEST_DURATION:
            yield api.finding(path, f"must be less than 292 years, got {shown(text)}")
        elif nanoseconds < least:
            bound = "greater than 0s" if least == 1 else f"at least {least // SECOND}s"
            yield api.finding(path, f"must be {bound}, got {shown(text)}")
        elif path == "autoscaling.window" and nanoseconds % (10 * SECOND):
            yield api.finding(path, f"must be a multiple of 10s, got {shown(text)}")


_LEAST_DURATIONS = {
    "autoscaling.window": 10 * SECOND,
    "autoscaling.downscale_stabilization_period": 0,
    "autoscaling.upscale_stabilization_period": 0,
    "handler.request_timeout": SECOND,
    "handler.server_side_batching.batch_interval": 1,
    "handler.server_side_batching.target_latency": 1,
    "handler.models.load_timeout": SECOND,
    "handler.multi_model_reloading.load_timeout": SECOND,
}


def least_compute(api: View) -> Iterator[Finding]:
    """K-30: least cpu and mem."""
    for path, least in (("compute.cpu", "20m"), ("compute.mem", "20Mi")):
        values = api.values(path)
        if values is None or values[0] is None:
            continue
        if parse_quantity(str(values[0])) < parse_quantity(least):
            yield api.finding(path, f"must be at least {least}, got {shown(values[0])}")


def shared_memory(api: View) -> Iterator[Finding]:
    """S-20: shm_size fits into mem."""
    for path in ("handler.shm_size", "definition.shm_size"):
        values = api.values(path, "compute.mem")
        if values is None or None in values:
            continue
        size, memory = values
        if parse_quantity(size) > parse_quantity(memory):
            yield api.finding(path, f"shm_size ({size}) cannot be greater than compute.mem ({memory})")


def accelerators(api: View) -> Iterator[Finding]:
    """S-21, S-23: a GPU or an Inferentia chip, whose cores the processes share evenly."""
    values = api.values("compute.gpu", "compute.inf")
    if values is None or not values[1]:
        return
    if values[0]:
        message = f"cannot be combined: gpu is {values[0]} and inf is {values[1]}; keep one of them"
        yield api.finding("compute", message, at_key=True)
    processes = api.values("handler.processes_per_replica")
    if processes is not None and NEURON_CORES * values[1] % processes[0]:
        message = f"must be 1, 2 or 4 with one Inferentia chip, got {processes[0]}"
        yield api.finding("handler.processes_per_replica", message)


def target_concurrency(api: View) -> Iterator[Finding]:
    """S-24: the target concurrency, given or default, is at most the largest."""
    target_path, most_path = "autoscaling.target_replica_concurrency", "autoscaling.max_replica_concurrency"
    values = api.values(
        target_path, most_path, "handler.processes_per_replica", "handler.threads_per_process"
    )
    if values is None or api.kind not in ("RealtimeAPI", "AsyncAPI"):
        return
    target, most, processes, threads = values
    if target is not None and target > most:
        message = (
            f"target_replica_concurrency ({target}) cannot be greater than max_replica_concurrency ({most})"
        )
        yield api.finding(target_path, message)
    elif target is None and processes * threads > most:
        product = f"{processes} × {threads} = {processes * threads}"
        message = (
            f"max_replica_concurrency ({most}) cannot be less than target_replica_concurrency, "
            f"which is processes_per_replica × threads_per_process ({product}) unless it is given"
        )
        given = most_path if api.has(most_path) else "handler.threads_per_process"
        yield api.finding(given, message)


def replica_counts(api: View) -> Iterator[Finding]:
    """S-25, S-26: min_replicas ≤ init_replicas ≤ max_replicas."""
    values = api.values("autoscaling.min_replicas", "autoscaling.max_replicas")
    if values is None:
        return
    fewest, most = values
    if fewest > most:
        given = (
            "autoscaling.min_replicas" if api.has("autoscaling.min_replicas") else "autoscaling.max_replicas"
        )
        yield api.finding(given, f"min_replicas ({fewest}) cannot be greater than max_replicas ({most})")
        return
    initial = api.get("autoscaling.init_replicas") if api.is_sound("autoscaling.init_replicas") else None
    if initial is not None and initial > most:
        message = f"init_replicas ({initial}) cannot be greater than max_replicas ({most})"
        yield api.finding("autoscaling.init_replicas", message)
    elif initial is not None and initial < fewest:
        message = f"init_replicas ({initial}) cannot be less than min_replicas ({fewest})"
        yield api.finding("autoscaling.init_replicas", message)


def surge_or_unavailable(api: View) -> Iterator[Finding]:
    """S-27: a rolling update can take a step."""
    values = api.values("update_strategy.max_surge", "update_strategy.max_unavailable")
    if values is not None and all(value in (0, "0%") for value in values):
        message = "max_surge and max_unavailable cannot both be zero: no replica could be replaced"
        yield api.finding("update_strategy", message, at_key=True)


def splitter_weights(api: View) -> Iterator[Finding]:
    """S-28: the weights total 100."""
    if api.kind != "TrafficSplitter" or not api.is_sound("apis"):
        return
    total = sum(target["weight"] for target in api.get("apis") or () if not target.get("shadow", False))
    if total != 100:
        yield api.finding("apis", f"the weights (without shadow) must total 100, got {total}", at_key=True)


def splitter_targets(api: View) -> Iterator[Finding]:
    """S-29, S-30: each API once, and at most one shadow."""
    if api.kind != "TrafficSplitter" or not api.is_sound("apis"):
        return
    seen, shadows = set[str](), 0
    for index, target in enumerate(api.get("apis") or ()):
        if target["name"] in seen:
            yield api.finding(
                "apis", f"{shown(target['name'])} is listed twice; list each API once", index, "name"
            )
        seen.add(target["name"])
        shadows += target.get("shadow", False)
        if target.get("shadow", False) and shadows > 1:
            yield api.finding("apis", "only one API of a traffic splitter can be the shadow", index, "shadow")


def source_file(api: View, project: ProjectFiles) -> Iterator[Finding]:
    """K-11: `path` is a file of the project."""
    for path in ("handler.path", "definition.path"):
        if api.is_sound(path) and api.has(path):
            yield from _missing_file(api, path, project)


def handler_class(api: View, project: ProjectFiles) -> Iterator[Finding]:
    """H-01 to H-05, H-07 to H-09: the file of a handler can be parsed, and has the class that is needed."""
    for path, class_name in (("handler.path", "Handler"), ("definition.path", "Task")):
        if not api.is_sound("kind", path) or not api.has(path):
            continue
        file = api.get(path)
        if file not in project.files or not file.endswith(".py"):
            continue
        try:
            source = project.read(file)
        except OSError as error:
            yield api.finding(path, f"cannot be read: {error.strerror or error}")
            continue
        contract = _contract(api) if class_name == "Handler" else CONTRACTS["TaskAPI", "python", None]
        rpcs = _rpcs(api, project) if contract is not None and contract.rpc is not None else ()
        for problem in handler_file.problems(
            source, file, class_name=class_name, contract=contract, rpcs=rpcs
        ):
            yield api.finding(path, problem)


def _contract(api: View) -> Contract | None:
    values = api.values("handler.type", "handler.protobuf_path")
    if values is None or api.kind is None:
        return None
    kind, protobuf = values
    if api.kind != "RealtimeAPI":
        return CONTRACTS.get((api.kind, kind, None))
    contract = CONTRACTS.get((api.kind, kind, "grpc" if protobuf else "http"))
    if contract is None or kind != "python":
        return contract
    contract = with_models(contract) if api.has("handler.multi_model_reloading") else contract
    return with_batching(contract) if api.has("handler.server_side_batching") and not protobuf else contract


def dependency_files(api: View, project: ProjectFiles) -> Iterator[Finding]:
    """K-19: a file of dependencies that is not the default one is in the project."""
    for section in ("handler.dependencies", "definition.dependencies"):
        for key in ("pip", "conda", "shell"):
            path = f"{section}.{key}"
            if not api.is_sound(path) or not api.has(path):
                continue
            file = posixpath.normpath(api.get(path))
            if file != schema.keys()[path].default and file not in project.files:
                yield from _missing_file(api, path, project)


def python_path(api: View, project: ProjectFiles) -> Iterator[Finding]:
    """K-13: `python_path` is a folder with at least one shipped file."""
    for path in ("handler.python_path", "definition.python_path"):
        if not api.is_sound(path) or not api.has(path):
            continue
        folder = normalized_python_path(api.get(path))
        if not any(file.startswith(folder) for file in project.files):
            message = f"the folder {shown(api.get(path))} does not exist or was excluded from the project"
            yield api.finding(path, message)


def normalized_python_path(text: str) -> str:
    """Without a leading `./`, with a trailing slash, as the paths in a project are written."""
    return "".join(f"{part}/" for part in text.split("/") if part not in ("", "."))


def grpc_service(api: View, project: ProjectFiles) -> Iterator[Finding]:
    """S-14, S-16, S-17, H-06: one service, in the package named like the API, at the only endpoint; it compiles."""
    path = "handler.protobuf_path"
    if not api.is_sound(path) or not api.has(path):
        return
    missing = list(_missing_file(api, path, project))
    if missing:
        yield from missing
        return
    try:
        source = project.read(api.get(path))
    except OSError as error:
        yield api.finding(path, f"cannot be read: {error.strerror or error}")
        return
    found = proto.read(source)
    yield from _service_count(api, path, found, source)
    yield from _package(api, path, found, source)
    yield from _grpc_endpoint(api, found)
    compiled = _compiled(api.get(path), project)
    for problem in compiled.problems if compiled is not None else ():
        yield api.finding(path, problem)


def _rpcs(api: View, project: ProjectFiles) -> tuple[str, ...]:
    """The names of an API's RPCs; none where `grpc_service` has something to say about the file."""
    path = api.get("handler.protobuf_path")
    compiled = _compiled(path, project) if path in project.files else None
    services = list(compiled.services.values()) if compiled is not None else []
    return tuple(rpc.name for rpc in services[0]) if len(services) == 1 else ()


def _compiled(path: str, project: ProjectFiles) -> Compiled | None:
    """None if it cannot be known."""
    from cortex_core.spec.proto_compiler import Compiled, compiled, is_installed

    if not is_installed():
        return None

    def read(name: str) -> bytes | None:
        return project.read(name) if name in project.files else None

    try:
        return compiled(path, proto.closure(path, read))
    except OSError as error:
        return Compiled(problems=(f"cannot be compiled: {error.strerror or error}",))


def grpc_endpoint(name: str, source: bytes) -> str:
    """The only endpoint a gRPC API can have (S-17)."""
    found = proto.read(source)
    return f"/{found.package or name}.{found.services[0]}"


def _service_count(api: View, path: str, found: proto.Proto, source: bytes) -> Iterator[Finding]:
    rule = f"the file must define exactly one service, found {len(found.services)}"
    if not found.services:
        yield api.finding(path, rule)
    elif len(found.services) > 1:
        second = proto.place(api.get(path), source, found.services[1], found.services_at[1])
        yield api.finding(path, second.told(f"{rule}: {', '.join(found.services)}"))


def _package(api: View, path: str, found: proto.Proto, source: bytes) -> Iterator[Finding]:
    if api.name is None:
        return
    wanted = _package_of(api.name)
    if found.package is None or found.package_at is None:
        yield api.finding(path, f"the file must name its package; add 'package {wanted};'")
    elif found.package != wanted:
        place = proto.place(api.get(path), source, found.package, found.package_at)
        rule = f"the file's package must be '{wanted}' (the API's name), got '{found.package}'"
        yield api.finding(path, place.told(rule))


def _grpc_endpoint(api: View, found: proto.Proto) -> Iterator[Finding]:
    endpoint = api.values("networking.endpoint")
    if endpoint is None or endpoint[0] is None or api.name is None or len(found.services) != 1:
        return
    only = f"/{_package_of(api.name)}.{found.services[0]}"
    if canonical(endpoint[0]) != only:
        message = f"a gRPC API can only have the endpoint '{only}' (the default), got {shown(endpoint[0])}"
        yield api.finding("networking.endpoint", message)


def _package_of(api: str) -> str:
    """The package that the .proto file of an API has."""
    return api.replace("-", "_")


def _missing_file(api: View, path: str, project: ProjectFiles) -> Iterator[Finding]:
    file = api.get(path)
    if file in project.files:
        return
    meant = closest(file.removeprefix("./"), _candidates(file, project))
    advice = f"; did you mean '{meant}'?" if meant else ""
    yield api.finding(path, f"the file {shown(file)} does not exist or was excluded from the project{advice}")


def _candidates(file: str, project: ProjectFiles) -> list[str]:
    """Files in the same folder or with the same name; comparing with all of a large project takes too long."""
    folder, _, name = file.removeprefix("./").rpartition("/")
    splits = ((candidate, candidate.rpartition("/")) for candidate in project.files)
    similar = (candidate for candidate, split in splits if split[0] == folder or split[2] == name)
    return nsmallest(MOST_CANDIDATES, similar, key=lambda other: (abs(len(other) - len(file)), other))


_RULES = (
    model_location,
    model_names,
    cache_sizes,
    caching_processes,
    batch_size,
    batch_timing,
    batches_in_time,
    grpc_without_batching,
    durations,
    least_compute,
    shared_memory,
    accelerators,
    target_concurrency,
    replica_counts,
    surge_or_unavailable,
    splitter_weights,
    splitter_targets,
)
_FILE_RULES = (source_file, handler_class, dependency_files, python_path, grpc_service)
