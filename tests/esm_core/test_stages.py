import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm_core import InputError, IntegrityError
from esm_core.stages import (
    FORMAT,
    MARKER,
    canonical_json,
    check_format,
    digest_of,
    is_complete,
    read_marker,
    read_versioned,
    write_marker,
)
from esm_core.storage import Location

IDENTITY = {"checkpoint": "abc", "samples": 32, "layers": ["a", "b"], "method": {"rank": None, "p": 2.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "stage"))


def test_a_digest_is_a_sha256_that_does_not_depend_on_the_order_of_keys() -> None:
    digest = digest_of("collect", IDENTITY)
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")
    assert digest == digest_of("collect", dict(reversed(IDENTITY.items())))


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "abd"},
        {"samples": 33},
        {"samples": "32"},
        {"layers": ["b", "a"]},
        {"method": {"rank": 1, "p": 2.0}},
        {"method": {"rank": None, "p": 2.0000000000000004}},
        {"more": None},
    ],
    ids=str,
)
def test_a_digest_changes_with_every_field(change: dict[str, Any]) -> None:
    assert digest_of("collect", IDENTITY | change) != digest_of("collect", IDENTITY)


def test_a_digest_changes_with_the_stage_and_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = digest_of("collect", IDENTITY)
    assert digest_of("merge", IDENTITY) != digest
    monkeypatch.setattr("esm_core.stages.FORMAT", FORMAT + 1)
    assert digest_of("collect", IDENTITY) != digest


def test_what_has_no_exact_json_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"alpha": float("nan")})
    with pytest.raises(TypeError):
        canonical_json({"path": Path("x")})
    assert canonical_json({"b": 1, "a": [None, "ü"]}) == b'{"a":[null,"\\u00fc"],"b":1}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(value=json_values)
def test_canonical_json_reads_back_and_is_stable(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_a_stage_is_complete_when_its_marker_is_there(folder: Location) -> None:
    (folder / "data").write_bytes(b"much")
    assert not is_complete(folder)
    with pytest.raises(InputError, match="no such file"):
        read_marker(folder)
    write_marker(folder, {"rows": {"w": 3}, "lineage": []})
    assert is_complete(folder)
    assert read_marker(folder) == {"rows": {"w": 3}, "lineage": []}


def test_a_marker_of_a_newer_format_is_refused_with_the_way_out(folder: Location) -> None:
    (folder / MARKER).write_bytes(json.dumps({"format": FORMAT + 1, "other": "shape"}).encode())
    with pytest.raises(IntegrityError, match=rf"written in format {FORMAT + 1}.*Upgrade esmerge"):
        read_marker(folder)
    check_format(folder, FORMAT)
    with pytest.raises(IntegrityError, match="format 99"):
        check_format(folder, 99)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"format": 1',
        b'{"facts": {}}',
        b'{"format": 1}',
        b'{"format": null, "facts": {}}',
        b'{"format": "one", "facts": {}}',
        b'{"format": Infinity, "facts": {}}',
        b'{"format": 1, "facts": 3}',
        b'{"format": 1, "facts": ["a"]}',
        b'{"format": 1, "facts": []}',
    ],
    ids=str,
)
def test_a_damaged_marker_is_named(folder: Location, damaged: bytes) -> None:
    (folder / MARKER).write_bytes(damaged)
    with pytest.raises(IntegrityError, match=rf"{MARKER}: is damaged"):
        read_marker(folder)


def test_other_small_files_of_the_store_are_read_by_their_own_key(folder: Location) -> None:
    (folder / "plan.json").write_bytes(canonical_json({"format": FORMAT, "plan": {"a": 1}}))
    assert read_versioned(folder / "plan.json", "plan") == {"a": 1}
    with pytest.raises(IntegrityError, match=r"plan\.json: is damaged"):
        read_versioned(folder / "plan.json", "facts")
