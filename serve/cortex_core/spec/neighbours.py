"""The rules that look at several APIs: those of one file, and those that are deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cortex_core.spec.endpoint import canonical
from cortex_core.spec.problems import Finding, listed, shown
from cortex_core.spec.types import Api, RealtimeAPI, TrafficSplitter, kind_of
from cortex_core.spec.view import View


def check(apis: Sequence[View], deployed: Sequence[Api] | None) -> Iterator[Finding]:
    """Apply every rule.

    Args:
        apis: those of the file.
        deployed: those that are deployed now; None leaves out the rules about them.
    """
    by_name = {api.name: api for api in reversed(apis) if api.name is not None}
    others = [other for other in deployed or () if other.name not in by_name]
    owners = {canonical(other.networking.endpoint): other.name for other in others}
    other_names = None if deployed is None else {other.name: other for other in others}
    yield from unique_names(apis)
    yield from unique_endpoints(apis)
    for api in apis:
        yield from splitter_targets(api, by_name, other_names)
        yield from free_endpoint(api, owners)
    for other in deployed or ():
        if other.name in by_name:
            yield from kept_kind(by_name[other.name], other)
            yield from kept_protocol(by_name[other.name], other, others)


def users_of(name: str, deployed: Sequence[Api]) -> tuple[str, ...]:
    """The traffic splitters that send requests to an API; it cannot be deleted while there are any (S-34)."""
    return tuple(
        api.name
        for api in deployed
        if isinstance(api, TrafficSplitter) and any(target.name == name for target in api.apis)
    )


def unique_names(apis: Sequence[View]) -> Iterator[Finding]:
    """F-09: every name occurs once."""
    first = dict[str, View]()
    for api in apis:
        if api.name is not None and first.setdefault(api.name, api) is not api:
            message = f"the name '{api.name}' is used twice in this file; names must be unique"
            yield api.finding("name", message)


def unique_endpoints(apis: Sequence[View]) -> Iterator[Finding]:
    """F-10: every endpoint occurs once; two of the same name are F-09's."""
    first = dict[str, View]()
    for api in apis:
        endpoint = _endpoint(api)
        if endpoint is None:
            continue
        other = first.setdefault(endpoint, api)
        if other is not api and other.name != api.name:
            message = (
                f"the endpoint '{endpoint}' is used by both {listed([f'{other.name!r}', f'{api.name!r}'])}"
            )
            yield api.finding("networking.endpoint", message)


def free_endpoint(api: View, owners: Mapping[str, str]) -> Iterator[Finding]:
    """F-11: an endpoint that another API of the file gives up is free."""
    endpoint = _endpoint(api)
    if endpoint is not None and endpoint in owners:
        message = f"the endpoint '{endpoint}' is already used by '{owners[endpoint]}'"
        yield api.finding("networking.endpoint", message)


def kept_kind(api: View, before: Api) -> Iterator[Finding]:
    """F-12: a deployed API keeps its kind."""
    if api.kind not in (None, kind_of(before)):
        message = (
            f"cannot change the kind from {kind_of(before)} to {api.kind}; "
            f"first delete '{before.name}', then deploy it"
        )
        yield api.finding("kind", message)


def splitter_targets(
    splitter: View, in_file: Mapping[str, View], others: Mapping[str, Api] | None
) -> Iterator[Finding]:
    """S-31, S-32: the targets are RealtimeAPIs that are reached over HTTP."""
    if splitter.kind != "TrafficSplitter" or not splitter.is_sound("apis"):
        return
    for index, target in enumerate(splitter.get("apis") or ()):
        reason = _unusable_target(target["name"], in_file, others)
        if reason:
            yield splitter.finding("apis", reason, index, "name")


def kept_protocol(api: View, before: Api, others: Sequence[Api]) -> Iterator[Finding]:
    """S-33: what a traffic splitter uses stays HTTP; splitters of the same file have their own rule."""
    path = "handler.protobuf_path"
    was_http = isinstance(before, RealtimeAPI) and before.handler.protobuf_path is None
    if not (was_http and api.is_sound(path) and api.has(path)):
        return
    users = users_of(before.name, others)
    if users:
        splitters = listed([f"'{user}'" for user in users])
        message = f"cannot change from HTTP to gRPC while the traffic splitter {splitters} uses this API"
        yield api.finding(path, message)


def _unusable_target(name: str, in_file: Mapping[str, View], others: Mapping[str, Api] | None) -> str | None:
    if name in in_file:
        api = in_file[name]
        return _unusable(name, api.kind or "RealtimeAPI", is_grpc=api.has("handler.protobuf_path"))
    if others is None:
        return None
    if name not in others:
        return f"there is no RealtimeAPI {shown(name)}, neither in this file nor deployed"
    other = others[name]
    is_grpc = isinstance(other, RealtimeAPI) and other.handler.protobuf_path is not None
    return _unusable(name, kind_of(other), is_grpc=is_grpc)


def _unusable(name: str, kind: str, *, is_grpc: bool) -> str | None:
    if kind != "RealtimeAPI":
        return f"'{name}' is not a RealtimeAPI but of kind {kind}"
    return f"'{name}' is a gRPC API, which a traffic splitter cannot use" if is_grpc else None


def _endpoint(api: View) -> str | None:
    """Where the API is reached, as far as the file says so."""
    if api.name is None or not api.is_sound("networking"):
        return None
    given = api.get("networking.endpoint")
    if given is None and api.has("handler.protobuf_path"):
        return None
    return canonical(given or api.name)
