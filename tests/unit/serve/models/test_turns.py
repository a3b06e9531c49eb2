from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from cortex_serve.models.turns import SHORT, ShortTurns


@pytest.fixture(autouse=True)
def usual_turns() -> Iterator[float]:
    usual = sys.getswitchinterval()
    yield usual
    sys.setswitchinterval(usual)


def test_turns_are_short_until_the_last_load_ended(usual_turns: float) -> None:
    turns = ShortTurns()
    with turns:
        assert sys.getswitchinterval() == pytest.approx(SHORT)
        with pytest.raises(ValueError, match="of a load"), turns:
            raise ValueError("of a load")
        assert sys.getswitchinterval() == pytest.approx(SHORT)
    assert sys.getswitchinterval() == pytest.approx(usual_turns)


def test_turns_that_are_shorter_already_stay() -> None:
    sys.setswitchinterval(SHORT / 2)
    with ShortTurns():
        assert sys.getswitchinterval() == pytest.approx(SHORT / 2)
    assert sys.getswitchinterval() == pytest.approx(SHORT / 2)
