"""One download against one misbehaving server: what arrives, what is said, what is left."""

from __future__ import annotations

import threading
import time
from collections import deque

import pytest

from strzoo.errors import CancelledError, IntegrityError, NetworkError
from tests.helpers.download_helpers import (
    DRIVE_ID,
    FILENAME,
    MODEL,
    card_for,
    fetch,
    partials,
    serving,
    sha256,
    status,
)
from tests.helpers.drive_stub import PERMISSION_PAGE, QUOTA_PAGE, Fault, make_payload

BROWSER = f"https://drive.google.com/file/d/{DRIVE_ID}/view"


def assert_whole(cache, payload):
    assert (cache / FILENAME).read_bytes() == payload
    assert partials(cache) == []


def assert_nothing(cache):
    assert not (cache / FILENAME).exists()


def test_a_small_drive_file_arrives_whole_with_its_hash_and_source(tmp_path):
    with serving() as stub:
        fetched = fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)
    assert fetched.file.path == tmp_path / FILENAME
    assert (fetched.file.bytes, fetched.file.sha256) == (300_000, sha256(stub.payload))
    assert (fetched.source, fetched.file.pinned) == ("Google Drive", False)


def test_the_confirmation_form_of_a_large_file_is_answered_once(tmp_path):
    with serving(large=True) as stub:
        fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)
    assert [path.split("?")[0] for path, _ in stub.requests] == ["/uc", "/download"]
    assert "confirm=t" in stub.requests[1][0]
    assert "uuid=0-1-2" in stub.requests[1][0]


def test_a_confirmation_form_spread_over_many_lines_is_answered(tmp_path):
    with serving(large=True, breaks=1000) as stub:
        fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)


def test_no_cookie_is_sent_unless_asked_for(tmp_path):
    jar = tmp_path / "cookies.txt"
    jar.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tSID\tsecret\n",
        encoding="utf-8",
    )
    with serving() as stub:
        fetch(stub, tmp_path / "a")
        fetch(stub, tmp_path / "b", network={"cookies": jar})
    assert [headers.get("Cookie") for _, headers in stub.requests] == [None, "SID=secret"]


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([status(500)], 2),
        ([status(503), status(500)], 3),
        ([status(429, **{"Retry-After": "0"})], 2),
        ([Fault("drop")], 2),
        ([Fault("reset", at=100_000)], 2),
        ([Fault("truncate", at=100_000)], 2),
        ([Fault("stall", at=100_000, delay=3)], 2),
        ([Fault("wrong-length", at=1)], 3),
        ([Fault("reset", at=100_000), Fault("ignore-range")], 2),
        ([Fault("reset", at=100_000), Fault("bad-range")], 3),
        ([Fault("no-type")], 1),
        ([Fault("no-name")], 1),
        ([Fault("chunked")], 1),
        ([Fault("no-length")], 1),
        ([Fault("slow", delay=0.05)], 1),
    ],
    ids=lambda value: "+".join(f.kind for f in value) if isinstance(value, list) else None,
)
def test_what_may_pass_is_retried_until_the_file_is_whole(tmp_path, faults, requests):
    with serving() as stub:
        stub.fail(*faults)
        fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)
    assert len(stub.requests) == requests


def test_a_broken_transfer_continues_where_it_stopped_under_if_range(tmp_path):
    with serving() as stub:
        stub.fail(Fault("truncate", at=123_456))
        fetch(stub, tmp_path)
    first, second = (headers for _, headers in stub.requests)
    assert "Range" not in first
    assert (second["Range"], second["If-Range"]) == ("bytes=123456-", '"v1"')
    assert stub.sent == 300_000


def test_a_file_that_changed_between_the_parts_is_fetched_from_the_start(tmp_path):
    changed = make_payload(290_000, seed=2)
    with serving() as stub:
        stub.fail(Fault("truncate", at=100_000))
        original, send = stub.payload, stub.requests

        class Requests(list):
            def append(self, item):
                if len(self) == 1:
                    stub.replace(changed, '"v2"')
                super().append(item)

        stub.requests = Requests(send)
        fetch(stub, tmp_path)
    assert original != changed
    assert_whole(tmp_path, changed)


