"""Image folders, and what `open_images` makes of a place."""

import pickle
from pathlib import Path

import pytest

from esm_core.errors import InputError
from esm_core.images import open_images
from esm_core.storage import Location


def test_class_subfolders_are_labels_in_sorted_order(tmp_path, write_files):
    folder = write_files(tmp_path, {"dog/1.png": b"d1", "cat/1.png": b"c1", "cat/deeper/2.JPG": b"c2"})
    images = open_images(folder)
    assert images.class_names == ("cat", "dog")
    assert images.sample_ids() == ["cat/1.png", "cat/deeper/2.JPG", "dog/1.png"]
    assert [(s.id, s.label, s.data) for s in images.read_all()] == [
        ("cat/1.png", 0, b"c1"),
        ("cat/deeper/2.JPG", 0, b"c2"),
        ("dog/1.png", 1, b"d1"),
    ]


def test_images_directly_in_the_folder_are_unlabelled(tmp_path, write_files):
    images = open_images(write_files(tmp_path, {"b.png": b"b", "a.png": b"a"}))
    assert images.class_names is None
    assert [(s.id, s.label) for s in images.read_all()] == [("a.png", None), ("b.png", None)]


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "webp", "Gif", "tif", "tiff", "ppm"])
def test_every_image_suffix_in_any_case(tmp_path, write_files, suffix):
    assert open_images(write_files(tmp_path, {f"a.{suffix}": b""})).sample_ids() == [f"a.{suffix}"]


def test_other_and_hidden_files_are_ignored(tmp_path, write_files):
    names = [
        "a.png",
        "._a.png",
        ".git/b.png",
        "cat/.thumbs/c.png",
        "README.md",
        "labels.csv",
        "png",
        "d.png.txt",
    ]
    images = open_images(write_files(tmp_path, dict.fromkeys(names, b"")))
    assert images.sample_ids() == ["a.png"]
    assert images.class_names is None


def test_samples_come_in_the_order_asked(tmp_path, write_files):
    images = open_images(write_files(tmp_path, {f"{i}.png": bytes([i]) for i in range(4)}))
    assert [s.data for s in images.read(["2.png", "0.png", "2.png"])] == [b"\2", b"\0", b"\2"]


def test_an_image_that_is_not_there_is_named_at_once(tmp_path, write_files):
    images = open_images(write_files(tmp_path, {"a.png": b""}))
    with pytest.raises(InputError, match=r"has no image 'b.png'"):
        images.read(["a.png", "b.png"])


def test_an_image_removed_after_the_listing_is_named(tmp_path, write_files):
    images = open_images(write_files(tmp_path, {"a.png": b""}))
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png: no such file"):
        list(images.read(["a.png"]))


def test_listing_reads_no_image(tmp_path, write_files, monkeypatch):
    folder = write_files(tmp_path, {"cat/a.png": b"a"})

    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(Location, "read_bytes", refuse)
    monkeypatch.setattr(Location, "open", refuse)
    assert open_images(folder).sample_ids() == ["cat/a.png"]


def test_the_listing_order_of_the_storage_does_not_matter(tmp_path, write_files, monkeypatch):
    folder = write_files(tmp_path, {f"{c}/{i}.png": bytes([i]) for c in "ba" for i in range(3)})
    usual = open_images(folder)
    names = folder.files()
    monkeypatch.setattr(Location, "files", lambda _: names[::-1])
    reverse = open_images(folder)
    assert reverse.sample_ids() == usual.sample_ids()
    assert reverse.class_names == usual.class_names
    assert list(reverse.read_all()) == list(usual.read_all())


def test_a_source_can_be_sent_to_another_process(tmp_path, write_files):
    images = open_images(write_files(tmp_path, {"cat/a.png": b"a"}))
    assert list(pickle.loads(pickle.dumps(images)).read_all()) == list(images.read_all())  # noqa: S301


def test_an_empty_folder_holds_no_images(here):
    with pytest.raises(InputError, match=r"holds no images \(looked for jpg, .*\.parquet.*\.tar shards"):
        open_images(here)


def test_a_missing_place(here):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        open_images(here / "nowhere")


def test_a_folder_with_two_kinds_says_what_they_are(tmp_path, write_files):
    folder = write_files(tmp_path, {"cat/a.png": b"", "train-0.tar": b""})
    with pytest.raises(
        InputError, match=r"image files \(cat/a.png\) and webdataset .*train-0.tar.*Give a folder"
    ):
        open_images(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.png", "a single image; give the folder"),
        ("a.tar.gz", "compressed tar must be decompressed"),
        ("labels.csv", "neither an image folder"),
    ],
)
def test_a_file_that_is_not_a_source(tmp_path: Path, write_files, name, message):
    with pytest.raises(InputError, match=message):
        open_images(write_files(tmp_path, {name: b""}) / name)
