"""The `payload` argument: a request's body, read by its content type.

    application/json…                          the parsed value
    text/plain…                                a string, decoded by the `charset` parameter
    multipart/form…,
    application/x-www-form-urlencoded…         starlette's FormData of strings and UploadFiles
    anything else, or none                     the bytes

Content types are compared by prefix and in lower case. Nothing a body can hold is executed or unpickled, and
file names of uploads are only ever handed to the handler.
"""

from __future__ import annotations

import codecs
from encodings import normalize_encoding
from encodings.aliases import aliases
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile

from cortex_serve import json_text

MAX_FIELDS = 1000
MAX_PART_HEADER_BYTES = 4096

_CHARSETS = {*aliases, *aliases.values(), "utf_8_sig"}


class BodyTooLarge(Exception):
    """The request's body is larger than allowed."""


class BodyIncomplete(Exception):
    """The request's body ended early."""


class BodyWithoutLength(Exception):
    """The request's body has no declared length, so that one cannot see whether it ended early."""


class InvalidPayload(Exception):
    """The body does not hold what its content type says."""


class InvalidJson(InvalidPayload):
    """The body is not JSON; the text is the parser's."""


def read(body: bytes, content_type: str | None) -> Any:
    """Read a body.

    Args:
        body: whole.
        content_type: the header as it came, or None.

    Raises:
        InvalidPayload: it cannot be read; the text may be shown to the client.
    """
    if not content_type:
        return body
    kind = content_type.lower()
    if kind.startswith("application/json"):
        try:
            return json_text.decode(body)
        except ValueError as error:
            raise InvalidJson(str(error)) from None
    if kind.startswith("text/plain"):
        return _text(body, kind)
    if kind.startswith("multipart/form"):
        return _multipart(body, content_type)
    if kind.startswith("application/x-www-form-urlencoded"):
        return _urlencoded(body)
    return body


def _text(body: bytes, content_type: str) -> str:
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            charset = value.strip().strip("\"'") or "utf-8"
    # Only names that Python knows reach its codec search, which remembers each unknown name for ever.
    if normalize_encoding(charset) not in _CHARSETS:
        raise InvalidPayload(f"unknown charset {charset!r}")
    try:
        return body.decode(charset)
    except LookupError:
        raise InvalidPayload(f"unknown charset {charset!r}") from None
    except ValueError as error:
        raise InvalidPayload(f"the body is not text in {charset}: {error}") from None


def _urlencoded(body: bytes) -> FormData:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidPayload(f"the form has more than {MAX_FIELDS} fields") from None
    return FormData([*fields])


def _multipart(body: bytes, content_type: str) -> FormData:
    _, parameters = parse_options_header(content_type.encode("latin-1", "replace"))
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise InvalidPayload("the content type of the form has no 'boundary'")
    form = _Form(_charset_of_form(parameters.get(b"charset", b"utf-8")))
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]  # a TypedDict of these names
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidPayload(f"the form is malformed: {error}") from None
    if not form.ended:
        raise InvalidPayload("the form is incomplete: its final boundary is missing")
    return FormData(form.items)


def _charset_of_form(name: bytes) -> str:
    charset = name.decode("latin-1")
    if normalize_encoding(charset.lower()) not in _CHARSETS:
        return "latin-1"
    try:
        "x".encode(charset)
    except LookupError:  # a codec of something else than text
        return "latin-1"
    return codecs.lookup(charset).name


class _Form:
    """Collects the parts of a multipart body, which is in memory already, as the parser finds them."""

    def __init__(self, charset: str) -> None:
        self.items: list[tuple[str, str | UploadFile]] = []
        self.ended = False
        self._charset = charset
        self._parts = 0
        self._header_bytes = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_name = b""
        self._header_value = b""
        self._content = bytearray()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._extend_header_name,
            "on_header_value": self._extend_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._extend_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise InvalidPayload(f"the form has more than {MAX_FIELDS} fields")
        self._headers = []
        self._header_bytes = 0
        self._content = bytearray()

    def _extend_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def _extend_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise InvalidPayload(f"a part of the form has more than {MAX_PART_HEADER_BYTES} bytes of headers")

    def _end_header(self) -> None:
        self._headers.append((self._header_name.lower(), self._header_value))
        self._header_name = self._header_value = b""

    def _extend_content(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        disposition = next((value for name, value in self._headers if name == b"content-disposition"), b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise InvalidPayload("a part of the form has no name in its 'content-disposition'")
        name = self._decoded(options[b"name"])
        if b"filename" in options:
            file = UploadFile(
                BytesIO(self._content),
                size=len(self._content),
                filename=self._decoded(options[b"filename"]),
                headers=Headers(raw=self._headers),
            )
            self.items.append((name, file))
        else:
            self.items.append((name, self._decoded(self._content)))
        self._content = bytearray()

    def _end(self) -> None:
        self.ended = True

    def _decoded(self, data: bytes | bytearray) -> str:
        try:
            return data.decode(self._charset)
        except UnicodeDecodeError:
            return data.decode("latin-1")