def test_without_a_validator_nothing_is_resumed_unless_the_hash_is_pinned(tmp_path):
    with serving(tags=False) as stub:
        stub.fail(Fault("truncate", at=100_000))
        fetch(stub, tmp_path / "a")
        assert [h.get("Range") for _, h in stub.requests] == [None, None]
        stub.requests.clear()
        stub.fail(Fault("truncate", at=100_000))
        fetch(stub, tmp_path / "b", card_for(sha256=sha256(stub.payload)))
        assert [h.get("Range") for _, h in stub.requests] == [None, "bytes=100000-"]
    assert_whole(tmp_path / "b", stub.payload)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"page": QUOTA_PAGE}, "quota exceeded"),
        ({"page": PERMISSION_PAGE}, "permission denied"),
        ({"login": True}, "not shared with everyone"),
        ({"endless": True}, "still asks for confirmation after 5 pages"),
        ({"page": "<html><title>Oops</title></html>"}, "HTML page titled 'Oops'"),
    ],
)
def test_a_refusal_prints_the_browser_address_and_the_import_line(tmp_path, options, said):
    with serving(**options) as stub, pytest.raises(NetworkError) as raised:
        fetch(stub, tmp_path)
    message = str(raised.value)
    assert said in message
    assert f"open {BROWSER} in a browser, then run `strzoo import FILE {MODEL}`" in message
    assert "\n" not in message
    assert raised.value.exit_code == 3
    assert len(stub.requests) <= 5
    assert_nothing(tmp_path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (status(403, QUOTA_PAGE), "quota exceeded"),
        (status(403, PERMISSION_PAGE), "permission denied"),
        (status(404), "HTTP 404"),
        (status(410), "HTTP 410"),
    ],
)
def test_a_final_answer_is_not_asked_for_twice(tmp_path, fault, said):
    with serving(faults=deque([fault])) as stub, pytest.raises(NetworkError, match=said):
        fetch(stub, tmp_path)
    assert len(stub.requests) == 1
    assert_nothing(tmp_path)


def test_a_server_that_asks_for_too_long_a_wait_is_left_alone(tmp_path):
    with serving() as stub:
        stub.fail(status(429, **{"Retry-After": "3600"}))
        with pytest.raises(NetworkError, match=r"429.*3600 s"):
            fetch(stub, tmp_path)
    assert len(stub.requests) == 1


def test_a_confirmation_form_that_leads_elsewhere_is_not_followed(tmp_path):
    with serving() as other:
        with (
            serving(large=True, away=other.address.replace("127.0.0.1", "localhost")) as stub,
            pytest.raises(NetworkError, match="leads away from Google Drive, to localhost"),
        ):
            fetch(stub, tmp_path)
        assert other.requests == []


def test_a_refused_connection_is_reported_after_the_retries(tmp_path):
    with serving() as stub:
        pass  # its port is closed now
    with pytest.raises(NetworkError, match=r"Connection refused \(5 attempts\)"):
        fetch(stub, tmp_path)
    assert_nothing(tmp_path)


@pytest.mark.parametrize("kind", ["stall", "slow", "silent", "dripping-headers"])
def test_no_server_can_hold_a_download_past_its_time(tmp_path, kind):
    with serving(chunk=100) as stub:
        stub.fail(*[Fault("stall", at=1000, delay=9) if kind == "stall" else Fault("none")] * 9)
        stub.pause = 0.05 if kind == "slow" else 0
        network = {"total_time": 0.8, "read_timeout": 5.0, "drive": stub.address}
        if kind in ("silent", "dripping-headers"):
            network["drive"] = f"http://127.0.0.1:{_drip(stub.closing, kind)}"
        start = time.monotonic()
        with pytest.raises(NetworkError, match=r"gave up after 0\.8 s"):
            fetch(stub, tmp_path, network=network)
        assert time.monotonic() - start < 3
    assert_nothing(tmp_path)


