"""What people are shown of a spec: it could be deployed again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cortex_core.spec.as_written import as_written
from cortex_core.spec.load import load

REFERENCE = Path(__file__).parents[3] / "configs" / "reference"


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shown_means_the_same(path: Path) -> None:
    specs = load(path.read_text())
    shown = yaml.safe_dump([as_written(spec) for spec in specs], sort_keys=False)
    assert load(shown) == specs


def test_durations_are_text() -> None:
    (spec,) = load(
        "- {name: a, kind: RealtimeAPI, autoscaling: {window: 90s},"
        " handler: {type: python, path: a.py, config: {window: 5}}}"
    )
    shown = as_written(spec)
    assert shown["autoscaling"]["window"] == "1m30s"
    assert shown["handler"]["config"] == {"window": 5}
