"""A server that means harm: one line, the documented exit code, in bounded time and memory."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from strzoo.downloads.headers import parse_count, parse_validator
from strzoo.errors import IntegrityError, NetworkError, StrzooError, UsageError
from strzoo.settings import Settings
from tests.helpers.download_helpers import FILENAME, fetch, partials, serving, start_child, status
from tests.helpers.drive_stub import Fault, make_payload
from tests.helpers.raw_server import raw_server

DIGITS = b"9" * 5000
BODY = make_payload(5000)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


def head(status: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", b""])


def moved(location: bytes) -> list[bytes]:
    return [head(b"302 Found", b"Location: " + location, b"Content-Length: 0")]


ANSWERS = {
    "length superscript": [head(b"200 OK", "Content-Length: ²".encode()), BODY],
    "length of 5,000 digits": [head(b"200 OK", b"Content-Length: " + DIGITS), BODY],
    "length negative": [head(b"200 OK", b"Content-Length: -5"), BODY],
    "length twice": [head(b"200 OK", b"Content-Length: 5", b"Content-Length: 7"), BODY],
    "length of a petabyte": [head(b"200 OK", b"Content-Length: 1000000000000000"), BODY],
    "part not asked for": [head(b"206 Partial Content", b"Content-Range: bytes 5-9/10"), BODY],
    "retry superscript": [head(b"503 Busy", "Retry-After: ²".encode(), b"Content-Length: 0")],
    "retry of 5,000 digits": [head(b"503 Busy", b"Retry-After: " + DIGITS, b"Content-Length: 0")],
    "retry negative": [head(b"503 Busy", b"Retry-After: -1", b"Content-Length: 0")],
    "redirect to bad IPv6": moved(b"http://[::1/x"),
    "redirect to bad port": moved(b"http://127.0.0.1:99999999/x"),
    "redirect to invalid UTF-8": moved(b"/\xff\xfe"),
    "redirect to a bad name": moved(b"http://" + b"a" * 300 + b".example/x"),
    "redirect to no host": moved(b"http:///x"),
    "redirect to a file": moved(b"file:///etc/passwd"),
    "redirect to ftp": moved(b"ftp://127.0.0.1/x"),
    "redirect without end": moved(b"/again"),
    "redirect far too long": moved(b"/" + b"a" * 20_000),
    "escape codes": [head(b"404 \x1b[31mred\x07", b"Content-Length: 0")],
    "not http": [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "nothing": [],
    "status of words": [b"HTTP/1.1 two hundred\r\n\r\n"],
    "status of 5,000 digits": [b"HTTP/1.1 " + DIGITS + b" OK\r\n\r\n"],
    "chunk of 5,000 digits": [OK + b"Transfer-Encoding: chunked\r\n\r\n" + DIGITS + b"\r\n", BODY],
    "chunk negative": [OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", BODY],
    "chunk of words": [OK + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n", BODY],
    "gzip": [
        head(b"200 OK", b"Content-Encoding: gzip", b"Content-Length: 9999"),
        gzip.compress(bytes(10_000_000)),
    ],
    "header line of 1 MB": [OK + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", BODY],
    "10,000 headers": [OK + b"X: a\r\n" * 10_000 + b"\r\n", BODY],
    "null characters": [
        OK.replace(b"octet", b"\0") + b"ETag: \0\0\r\nContent-Length: 5000\r\n\r\n"
    ],
}


def refused(
    cache: Path, address: str, *codes: int, network: dict | None = None, drive: bool = False
) -> str:
    """The message of a download that must fail within 3 s and leave nothing at all."""
    network = {"total_time": 2.0, "attempts": 2, **(network or {})}
    options = {"drive": address} if drive else {}
    mirrors = () if drive else (address,)
    start = time.monotonic()
    with pytest.raises(StrzooError) as raised:
        fetch(None, cache, mirrors=mirrors, network={**network, **options})
    assert time.monotonic() - start < 4
    message = str(raised.value)
    assert raised.value.exit_code in (codes or (3, 4)), message
    assert message.isprintable()
    assert len(message) < 1500
    assert not cache.exists()
    return message


@pytest.mark.parametrize("kind", ANSWERS)
def test_whatever_a_server_answers_ends_in_one_line_and_leaves_nothing(tmp_path, kind):
    with raw_server(lambda _: ANSWERS[kind]) as address:
        refused(tmp_path / "cache", address)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://[::1/x", "gdown cannot read"),
        ("file:///etc/passwd", "is not an http or https address"),
        ("http://127.0.0.1:bad/x", "is no address"),
    ],
)
def test_a_confirmation_page_that_leads_to_no_address_is_refused(tmp_path, location, said):
    page = f'<html><form id="download-form" action="{location}"><input name="id" value="1"/></form>'
    body = page.encode()
    lines = head(b"200 OK", b"Content-Type: text/html", b"Content-Length: %d" % len(body))
    with raw_server(lambda _: [lines, body]) as address:
        assert said in refused(tmp_path / "cache", address, 3, drive=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redirect", "length", "headers", "body", "page", "continue"])
def test_a_server_without_end_is_left_within_the_time_and_little_memory(tmp_path, kind):
    """In a process that may use 700 MB of addresses, of which the interpreter takes a third."""
    block = bytes(1 << 20)
    bomb = gzip.compress(bytes(1 << 24), 1) * 64  # 1 GB once decompressed
    answers = {
        "redirect": [head(b"302 Found", b"Location: /x", b"Content-Encoding: gzip"), bomb],
        "length": [OK + b"Content-Length: 4000000000\r\n\r\nPK\x03\x04" + block],
        "headers": itertools.chain([OK], itertools.repeat(b"X: " + b"a" * 60_000 + b"\r\n")),
        "body": itertools.chain([OK + b"\r\nPK\x03\x04" + block], itertools.repeat(block)),
        "page": itertools.chain([OK + b"\r\n<html>" + block], itertools.repeat(block)),
        "continue": itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    }
    with raw_server(lambda _: answers[kind]) as address, serving() as stub:
        stub.address = address
        network = {"total_time": 2.0, "attempts": 2, "max_bytes": 50_000_000}
        start = time.monotonic()
        child = start_child(stub, tmp_path / "cache", memory_limit=700 << 20, network=network)
        out, err = child.communicate(timeout=30)
        assert time.monotonic() - start < 15  # the start of the process included
    assert child.returncode in (3, 4), err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(("NetworkError: ", "IntegrityError: "))


def test_one_byte_a_second_ends_with_the_time_and_leaves_a_partial(tmp_path):
    lines = OK + b'ETag: "v1"\r\nContent-Length: 5000\r\n\r\n'
    answer = [lines, *(bytes([byte]) for byte in BODY[:50])]
    with raw_server(lambda _: answer, pause=0.1) as address:
        start = time.monotonic()
        with pytest.raises(NetworkError, match=r"gave up after 1 s; run it again to resume"):
            fetch(None, tmp_path, mirrors=[address], network={"total_time": 1.0})
        assert time.monotonic() - start < 3
    (partial,) = partials(tmp_path)
    assert BODY.startswith((partial / "data").read_bytes())


@pytest.mark.parametrize(
    "answer",
    ["bytes ²-²/²", f"bytes {'9' * 5000}-1/2", "bytes -5-9/10", "bytes 100000-299999/*", "words"],
)
def test_a_range_that_is_no_range_starts_the_file_again(tmp_path, answer):
    cut, part = Fault("truncate", at=100_000), answer.encode()
    with serving() as stub:
        stub.fail(cut)
        with pytest.raises(NetworkError):
            fetch(stub, tmp_path, network={"attempts": 1})
        lines = head(b"206 Partial Content", b"Content-Range: " + part, b'ETag: "v1"')
        with (
            raw_server(lambda _: [lines, stub.payload[100_000:]]) as address,
            pytest.raises(NetworkError, match="did not continue"),
        ):
            fetch(None, tmp_path, network={"drive": address, "attempts": 1})
        fetch(stub, tmp_path)
    assert (tmp_path / FILENAME).read_bytes() == stub.payload


@pytest.mark.parametrize("tag", [b'"\xff\xfe"', b'"a\x01b"', b'"' + b"x" * 60_000 + b'"'])
def test_a_validator_that_cannot_be_sent_back_does_not_spoil_later_attempts(tmp_path, tag):
    payload = make_payload(300_000)
    lines = head(b"200 OK", b"ETag: " + tag, b"Content-Length: 300000")
    answers = iter([[lines, payload[:1000]]])
    with raw_server(lambda _: next(answers, [lines, payload])) as address:
        fetch(None, tmp_path, mirrors=[address])
    assert (tmp_path / FILENAME).read_bytes() == payload


def test_a_wait_that_no_one_lives_to_see_is_not_begun(tmp_path):
    with serving() as stub:
        stub.fail(status(429, **{"Retry-After": "9" * 5000}))
        with pytest.raises(NetworkError, match="429"):
            fetch(stub, tmp_path)
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "mirror",
    ["~nobody-here/zoo", "http://[::1", "http://", "http://x:y/", "ftp://example.org/zoo",
     "file://[::1/zoo", "a\0b", "/" + "a" * 5000, "http://example.org/\x1b[31m"],
)  # fmt: skip
def test_a_mirror_that_is_no_address_is_a_usage_error(tmp_path, mirror):
    with pytest.raises(UsageError) as raised:
        fetch(None, tmp_path / "cache", mirrors=[mirror])
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "folder", ["~nobody-here", "~nobody-here/x", "a\0b", "x" * 300, "/a" * 5000, "\udcff\ud800"]
)
@pytest.mark.parametrize("field", ["cache_dir", "registries", "STRZOO_HOME", "XDG_CACHE_HOME"])
def test_a_setting_that_is_no_path_is_a_usage_error(field, folder):
    environment = {field: folder} if field.isupper() else {}
    value = [folder] if field == "registries" else folder
    given: dict[str, Any] = {} if field.isupper() else {field: value}
    with pytest.raises(UsageError) as raised:
        Settings.from_env(environment, **given)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


def test_numbers_and_validators_of_a_header_are_read_strictly():
    assert [parse_count(text) for text in ("0", " 17 ", "0" * 6000 + "5")] == [0, 17, 5]
    assert parse_count("9" * 6000) == parse_count(str(2**63)) == 2**63 - 1
    for text in ("", "²", "٣", "-1", "+1", "1.5", "1_000", "0x10", "1 2", "1,2"):
        assert parse_count(text) is None
    assert parse_validator('"v1"') == '"v1"'
    for value in (None, 7, "", "a\nb", "é", "x" * 300):
        assert parse_validator(value) is None


@pytest.mark.parametrize(
    "meta",
    ["[" * 100_000, '{"source": 1, "total": ' + "9" * 5000 + "}", "\0", '{"total": -1}', "null"],
)
def test_notes_that_are_damaged_do_not_stop_the_next_download(tmp_path, meta):
    with serving() as stub:
        stub.fail(Fault("truncate", at=100_000))
        with pytest.raises(NetworkError):
            fetch(stub, tmp_path, network={"attempts": 1})
        (partial,) = partials(tmp_path)
        document = json.loads((partial / "meta.json").read_text())
        if meta == '{"total": -1}':
            meta = json.dumps({**document, "total": -1, "validator": ["x"]})
        (partial / "meta.json").write_text(meta)
        fetch(stub, tmp_path)
    assert (tmp_path / FILENAME).read_bytes() == stub.payload


def test_a_refused_file_leaves_neither_staging_nor_locks_nor_an_empty_folder(tmp_path):
    with serving() as stub:
        stub.fail(Fault("corrupt", at=5000))
        with pytest.raises(IntegrityError):
            fetch(stub, tmp_path / "new" / "cache")
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "mine").mkdir()
        stub.fail(status(404))
        with pytest.raises(NetworkError):
            fetch(stub, tmp_path / "mine")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]
        assert list((tmp_path / "mine").iterdir()) == []
