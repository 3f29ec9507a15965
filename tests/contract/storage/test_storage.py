"""What every storage promises, over each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.storage import check_writable, open_object, open_storage
from agent.storage.access import Access

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage

MIB = 1024 * 1024


def content(size: int) -> bytes:
    """Bytes of which no two parts are alike."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8 + 1))[:size]


def whole(storage: Storage, name: str) -> bytes:
    return b"".join(storage.read(name))


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 33 * MIB + 3])
def test_what_was_put_is_read_and_downloaded_as_it_was(storage: Storage, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(content(size))
    storage.put("deep/er/file.bin", source)
    assert storage.size("deep/er/file.bin") == size
    assert whole(storage, "deep/er/file.bin") == source.read_bytes()
    storage.download("deep/er/file.bin", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_an_object_replaces_one_of_its_name(storage: Storage) -> None:
    storage.put_bytes("x", b"first, and longer")
    storage.put_bytes("x", b"second")
    assert whole(storage, "x") == b"second"


def test_a_version_is_of_a_content_also_where_another_is_as_long(storage: Storage) -> None:
    storage.put_bytes("x", b"first one")
    first = storage.version("x")
    assert first == storage.version("x") != ""
    storage.put_bytes("x", b"other one")
    assert storage.version("x") != first
    with pytest.raises(FileNotFoundError):
        storage.version("missing")


def test_a_copy_has_the_content_and_leaves_the_original(storage: Storage) -> None:
    storage.put_bytes("a", b"content")
    storage.copy("a", "b/c")
    assert (whole(storage, "a"), whole(storage, "b/c")) == (b"content", b"content")


@pytest.mark.parametrize("name", ["ä ö", "a+b&c=d", "100%25", "#hash?query", "x.tar.gz"])
def test_names_are_taken_as_they_are(storage: Storage, name: str) -> None:
    storage.put_bytes(name, b"1")
    storage.copy(name, f"copy of {name}")
    assert list(storage.names()) == sorted([name, f"copy of {name}"])
    assert whole(storage, f"copy of {name}") == b"1"


def test_what_is_not_there_is_a_file_not_found(storage: Storage, tmp_path: Path) -> None:
    storage.put_bytes("other", b"")
    with pytest.raises(FileNotFoundError):
        whole(storage, "missing")
    with pytest.raises(FileNotFoundError):
        storage.size("missing")
    with pytest.raises(FileNotFoundError):
        storage.copy("missing", "x")
    with pytest.raises(FileNotFoundError):
        storage.download("missing", tmp_path / "target")
    assert not storage.exists("missing")
    assert storage.exists("other")
    assert not (tmp_path / "target").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_removing_takes_all_below_and_nothing_beside(storage: Storage) -> None:
    for number in range(5):
        storage.put_bytes(f".attempts/1/deep/{number}", b"x")
    storage.put_bytes(".attempts/10/kept", b"x")
    storage.put_bytes("kept", b"x")
    storage.remove_below(".attempts/1")
    storage.remove_below(".attempts/1")
    assert list(storage.names()) == [".attempts/10/kept", "kept"]


def test_a_check_leaves_nothing(storage: Storage) -> None:
    check_writable(storage)
    assert list(storage.names()) == []


def test_an_object_is_opened_by_its_own_uri(storage: Storage, uri: str, request: pytest.FixtureRequest) -> None:
    storage.put_bytes("data/rows 1.jsonl", b"{}")
    access = Access() if uri.startswith("file:") else request.getfixturevalue("store").access()
    name = "rows%201.jsonl" if uri.startswith("file:") else "rows 1.jsonl"
    opened, name = open_object(f"{uri}data/{name}", access)
    assert whole(opened, name) == b"{}"
    assert list(open_storage(f"{uri}data", access).names()) == ["rows 1.jsonl"]
