"""Errors that are expected, and what each means to the person who meets it.

    CortexError                 anything below; its text is written for people
    ├── InvalidConfig           the API file has problems; all of them, with positions
    ├── InvalidProject          the project folder cannot be shipped as it is
    ├── UnsafeArchive           an archive that must not be extracted
    ├── NotFound                there is no such API, release, replica, …
    ├── Conflict                refused because of what is deployed already
    ├── DeployFailed            a release did not get live
    ├── StorageUnavailable      the storage does not answer now; the same may work later
    ├── StorageRefused          the storage does not let us; a person has to do something
    ├── Changed                 a stored object is not what it was when it was listed
    ├── ModelError              a model cannot be had; in models/errors.py
    ├── TimedOut                a wait reached its deadline
    └── OperatorUnreachable     nobody answers at the operator's address

They know nothing of HTTP or exit codes: the command line and the operator's HTTP application each map them in
one table. Whatever is not a CortexError is a defect of ours and is reported as one.
"""

from __future__ import annotations


class CortexError(Exception):
    """Base of all expected errors.

    Args:
        message: what went wrong, where, in the reader's words.
        hint: what to do about it, typed as it stands where possible.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidProject(CortexError):
    """The project folder cannot be shipped as it is."""


class UnsafeArchive(CortexError):
    """An archive that would write outside its folder, or more than it may; nothing was extracted."""


class NotFound(CortexError):
    """What was asked for does not exist."""


class Conflict(CortexError):
    """Refused because of what is deployed already."""


class DeployFailed(CortexError):
    """A release did not get live; what ran before goes on running."""


class StorageUnavailable(CortexError):
    """The storage is unreachable, slow, throttled or full, or credentials expired: the same call may work later."""


class StorageRefused(CortexError):
    """The storage does not let us: rights, credentials, bucket, region. A person has to do something first."""


class Changed(CortexError):
    """A stored object's content is not the one that was asked for, or changed while it was read."""


class TimedOut(CortexError):
    """A wait reached its deadline."""


class OperatorUnreachable(CortexError):
    """Nobody answers at the operator's address."""
