"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
"""The same examples at every run: what CI says is about the change. New ones are looked for on developers' machines."""

if os.environ.get("CI"):
    settings.load_profile("ci")
