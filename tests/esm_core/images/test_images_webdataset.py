"""Webdataset tar shards."""

import io
import tarfile

import pytest

from esm_core.errors import InputError, TransientStorageError
from esm_core.images import open_images
from esm_core.storage import Location


def test_a_sample_is_an_image_and_its_label(tmp_path, write_tar, label_json):
    members = {
        "000.jpg": b"a",
        "000.cls": b"3\n",
        "001.json": label_json(5),
        "001.png": b"b",
        "002.PNG": b"c",
    }
    images = open_images(write_tar(tmp_path / "train.tar", members))
    assert images.class_names is None
    assert images.sample_ids() == ["train.tar/000", "train.tar/001", "train.tar/002"]
    assert [(s.id, s.label, s.data) for s in images.read_all()] == [
        ("train.tar/000", 3, b"a"),
        ("train.tar/001", 5, b"b"),
        ("train.tar/002", None, b"c"),
    ]


def test_a_folder_of_shards(tmp_path, write_tar, here):
    for shard in ("b", "a"):
        write_tar(tmp_path / f"{shard}.tar", {f"{i}.jpg": f"{shard}{i}".encode() for i in range(2)})
    images = open_images(here)
    assert images.sample_ids() == ["a.tar/0", "a.tar/1", "b.tar/0", "b.tar/1"]
    assert [s.data for s in images.read_all()] == [b"a0", b"a1", b"b0", b"b1"]
    assert [s.data for s in images.read(["b.tar/1", "a.tar/0"])] == [b"b1", b"a0"]


def test_parts_of_a_sample_need_not_lie_together(tmp_path, write_tar):
    members = {"1.cls": b"1", "0.cls": b"0", "0.png": b"zero", "1.png": b"one"}
    images = open_images(write_tar(tmp_path / "a.tar", members))
    assert {s.id: (s.label, s.data) for s in images.read_all()} == {
        "a.tar/0": (0, b"zero"),
        "a.tar/1": (1, b"one"),
    }
    assert [s.data for s in images.read(images.sample_ids())] == [b"zero", b"one"]


def test_a_plain_tar_of_a_folder(tmp_path, write_files):
    write_files(
        tmp_path / "pictures", {"cat/a.png": b"a", "cat/._a.png": b"", "notes.txt": b"", "b.png": b"b"}
    )
    with tarfile.open(tmp_path / "plain.tar", "w") as tar:
        tar.add(tmp_path / "pictures", arcname=".")
    images = open_images(Location.parse(str(tmp_path / "plain.tar")))
    assert images.sample_ids() == ["plain.tar/b", "plain.tar/cat/a"]
    assert {s.data for s in images.read_all()} == {b"a", b"b"}


def test_an_empty_member_is_an_empty_image(tmp_path, write_tar):
    images = open_images(write_tar(tmp_path / "a.tar", {"a.png": b""}))
    assert [s.data for s in images.read(["a.tar/a"])] == [b""] == [s.data for s in images.read_all()]


def test_the_listing_keeps_no_image_in_memory(tmp_path, write_tar, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", {f"{i:03}.png": bytes(100_000) for i in range(50)})
    longest = 0

    class Watched(io.BytesIO):
        def read(self, size=-1):
            nonlocal longest
            longest = max(longest, len(data := super().read(size)))
            return data

    stored = tar.read_bytes()
    monkeypatch.setattr(Location, "open", lambda _: Watched(stored))
    assert len(open_images(tar).sample_ids()) == 50
    assert longest <= 512


@pytest.mark.parametrize("label", ["cat", None, True, 1.5])
def test_a_json_label_that_is_no_integer_is_no_label(tmp_path, write_tar, label_json, label):
    images = open_images(write_tar(tmp_path / "a.tar", {"a.png": b"", "a.json": label_json(label)}))
    assert [s.label for s in images.read_all()] == [None]


def test_minus_one_is_how_datasets_write_unlabelled(tmp_path, write_tar):
    images = open_images(write_tar(tmp_path / "a.tar", {"a.png": b"", "a.cls": b"-1"}))
    assert [s.label for s in images.read_all()] == [None]


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("a.cls", b"cat", r"the .cls of 'a.tar/a' is b'cat'; a class index"),
        ("a.cls", b"-3", r"'a.tar/a' has label -3; labels count from 0"),
        ("a.json", b"{", r"the .json of 'a.tar/a' is not valid JSON"),
    ],
)
def test_a_bad_label_is_named(tmp_path, write_tar, member, data, message):
    images = open_images(write_tar(tmp_path / "a.tar", {"a.png": b"", member: data}))
    with pytest.raises(InputError, match=message):
        list(images.read_all())


def test_two_images_of_one_name_are_refused(tmp_path, write_tar):
    images = open_images(write_tar(tmp_path / "a.tar", {"shot.1.png": b"", "shot.2.png": b""}))
    with pytest.raises(InputError, match=r"'a.tar/shot' has more than one image, the last being shot.2.png"):
        images.sample_ids()


def test_a_tar_without_images(tmp_path, write_tar):
    images = open_images(write_tar(tmp_path / "a.tar", {"a.txt": b"", "b.cls": b"1"}))
    for ask in (images.sample_ids, images.read_all):
        with pytest.raises(InputError, match=r"a\.tar: holds no images"):
            ask()


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(0, id="nothing"),
        pytest.param(300, id="in the first header"),
        pytest.param(512 + 700, id="in the first image"),
        pytest.param(2048, id="between two members, where tarfile notices nothing"),
        pytest.param(2048 + 100, id="in the second header, where tarfile notices nothing"),
        pytest.param(2048 + 512 + 999, id="in the last image"),
        pytest.param(2 * 2048, id="before the end-of-archive block"),
    ],
)
def test_a_truncated_tar_is_refused(tmp_path, write_tar, kept):
    tar = write_tar(tmp_path / "a.tar", {"0.png": bytes(1500), "1.png": bytes(1500)})
    tar.write_bytes(tar.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"a\.tar: is (not a complete tar|truncated)"):
        open_images(tar).sample_ids()


def test_a_damaged_header_does_not_hide_the_images_behind_it(tmp_path, write_tar):
    tar = write_tar(tmp_path / "a.tar", {f"{i}.png": bytes(1500) for i in range(3)})
    data = bytearray(tar.read_bytes())
    data[2048 + 150] ^= 0xFF  # in the checksum
    tar.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a\.tar: is damaged: there is no tar header at byte 2048"):
        open_images(tar).sample_ids()


def test_a_compressed_tar_named_tar(tmp_path, write_tar):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"not a complete tar file .* compressed"):
        open_images(Location.parse(str(tmp_path / "a.tar"))).sample_ids()


def test_a_connection_lost_while_reading_may_be_retried(tmp_path, write_tar, monkeypatch):
    place = write_tar(tmp_path / "a.tar", {"a.png": b"x"})
    images = open_images(place)
    images.sample_ids()

    class Lost(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("peer")

    monkeypatch.setattr(Location, "open", lambda _: Lost())
    for ask in (lambda: list(images.read_all()), open_images(place).sample_ids):
        with pytest.raises(TransientStorageError, match=r"a\.tar: could not read it for now"):
            ask()
