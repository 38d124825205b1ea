"""Encoded bytes to RGB."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from esm_core.errors import InputError
from esm_core.images import Sample
from esm_core.images.decode import decode
from esm_core.storage import Location

PLACE = Location("s3://pets/proxy")


def decoded(data: bytes) -> Image.Image:
    return decode(Sample("cat/1", None, data), PLACE)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def colours(data: bytes) -> list[tuple[int, ...]]:
    image = decoded(data)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"])
def test_every_format(format):
    image = decoded(encoded(Image.new("RGB", (9, 7), (250, 10, 10)), format))
    assert (image.mode, image.size) == ("RGB", (9, 7))
    assert np.allclose(np.asarray(image), (250, 10, 10), atol=8)


def test_pixels_are_untouched(make_image):
    data = make_image(3)
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(Image.open(io.BytesIO(data))))


def test_greyscale_becomes_equal_channels():
    assert colours(encoded(Image.fromarray(np.array([[0, 90, 255]], np.uint8)))) == [
        (0, 0, 0),
        (90, 90, 90),
        (255, 255, 255),
    ]


def test_black_and_white():
    assert colours(encoded(Image.new("1", (1, 1), 1))) == [(255, 255, 255)]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(format):
    picture = Image.fromarray(np.array([[0, 0x1234, 0x80FF, 0xFFFF]], np.uint16))
    assert colours(encoded(picture, format)) == [(v, v, v) for v in (0, 0x12, 0x80, 0xFF)]


def test_sixteen_bits_big_endian():
    picture = Image.frombytes("I;16B", (2, 1), b"\x12\x34\xff\xff")
    assert colours(encoded(picture, "TIFF")) == [(0x12,) * 3, (0xFF,) * 3]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"), [("RGBA", (200, 9, 8, 0), (200, 9, 8)), ("LA", (90, 5), (90,) * 3)]
)
def test_alpha_is_dropped_as_in_training(mode, colour, expected):
    assert colours(encoded(Image.new(mode, (1, 1), colour))) == [expected]


@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palette_with_and_without_transparency(transparency):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    options = {} if transparency is None else {"transparency": transparency}
    assert colours(encoded(picture, **options)) == [(255, 0, 0), (0, 0, 255)]


def test_cmyk():
    assert colours(encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "TIFF")) == [(255, 255, 255)]


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (2, 2), c) for c in ((255, 0, 0), (0, 0, 255))]
    assert set(colours(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))) == {(255, 0, 0)}


def test_exif_does_not_rotate():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decoded(encoded(Image.new("RGB", (9, 7)), "JPEG", exif=exif)).size == (9, 7)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode):
    with pytest.raises(InputError, match=r"image 'cat/1' has 32-bit or floating-point pixels"):
        decoded(encoded(Image.new(mode, (2, 2)), "TIFF"))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP", "PPM"])
def test_a_truncated_image_is_named(make_image, format):
    data = make_image(size=(64, 64), format=format)
    with pytest.raises(InputError, match=r"^s3://pets/proxy: image 'cat/1' cannot be decoded"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_bytes_are_named(data):
    with pytest.raises(InputError, match=r"s3://pets/proxy: image 'cat/1' cannot be decoded"):
        decoded(data)


# A header that claims a size between PIL's first limit and ours: PIL warns, which here would be an error.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@example(at=20, value=137, format="BMP")
@given(
    at=st.integers(0, 400), value=st.integers(0, 255), format=st.sampled_from(["PNG", "GIF", "BMP", "WEBP"])
)
def test_damage_is_an_input_error_or_harmless(make_image, at, value, format):
    data = bytearray(make_image(format=format))
    data[at % len(data)] = value
    try:
        image = decoded(bytes(data))
    except InputError:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("limit", ["PIL's", None, 10])
def test_a_bomb_is_refused_whatever_the_limit_of_pil(monkeypatch, limit):
    if limit != "PIL's":
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    before = PIL.Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"image 'cat/1' declares .* pixels.*178 megapixels"):
        decoded(png_header(60_000, 60_000))
    assert before == PIL.Image.MAX_IMAGE_PIXELS


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("the image was decoded"))
    with pytest.raises(InputError, match="declares 13378 x 13378 pixels"):
        decoded(png_header(13_378, 13_378))
