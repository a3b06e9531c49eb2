"""Reading requirements files, as far as needed to know what an environment made from one depends on."""

from __future__ import annotations

import re

_FROM_AN_INDEX = re.compile(
    r"""
    (?: [a-z0-9] [a-z0-9._-]* \s* (?: \[ [^\]/]* \] )? \s*          # name, extras
        (?: [\s<>=!~(;] [^/@]* | @ \s* https?:// \S* .* )?          # version and marker, or a URL
      | -- (?: index-url | extra-index-url ) [=\s] \s* https?:// .*
      | -- (?: pre | no-index | prefer-binary | require-hashes )
      | -- (?: only-binary | no-binary ) [=\s] [^/]*
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_ARCHIVE = re.compile(r"[^\s@]+\.(?:whl|zip|tar\.gz|tgz|tar\.bz2)(?:[\s;\[].*)?", re.IGNORECASE)
_COMMENT = re.compile(r"(^|\s)#.*")


def lines(text: str) -> list[str]:
    """The lines that say something: continued ones joined, comments removed."""
    joined = text.replace("\\\n", " ")
    return [line for line in (_COMMENT.sub("", line).strip() for line in joined.splitlines()) if line]


def stands_alone(line: str) -> bool:
    """Whether all that a line means is in it: it names no file of the project and no variable.

    When in doubt it does not: then its environment is made anew more often than needed, never too seldom.
    """
    return bool(_FROM_AN_INDEX.fullmatch(line)) and not _ARCHIVE.fullmatch(line) and "${" not in line