def _drip(closing: threading.Event, kind: str) -> int:
    """A server that sends its headers one byte at a time, or none at all; its port."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def work():
        with listener, listener.accept()[0] as connection:
            for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000:
                if kind == "dripping-headers":
                    connection.sendall(bytes([byte]))
                if closing.wait(0.05):
                    return

    threading.Thread(target=work, daemon=True).start()
    return listener.getsockname()[1]


@pytest.mark.parametrize("begun", [False, True])
def test_cancelling_ends_a_stalled_download_at_once_and_leaves_a_partial(tmp_path, begun):
    cancel = threading.Event()
    with serving() as stub:
        stub.fail(Fault("stall", at=100_000, delay=9))
        threading.Timer(0.3, cancel.set).start() if begun else cancel.set()
        start = time.monotonic()
        with pytest.raises(CancelledError) as raised:
            fetch(stub, tmp_path, cancel=cancel, network={"read_timeout": 30.0})
        assert time.monotonic() - start < 2
        assert raised.value.exit_code == 130
        assert_nothing(tmp_path)
        assert len(partials(tmp_path)) == (1 if begun else 0)
        fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)


def test_progress_counts_the_bytes_present_and_an_exception_from_it_stops_the_download(tmp_path):
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if done >= 100_000 and len(stub.requests) == 1:
            raise ZeroDivisionError

    with serving(pause=0.005) as stub:
        with pytest.raises(ZeroDivisionError):
            fetch(stub, tmp_path, progress=progress)
        assert_nothing(tmp_path)
        stopped = seen[-1][0]
        fetch(stub, tmp_path, progress=progress)
    assert {total for _, total in seen} == {300_000}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert (stopped, 300_000) in seen
    assert seen[-1] == (300_000, 300_000)
    assert stub.sent < 600_000


@pytest.mark.parametrize(
    ("card", "fault", "said"),
    [
        ({"bytes": 300_001}, Fault("none"), "300,000 bytes; 300,001 are expected"),
        ({"bytes": 300_001}, Fault("chunked"), "sent 300,000 of 300,001"),
        ({"bytes": 200_000}, Fault("chunked"), "more than 200,000 bytes"),
        ({"sha256": "0" * 64}, Fault("none"), "its card says 0000"),
        ({}, Fault("corrupt", at=5000), "does not load"),
        ({}, Fault("short", at=5000), "does not load"),
        ({}, Fault("no-length", at=5000), "does not load"),
        ({}, status(200, "<!DOCTYPE html><html></html>"), "HTML page"),
        ({}, Fault("short", at=2), "no PyTorch checkpoint"),
    ],
)
def test_bytes_that_are_not_the_file_never_get_its_name(tmp_path, card, fault, said):
    with serving() as stub:
        stub.fail(*[fault] * 20)
        with pytest.raises((IntegrityError, NetworkError), match=said):
            fetch(stub, tmp_path, card_for(**card))
    assert_nothing(tmp_path)
    assert not (tmp_path / "records").exists()


def test_html_that_says_it_is_an_attachment_is_not_accepted(tmp_path):
    page = b"<!DOCTYPE html><html><title>Sorry</title></html>" + b" " * 5000
    with serving(payload=page) as stub, pytest.raises(NetworkError, match="titled 'Sorry'"):
        fetch(stub, tmp_path, check=lambda *_: None)
    assert_nothing(tmp_path)


def test_the_content_check_names_the_file_and_not_the_staging_folder(tmp_path):
    with serving() as stub:
        stub.fail(Fault("corrupt", at=77))
        with pytest.raises(IntegrityError) as raised:
            fetch(stub, tmp_path)
    assert f"{FILENAME} does not load" in str(raised.value)
    assert "staging" not in str(raised.value)
    assert raised.value.exit_code == 4


def test_a_resume_that_comes_out_wrong_starts_once_from_the_beginning(tmp_path):
    with serving() as stub:
        stub.fail(Fault("truncate", at=100_000), Fault("truncate", at=1))
        with pytest.raises(NetworkError):
            fetch(stub, tmp_path, network={"attempts": 1})
        (partial,) = partials(tmp_path)
        data = bytearray((partial / "data").read_bytes())
        data[5000] ^= 1
        (partial / "data").write_bytes(data)
        stub.faults.clear()
        fetch(stub, tmp_path)
    assert_whole(tmp_path, stub.payload)
    assert stub.requests[-1][1].get("Range") is None
