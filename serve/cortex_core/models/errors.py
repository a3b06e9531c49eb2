"""What can be wrong with asking for a model.

ModelError              anything below; its text is short and may be shown to a client
├── UnknownModel        there is no model of this name, or no name was given
├── UnknownVersion      the model has no such version, or what was asked for cannot be one
├── LoadFailed          the version is there, but the handler's `load_model` cannot load it, or it cannot be fetched
└── ModelUnavailable    not now: it is being changed, or fetched for longer than a request waits; try again
"""

from __future__ import annotations

from cortex_core.errors import CortexError


class ModelError(CortexError):
    """A model cannot be had."""


class UnknownModel(ModelError):
    """There is no model of this name, or no name was given."""


class UnknownVersion(ModelError):
    """The model has no such version, or what was asked for cannot be one."""


class LoadFailed(ModelError):
    """The version is there, but `load_model` failed on it, or its files cannot be had.

    Args:
        message: which version, of what.
        cause: why, for the handler's author; a client gets `summary`, which leaves it out.
    """

    def __init__(self, message: str, *, cause: str | None = None) -> None:
        super().__init__(f"{message}: {cause}" if cause else message)
        self.summary = message


class ModelUnavailable(ModelError):
    """Not at this moment; the same request may succeed soon."""
