"""What a deploy will do, as a table."""

from __future__ import annotations

import pytest
from support.operators import config, scaled

from cortex_core.release import Release, make_release
from cortex_core.spec.load import load
from cortex_operator.plan import Deployed, Requested, plan, replicas_for


def release(text: str, *, project: str = "a" * 64, runtime: str = "1") -> Release:
    (spec,) = load(text)
    return make_release(spec, project_digest=project, project_url="file:///p", runtime_version=runtime)


ONE = release(config())
TWO = release(config(value="2"))
MOVED = release(config(endpoint="/x"))
THREE = release(config(), project="b" * 64)
UPGRADED = release(config(), runtime="2")
SAME_CPU = release(config(more="  compute:\n    cpu: 0.2\n"))


@pytest.mark.parametrize(
    ("requested", "deployed", "force", "action", "replaces", "changes", "refused"),
    [
        (ONE, Deployed(), False, "creating", False, [], False),
        (ONE, Deployed(live=ONE), False, "up to date", False, [], False),
        (ONE, Deployed(live=ONE), True, "up to date", False, [], False),
        (TWO, Deployed(live=ONE), False, "updating", True, ["handler.config.value"], False),
        (MOVED, Deployed(live=ONE), False, "updating", False, ["networking.endpoint"], False),
        (THREE, Deployed(live=ONE), False, "updating", True, ["project"], False),
        (UPGRADED, Deployed(live=ONE), False, "updating", True, ["runtime"], False),
        (SAME_CPU, Deployed(live=ONE), False, "up to date", False, [], False),
        (ONE, Deployed(upcoming=ONE, deployment_id="d"), False, "already updating", False, [], False),
        (TWO, Deployed(upcoming=ONE, deployment_id="d"), False, "already updating", False, [], True),
        (TWO, Deployed(upcoming=ONE, deployment_id="d"), True, "creating", False, [], False),
        (
            TWO, Deployed(live=ONE, upcoming=THREE, deployment_id="d"), True,
            "updating", True, ["handler.config.value"], False,
        ),
        (
            ONE, Deployed(live=ONE, upcoming=TWO, deployment_id="d"), False,
            "already updating", False, [], True,
        ),
        (ONE, Deployed(live=ONE, upcoming=TWO, deployment_id="d"), True, "updating", False, [], False),
        (ONE, Deployed(live=ONE, deleting=True), True, "failed", False, [], True),
    ],
)  # fmt: skip
def test_plan(
    requested: Release,
    deployed: Deployed,
    force: bool,
    action: str,
    replaces: bool,
    changes: list[str],
    refused: bool,
) -> None:
    (planned,) = plan([Requested(release=requested)], {"iris": deployed}, force=force)
    assert planned.action == action
    assert planned.replaces_replicas == replaces
    assert [each.path for each in planned.changes] == changes
    assert (planned.error is not None) == refused
    assert planned.code == ("conflict" if refused else None)
    assert planned.deployment_id == ("d" if action == "already updating" and not refused else None)


def test_a_refused_api_fails_with_the_notices_and_the_others_go_on() -> None:
    other = release(config("other"))
    refused = Requested(release=ONE, refusals=("compute.inf: there is no such hardware", "kind: not here"))
    first, second = plan(
        [refused, Requested(release=other, notices=("compute.gpu: no effect",))], {}, force=False
    )
    assert first.action == "failed"
    assert first.code == "invalid_config"
    assert first.error == "iris (RealtimeAPI): compute.inf: there is no such hardware; kind: not here"
    assert (second.action, second.notices) == ("creating", ("compute.gpu: no effect",))


@pytest.mark.parametrize(
    ("section", "current", "replicas"),
    [
        (scaled(1, 100), None, 1),
        (scaled(1, 10, 4), None, 4),
        (scaled(1, 10, 4), 2, 2),
        (scaled(3, 10, 4), 2, 3),
        (scaled(1, 3, 2), 7, 3),
    ],
)
def test_replicas(section: str, current: int | None, replicas: int) -> None:
    assert replicas_for(release(config(more=section)), current) == replicas


def test_a_change_of_the_project_is_shown_by_digests_short_enough_to_read() -> None:
    (planned,) = plan([Requested(release=THREE)], {"iris": Deployed(live=ONE)}, force=False)
    (change,) = planned.changes
    assert (change.path, change.before, change.after) == ("project", "a" * 12, "b" * 12)


BATCHING = "    server_side_batching:\n      max_batch_size: 8\n"


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (
            f"{BATCHING}      batch_interval: 0.02s\n    request_timeout: 1m30s\n",
            f"{BATCHING}      batch_interval: 100ms\n",
            [
                ("handler.request_timeout", "1m30s", None),
                ("handler.server_side_batching.batch_interval", "20ms", "100ms"),
            ],
        ),
        (
            "",
            f"{BATCHING}      target_latency: 100ms\n",
            [("handler.server_side_batching", None, {"max_batch_size": 8, "target_latency": "100ms"})],
        ),
        (
            "  compute: {cpu: 0.5, mem: 1Gi}\n  autoscaling: {window: 90s}\n",
            "  compute: {cpu: 500m, mem: 1.5G}\n",
            [
                ("compute.cpu", "0.5", "500m"),
                ("compute.mem", "1Gi", "1.5G"),
                ("autoscaling.window", "1m30s", "1m"),
            ],
        ),
    ],
)
def test_changes_are_shown_as_they_stand_in_a_file(
    before: str, after: str, changes: list[tuple[str, object, object]]
) -> None:
    text = "- name: iris\n  kind: RealtimeAPI\n  handler:\n    type: python\n    path: handler.py\n"
    requested = Requested(release=release(text + after))
    (planned,) = plan([requested], {"iris": Deployed(live=release(text + before))}, force=False)
    assert [(each.path, each.before, each.after) for each in planned.changes] == changes
