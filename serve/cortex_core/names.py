"""Names of files that come from elsewhere: which mean the same on every machine and lead nowhere else."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
COMPILED_PYTHON = "__pycache__"

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Names:
    """Collects names that shall lie in one archive, and says what is wrong with each."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def problem(self, name: str) -> str | None:
        """Why a file of this name cannot join those asked for before; None when it can."""
        wrong = name_problem(name)
        if wrong is not None:
            return wrong
        parts = name.split("/")
        if COMPILED_PYTHON in parts:
            return "is compiled Python, which is made anew where it runs"
        for end in range(1, len(parts)):
            wrong = self.folder_problem("/".join(parts[:end]))
            if wrong is not None:
                return wrong
        key = _comparable(name)
        if key in self._folders:
            return f"is a file and a folder ({self._folders[key]}/)"
        if key in self._files:
            return _clash(name, self._files[key])
        self._files[key] = name
        return None

    def folder_problem(self, name: str) -> str | None:
        """The same for a folder; the same folder may come again."""
        wrong = name_problem(name)
        if wrong is not None:
            return wrong
        key = _comparable(name)
        if key in self._files:
            return f"is a folder and a file ({self._files[key]})"
        known = self._folders.setdefault(key, name)
        return None if known == name else _clash(name, known)


def name_problem(name: str) -> str | None:
    """Why a relative path cannot be the name of a file in an archive; None when it can."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    parts = name.split("/")
    if name.startswith("/"):
        return "its name is an absolute path"
    if _DRIVE.match(name):
        return "its name begins with a drive letter"
    if "\\" in name:
        return "its name has a backslash"
    if _CONTROL.search(name):
        return "its name has a control character"
    if ".." in parts:
        return "its name leads out of the folder"
    if "" in parts or "." in parts:
        return "its name has an empty part"
    if len(encoded) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return "its name is too long"
    return None


def _comparable(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _clash(name: str, other: str) -> str:
    if name == other:
        return "is there twice"
    return f"differs from {other} only in case or in how accents are written"


def printable(name: str) -> str:
    """A file's name as it can be shown: nothing in it moves the cursor or breaks the output's encoding."""
    return name if name.isprintable() else ascii(name)[1:-1]
