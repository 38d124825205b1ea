"""Whatever bytes a file holds: it opens, or InputError says why, and memory stays small."""

import json
import struct
import tempfile
import tracemalloc
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from esm_core.checkpoints import Checkpoint, SafetensorsFile, open_checkpoint
from esm_core.errors import InputError
from esm_core.storage import Location

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
TEXT = json.dumps(HEADER).encode()
VALID = struct.pack("<Q", len(TEXT)) + TEXT + bytes(range(32))

numbers = st.one_of(
    st.integers(-2, 40), st.integers(), st.booleans(), st.floats(), st.none(), st.text(max_size=3)
)
lists = st.lists(numbers, max_size=4)
entries = st.one_of(
    numbers,
    lists,
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(["F32", "BF16", "BOOL", "I64", "F4"]), numbers, lists),
            "shape": st.one_of(lists, numbers),
            "data_offsets": st.one_of(lists, numbers),
        },
    ),
)
headers = st.dictionaries(st.one_of(st.text(max_size=3), st.just("__metadata__")), entries, max_size=3)


def refusal(opener: Callable[[Location], Checkpoint], location: Location) -> str | None:
    try:
        checkpoint = opener(location)
    except InputError as error:
        return str(error)
    for name, info in checkpoint.tensors.items():
        assert tuple(checkpoint.read(name).shape) == info.shape
    return None


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = Location.parse(folder) / "model.safetensors"
        location.write_bytes(data)
        tracemalloc.start()
        try:
            for opener in (SafetensorsFile, open_checkpoint):
                message = refusal(opener, location)
                assert message is None or "model.safetensors" in message
                assert len(message or "") < 2000
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(headers, st.binary(max_size=40))
def test_any_header(header, data):
    text = json.dumps(header).encode()
    check(struct.pack("<Q", len(text)) + text + data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_valid_file_with_bytes_changed(changes):
    data = bytearray(VALID)
    for place, value in changes:
        data[place] = value
    check(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(VALID)), st.binary(max_size=8))
def test_a_valid_file_cut_off_or_continued(end, more):
    check(VALID[:end] + more)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes(data):
    check(data)
