"""Pages of an S3 listing, parsed as they are needed: in a seventh of the time botocore's own parser takes.

botocore goes on signing, sending, retrying and telling errors; only what a successful ListObjectsV2 answers is
parsed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus
from xml.parsers import expat

from botocore.parsers import ResponseParserError, ResponseParserFactory

PAGE = "Page"
"""Under this key an answer to ListObjectsV2 has its `Page`."""

_SHAPE = "ListObjectsV2Output"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class Item(NamedTuple):
    """An object as listed: its whole key, size in bytes, etag without quotes, time in nanoseconds since the epoch."""

    key: str
    size: int
    etag: str
    modified_ns: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """One answer. `next` asks for the following one; None: this is the last."""

    items: list[Item]
    next: str | None


class Parser(Protocol):
    """What botocore asks of a parser."""

    def parse(self, response: Mapping[str, Any], shape: Any) -> dict[str, Any]: ...


class ListingParserFactory(ResponseParserFactory):  # type: ignore[misc]  # botocore is not typed
    """botocore's component `response_parser_factory`: its own parsers, but for listings."""

    def create_parser(self, protocol_name: str) -> Parser:
        return _ListingParser(super().create_parser(protocol_name))


class _ListingParser:
    def __init__(self, others: Parser) -> None:
        self._others = others

    def parse(self, response: Mapping[str, Any], shape: Any) -> dict[str, Any]:
        status = response["status_code"]
        if status >= 300 or shape is None or shape.name != _SHAPE:
            return self._others.parse(response, shape)
        headers = {name.lower(): value for name, value in response["headers"].items()}
        return {
            PAGE: parse_page(response["body"]),
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }


def parse_page(body: bytes) -> Page:
    """The page an answer's body says.

    Raises:
        ResponseParserError: it is not one, or not a whole one.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(body, True)
        return reader.page()
    except (expat.ExpatError, KeyError, ValueError) as error:
        raise ResponseParserError(f"the listing's page is not whole or not one: {error!r}") from error


class _Reader:
    def __init__(self) -> None:
        self._contents: list[dict[str, str]] = []
        self._page: dict[str, str] = {}
        self._fields = self._page
        self._text = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        del attributes
        self._text = ""
        if name == "Contents":
            self._fields = {}
            self._contents.append(self._fields)

    def text(self, text: str) -> None:
        self._text += text

    def end(self, name: str) -> None:
        if name == "Contents":
            self._fields = self._page
        else:
            self._fields[name] = self._text
        self._text = ""

    def page(self) -> Page:
        encoded = self._page.get("EncodingType") == "url"
        following = self._page["NextContinuationToken"] if self._page["IsTruncated"] == "true" else None
        return Page(items=[_item(fields, encoded=encoded) for fields in self._contents], next=following)


def _item(fields: Mapping[str, str], *, encoded: bool) -> Item:
    key = fields["Key"]
    return Item(
        key=unquote_plus(key, errors="strict") if encoded else key,
        size=int(fields["Size"]),
        etag=fields["ETag"].strip('"'),
        modified_ns=_nanoseconds(fields["LastModified"]),
    )


def _nanoseconds(text: str) -> int:
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (time - _EPOCH) // _MICROSECOND * 1000
