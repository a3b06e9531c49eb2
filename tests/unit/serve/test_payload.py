"""Reading bodies by content type: whatever the header says, there is a payload or an `InvalidPayload`."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import FormData, UploadFile

from cortex_serve import payload
from cortex_serve.payload import InvalidPayload

kinds = st.sampled_from(
    [
        "application/json",
        "text/plain",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "image/png",
        "",
    ]
)
parameters = st.lists(
    st.tuples(st.sampled_from(["charset", " charset", "boundary", "x"]), st.text(max_size=10)).map("=".join)
)
content_types = st.builds(lambda kind, rest: ";".join([kind, *rest]), kinds, parameters) | st.text(
    max_size=60
)


@given(content_types, st.binary(max_size=200))
@example("multipart/form-data; boundary=", b"")
@example("multipart/form-data; boundary=é", b"--\xe9--\r\n")
@example("text/plain; charset=undefined", b"x")
@example("text/plain; charset=unicode_escape", b"\\x")
@example("text/plain; charset=idna", b"xn--" * 40)
def test_any_content_type_and_body(content_type: str, body: bytes) -> None:
    try:
        value = payload.read(body, content_type)
    except InvalidPayload:
        return
    kind = content_type.lower()
    if kind.startswith("text/plain"):
        assert isinstance(value, str)
    elif kind.startswith(("multipart/form", "application/x-www-form-urlencoded")):
        assert isinstance(value, FormData)
    elif not kind.startswith("application/json"):
        assert value == body


@given(
    st.text(max_size=50),
    st.sampled_from(["utf-8", "UTF-16", "utf_32", "latin-1", "cp1252", "shift_jis", "koi8-r"]),
)
def test_text_in_a_charset(text: str, charset: str) -> None:
    text = text.encode(charset, "ignore").decode(charset)
    assert payload.read(text.encode(charset), f"text/plain; charset={charset}") == text


@given(st.lists(st.tuples(st.text(), st.text(), st.none() | st.binary()), max_size=5), st.data())
def test_multipart_round_trip(parts: list[tuple[str, str, bytes | None]], data: st.DataObject) -> None:
    boundary = b"=_boundary-that-no-part-holds_="
    body = b""
    for name, text, content in parts:
        if set(name) & set(
            "\r\n\0\\"
        ):  # clients percent-encode the first three; parsers disagree on the last
            return
        quoted = name.encode().replace(b'"', b'\\"')
        filename = b"" if content is None else b'; filename="f"'
        head = b'content-disposition: form-data; name="' + quoted + b'"' + filename
        body += b"--" + boundary + b"\r\n" + head + b"\r\n\r\n"
        body += (text.encode() if content is None else content) + b"\r\n"
    body += b"--" + boundary + b"--\r\n"

    form = payload.read(body, f"multipart/form-data; boundary={boundary.decode()}")

    items = [item for _, item in form.multi_items()]
    read = [item.file.read() if isinstance(item, UploadFile) else item for item in items]
    assert read == [text if content is None else content for _, text, content in parts]


def test_an_upload_can_be_read_more_than_once() -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="f"; filename="n"\r\n\r\ndata\r\n--b--\r\n'
    file = payload.read(body, "multipart/form-data; boundary=b")["f"]

    assert (file.filename, file.size, file.file.read()) == ("n", 4, b"data")
    file.file.seek(0)
    assert file.file.read() == b"data"


def test_charsets_python_does_not_know_are_never_looked_up() -> None:
    import encodings

    known = len(encodings._cache)  # type: ignore[attr-defined]  # where Python remembers each name it was asked for
    for number in range(50):
        with pytest.raises(InvalidPayload):
            payload.read(b"x", f"text/plain; charset=made-up-{number}")
    assert len(encodings._cache) == known  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize("charset", ["zlib", "hex", "rot13", "mbcs", "made-up"])
def test_a_form_in_a_charset_that_is_none_is_read_as_latin_1(charset: str) -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\xe9\r\n--b--\r\n'
    form = payload.read(body, f"multipart/form-data; boundary=b; charset={charset}")
    assert form["a"] == "\xe9"
