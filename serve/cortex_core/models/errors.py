"""What can be wrong with asking for a model.

ModelError              anything below; its text is short and may be shown to a client
├── UnknownModel        there is no model of this name, or no name was given
└── UnknownVersion      the model has no such version, or what was asked for cannot be one
"""

from __future__ import annotations

from cortex_core.errors import CortexError


class ModelError(CortexError):
    """A model cannot be had."""


class UnknownModel(ModelError):
    """There is no model of this name, or no name was given."""


class UnknownVersion(ModelError):
    """The model has no such version, or what was asked for cannot be one."""
