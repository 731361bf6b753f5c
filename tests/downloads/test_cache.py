"""The cache: hashes recorded at first use, damage noticed, order of sources, offline, proxies."""

from __future__ import annotations

import json
import logging
import socket

import pytest

from strzoo.downloads.cache import Cache
from strzoo.downloads.locks import release, try_lock
from strzoo.downloads.maintenance import list_cached, prune, verify_cached
from strzoo.downloads.sources import DriveSource, WebSource, list_sources
from strzoo.errors import IntegrityError, NetworkError, OfflineError
from strzoo.settings import Settings
from strzoo.zoo.registry import Registry
from tests.helpers.download_helpers import (
    DRIVE_ID,
    FILENAME,
    MODEL,
    card_for,
    check_payload,
    fetch,
    partials,
    serving,
    sha256,
)
from tests.helpers.drive_stub import Fault, make_payload


def damage(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


@pytest.fixture
def no_socket(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_hash_is_recorded_at_first_use_and_a_later_difference_is_an_error(tmp_path):
    changed = make_payload(300_000, seed=9)
    with serving() as stub:
        fetch(stub, tmp_path)
        record = json.loads((tmp_path / "records" / f"{FILENAME}.json").read_text())
        assert record["sha256"] == sha256(stub.payload)
        assert (record["bytes"], record["source"], record["schema"]) == (300_000, "Google Drive", 1)
        (tmp_path / FILENAME).unlink()
        stub.replace(changed, '"v2"')
        with pytest.raises(IntegrityError, match=r"was recorded on 20.*cache prune --forget"):
            fetch(stub, tmp_path)
        assert not (tmp_path / FILENAME).exists()
        prune(Cache(tmp_path), [card_for()], forget=True)
        fetch(stub, tmp_path)
    assert (tmp_path / FILENAME).read_bytes() == changed


def test_a_pinned_hash_is_not_recorded_and_says_so(tmp_path):
    with serving() as stub:
        fetched = fetch(stub, tmp_path, card_for(sha256=sha256(stub.payload), bytes=300_000))
    assert fetched.file.pinned
    assert not (tmp_path / "records").exists()


def test_a_cached_file_is_used_without_the_network(tmp_path, monkeypatch):
    with serving() as stub:
        fetch(stub, tmp_path)
        assert fetch(stub, tmp_path).source == "cache"
        assert len(stub.requests) == 1


def test_a_damaged_cached_file_is_noticed_and_fetched_again(tmp_path, caplog):
    with serving() as stub:
        fetch(stub, tmp_path)
        damage(tmp_path / FILENAME)
        with caplog.at_level(logging.WARNING):
            assert fetch(stub, tmp_path).source == "Google Drive"
    assert "is damaged and is fetched again" in caplog.text
    assert (tmp_path / FILENAME).read_bytes() == stub.payload
    assert (tmp_path / "rejected" / FILENAME).exists()


def test_a_damaged_cached_file_is_gone_when_it_cannot_be_fetched_again(tmp_path):
    with serving() as stub:
        fetch(stub, tmp_path)
    damage(tmp_path / FILENAME)
    with pytest.raises(NetworkError):
        fetch(stub, tmp_path)
    assert not (tmp_path / FILENAME).exists()


def test_a_file_put_there_by_hand_is_checked_once_and_then_held_to_its_hash(tmp_path, no_socket):
    payload, calls = make_payload(5000), []

    def check(*arguments):
        calls.append(arguments)
        check_payload(*arguments)

    (tmp_path / FILENAME).write_bytes(payload)
    for _ in range(2):
        assert fetch(None, tmp_path, offline=True, check=check).file.sha256 == sha256(payload)
    assert len(calls) == 1
    (tmp_path / FILENAME).write_bytes(make_payload(5000, seed=3))
    with pytest.raises(OfflineError, match="is damaged and the network is off"):
        fetch(None, tmp_path, offline=True, check=check)


def test_an_unreadable_record_is_written_anew(tmp_path):
    with serving() as stub:
        fetch(stub, tmp_path)
        record = tmp_path / "records" / f"{FILENAME}.json"
        record.write_text('{"sha256": ')
        fetch(stub, tmp_path)
        assert len(stub.requests) == 1
    assert json.loads(record.read_text())["sha256"] == sha256(stub.payload)


def test_without_hard_links_the_hash_is_still_recorded_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("strzoo.downloads.cache.os.link", refuse)
    with serving() as stub:
        fetch(stub, tmp_path)
    record = json.loads((tmp_path / "records" / f"{FILENAME}.json").read_text())
    assert record["sha256"] == sha256(stub.payload)


def test_offline_opens_no_socket_and_says_where_to_put_the_file(tmp_path, no_socket):
    with pytest.raises(OfflineError) as raised:
        fetch(None, tmp_path, offline=True, mirrors=["http://127.0.0.1:1/zoo"])
    message = str(raised.value)
    assert f"put it at {tmp_path / FILENAME}" in message
    assert f"run `strzoo import FILE {MODEL}`" in message
    assert raised.value.exit_code == 5
    assert not tmp_path.joinpath("staging").exists()


def test_offline_still_takes_a_mirror_folder_and_a_named_file(tmp_path, no_socket):
    payload, folder = make_payload(5000), tmp_path / "mirror"
    folder.mkdir()
    (folder / FILENAME).write_bytes(payload)
    other = tmp_path / "any name"
    other.write_bytes(payload)
    for index, options in enumerate(
        [{"mirrors": [str(folder)]}, {"mirrors": [folder.as_uri()]}, {"local": other},
         {"local": folder}]
    ):  # fmt: skip
        fetched = fetch(None, tmp_path / f"cache{index}", offline=True, **options)
        assert fetched.file.path.read_bytes() == payload
        assert partials(tmp_path / f"cache{index}") == []


def test_the_sources_come_in_the_documented_order(tmp_path):
    settings = Settings(tmp_path, mirrors=("https://one.example/zoo/", "/srv/zoo"))
    labels = [s.label for s in list_sources(card_for(), "dense", settings, "~/mine.pth")]
    assert labels[0].endswith("/mine.pth")
    assert labels[1:] == ["mirror https://one.example/zoo/", "mirror /srv/zoo", "Google Drive"]
    sources = list_sources(card_for(), "dense", settings)
    assert isinstance(sources[0], WebSource)
    assert isinstance(sources[2], DriveSource)
    assert sources[0].url == f"https://one.example/zoo/{FILENAME}"
    assert sources[2].drive_id == DRIVE_ID


def test_a_failing_source_moves_on_to_the_next_and_the_error_lists_what_each_said(tmp_path):
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(make_payload(5000)[:-1])
    with serving(page="<html>sign in</html>") as mirror, serving() as stub:
        options = {"local": wrong, "mirrors": [str(tmp_path / "none"), f"{mirror.address}/zoo"]}
        stub.fail(Fault("status", status=404))
        with pytest.raises(IntegrityError) as raised:
            fetch(stub, tmp_path / "a", **options)
        assert fetch(stub, tmp_path / "b", **options).source == "Google Drive"
        assert mirror.requests[0][0] == f"/zoo/{FILENAME}"
    message = str(raised.value)
    said = (f"{wrong}: {FILENAME} does not load", f"mirror {tmp_path / 'none'}: ", "does not exist",
            f"mirror {mirror.address}/zoo: the server sent an HTML page", "Google Drive: ",
            "HTTP 404")  # fmt: skip
    positions = [message.index(text) for text in said]
    assert positions == sorted(positions)


def test_a_named_file_that_fails_falls_back_to_the_cache(tmp_path):
    with serving() as stub:
        fetch(stub, tmp_path)
        assert fetch(stub, tmp_path, local=tmp_path / "missing").source == "cache"
        assert len(stub.requests) == 1


def test_the_card_may_give_an_address_of_its_own(tmp_path):
    with serving() as stub:
        fetch(None, tmp_path, card_for(url=f"{stub.address}/weights/a.pth"))
    assert stub.requests[0][0] == "/weights/a.pth"


def test_proxies_come_from_the_environment(tmp_path, monkeypatch):
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "")
        fetch(None, tmp_path, mirrors=["http://zoo.invalid/files"])
    assert proxy.requests[0][0] == f"http://zoo.invalid/files/{FILENAME}"
    assert proxy.requests[0][1]["Host"] == "zoo.invalid"


def test_a_download_that_waited_for_another_one_takes_its_file(tmp_path, monkeypatch):
    cache = Cache(tmp_path, check_payload)
    real = cache.lock

    with serving() as stub:

        def slow_lock(self, filename, deadline):
            monkeypatch.undo()
            fetch(stub, tmp_path)
            return real(filename, deadline)

        monkeypatch.setattr(Cache, "lock", slow_lock)
        assert fetch(stub, tmp_path).source == "cache"
        assert len(stub.requests) == 1


def test_list_verify_and_prune_tell_and_do_what_they_say(tmp_path):
    card = card_for()
    registry, cache = Registry((card,)), Cache(tmp_path, check_payload)
    assert list_cached(cache, registry) == []
    with serving() as stub:
        fetch(stub, tmp_path)
    (entry,) = list_cached(cache, registry)
    assert (entry.bytes, entry.sha256) == (300_000, sha256(stub.payload))
    (verdict,) = verify_cached(cache, registry)
    assert verdict.problem is None
    damage(entry.path)
    (verdict,) = verify_cached(cache, registry)
    assert "recorded on" in str(verdict.problem)
    assert entry.path.exists()
    left = tmp_path / "staging" / "x~1"
    left.mkdir(parents=True)
    (left / "data").write_bytes(b"12345")
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "killed.lock").touch()
    held = try_lock(locks / "held.lock")
    planned = prune(cache, [card], dry_run=True)
    stale = (locks / "killed.lock", 0)
    assert [(r.path, r.bytes) for r in planned] == [(left, 5), stale, (entry.path, 300_000)]
    assert entry.path.exists()
    assert prune(cache, [card]) == planned
    assert not entry.path.exists()
    assert partials(tmp_path) == []
    assert [path.name for path in locks.iterdir()] == ["held.lock"]
    assert held is not None
    release(held, remove=True)
    assert cache.record(FILENAME) is not None


def test_a_file_with_the_wrong_pinned_hash_is_not_even_loaded(tmp_path):
    def check(*_):
        raise AssertionError("loaded")

    with serving() as stub, pytest.raises(IntegrityError, match="its card says 0000"):
        fetch(stub, tmp_path, card_for(sha256="0" * 64), check=check)
