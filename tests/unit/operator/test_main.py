"""What the operator's process refuses before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cortex_core.errors import CortexError
from cortex_core.home import Home
from cortex_operator.main import check_owner


def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    check_owner(home, os.geteuid())
    with pytest.raises(CortexError, match="belongs to another user"):
        check_owner(home, os.geteuid() + 1)
