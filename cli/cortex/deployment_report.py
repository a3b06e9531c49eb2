"""What people and scripts are shown of a plan and of what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from cortex.console import Console
from cortex.deploying import Outcome
from cortex.endpoints import endpoint_of
from cortex_core.errors import CortexError
from cortex_core.operator_api import ApiResult, ApiStatus, Change

_DONE = {"creating": "created", "updating": "updated"}
_MOST_CHANGES = 30

MODELS_SHOWN = 5
"""Versions that failed, of one API."""


def plan_lines(plan: Sequence[ApiResult]) -> list[str]:
    """What would happen to each API, and why."""
    return [line for result in plan for line in _planned(result)]


def changes_anything(plan: Sequence[ApiResult]) -> bool:
    return any(result.action in _DONE for result in plan)


def summary(outcome: Outcome) -> str:
    """What happened to one API: `created iris (RealtimeAPI)`."""
    result = outcome.result
    action = _DONE.get(result.action, result.action) if outcome.is_live else result.action
    return f"{action} {result.name} ({result.kind})"


def outcome_line(outcome: Outcome, api: ApiStatus | None) -> str:
    """The summary, with time and address once it is live."""
    live = f", live after {outcome.seconds:.1f} s" if outcome.is_live else ""
    address = f" at {endpoint_of(api)}" if api is not None else ""
    return f"{summary(outcome)}{live}{address}"


def failure_lines(outcome: Outcome, api: ApiStatus | None) -> list[str]:
    """Why an API failed, what its replica last said, and what serves now."""
    name = outcome.result.name
    lines = [f"error: {_with_name(name, outcome.error or '')}"]
    log_tail = () if outcome.deployment is None else outcome.deployment.log_tail
    if log_tail:
        lines.append("the end of its log:")
        lines += [f"  {line}" for text in log_tail for line in text.splitlines()]
    if (
        outcome.result.error is None
        and not outcome.timed_out
        and api is not None
        and api.release_id != outcome.result.release_id
        and _serves(api)
    ):
        lines.append(f"the release before goes on serving: {api.release_id}")
    if outcome.timed_out:
        lines.append(f"hint: see how far it is with: cortex get {name} --watch")
    return lines


def model_warnings(api: ApiStatus) -> list[str]:
    """Versions of models that are not served although the API is live."""
    failed = [row for row in api.models if row.state == "failed"]
    texts = [f"model {row.name}: version {row.version} is not served: {row.error}" for row in failed]
    more = len(texts) - MODELS_SHOWN
    return texts[:MODELS_SHOWN] + ([f"… and {more} more (cortex get {api.spec.name})"] if more > 0 else [])


def next_commands(outcomes: Sequence[Outcome], *, suffix: str, grpc: Collection[str] = ()) -> list[str]:
    """Commands to go on with.

    Args:
        suffix: what they need at their end, e.g. " --env production".
        grpc: names of APIs that `predict` cannot call.
    """
    names = [outcome.result.name for outcome in outcomes if not outcome.failed]
    if not names:
        return []
    suggestions = [("cortex get", "all APIs")]
    for outcome in outcomes[:1] if len(names) == 1 else outcomes:
        name = outcome.result.name
        if outcome.failed:
            continue
        suggestions.append((f"cortex get {name}", "its status, replicas and history"))
        if outcome.result.kind == "RealtimeAPI":
            suggestions.append((f"cortex logs {name}", "its log"))
            if name not in grpc:
                suggestions.append((f"cortex predict {name} DATA", "call it"))
    width = max(len(command) for command, _ in suggestions) + len(suffix)
    return [f"  {command + suffix:<{width}}   {meaning}" for command, meaning in suggestions]


def print_notices(console: Console, results: Sequence[ApiResult]) -> None:
    """Say which parts of the file have no effect."""
    for result in results:
        for notice in result.notices:
            console.warning(f"{result.name}: {notice}")


def as_json(outcome: Outcome, api: ApiStatus | None) -> dict[str, Any]:
    """One entry of `-o json`."""
    return {"api": api, "message": summary(outcome), "error": outcome.error}


def plan_as_json(result: ApiResult) -> dict[str, Any]:
    """One entry of `--dry-run -o json`."""
    return {
        "api": None,
        "message": result.message,
        "error": result.error,
        "name": result.name,
        "kind": result.kind,
        "action": result.action,
        "release_id": result.release_id,
        "replaces_replicas": result.replaces_replicas,
        "changes": result.changes,
        "notices": result.notices,
    }


def error_document(error: CortexError, _: int) -> list[dict[str, Any]]:
    """What `-o json` prints when it did not come to a deployment: the same shape, without an API."""
    return [{"api": None, "message": "", "error": error.message}]


def _planned(result: ApiResult) -> list[str]:
    if result.error is not None:
        return [_with_name(result.name, result.error)]
    match result.action:
        case "creating":
            return [f"{result.name}: will be created ({result.kind})"]
        case "updating":
            kept = "its replicas are replaced" if result.replaces_replicas else "its replicas keep running"
            return [f"{result.name}: will be updated; {kept}", *_changes(result.changes)]
    return [f"{result.name}: {result.action}"]


def _changes(changes: Sequence[Change]) -> list[str]:
    lines = [f"  {_changed(change)}" for change in changes[:_MOST_CHANGES]]
    more = len(changes) - len(lines)
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _changed(change: Change) -> str:
    if change.path == "project":  # digests say nothing to people
        return "project: its files changed"
    return f"{change.path}: {_value(change.before)} → {_value(change.after)}"


def _with_name(name: str, text: str) -> str:
    """The text with the API's name in front, unless it begins with that."""
    return text if text.startswith((f"{name} ", f"{name}:")) else f"{name}: {text}"


def _value(value: Any) -> str:
    import msgspec

    text = "none" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"


def _serves(api: ApiStatus) -> bool:
    counts = api.status.replica_counts
    return counts.updated.ready + counts.stale.ready > 0
