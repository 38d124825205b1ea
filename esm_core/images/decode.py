"""From encoded bytes to an RGB image, refusing what is damaged or absurdly large."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from esm_core.errors import InputError
from esm_core.images.base import Sample
from esm_core.storage import Location

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: 512 MB as 24-bit RGB."""

# Only these parsers see the bytes; PIL's others include one that starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


def decode(sample: Sample, source_location: Location) -> Image.Image:
    """The sample as an RGB image, otherwise as stored: neither rotated by EXIF nor resized.

    Of an animation, the first frame. Alpha is dropped, as torchvision and open_clip do in training.
    Of 16 bits per channel, the upper 8 are kept.

    Raises
    ------
    InputError
        The bytes are not an image of a known format, are damaged or cut short, declare more than
        ``MAX_PIXELS`` pixels (found in the header, before decoding), or hold 32-bit or floating-point
        pixels, whose range is not defined.
    """
    what = f"{source_location}: image {sample.id!r}"
    try:
        with Image.open(io.BytesIO(sample.data), formats=_FORMATS) as image:
            width, height = image.size
            # PIL's own limit can be raised or removed by any library in the process.
            if width * height > MAX_PIXELS:
                raise InputError(f"{what} declares {width} x {height} pixels{_TOO_LARGE}")
            image.load()
            return _to_rgb(image, what)
    except (InputError, MemoryError, Image.DecompressionBombWarning):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{what} declares too many pixels ({error}){_TOO_LARGE}") from error
    except Exception as error:  # PIL's parsers raise anything on damaged bytes; no storage is read here
        # PIL's own text for this one holds a memory address, so that equal reasons would look different.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no known image format" if unknown else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{what} cannot be decoded ({reason}); it is truncated, damaged or not "
            f"one of {', '.join(_FORMATS)}. Replace or remove it."
        ) from error


_TOO_LARGE = ", more than the 178 megapixels that are decoded; shrink or remove it."


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        # PIL's own conversion would clip at 255: a white image instead of a picture.
        upper = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if mode in ("I", "F"):
        raise InputError(
            f"{what} has 32-bit or floating-point pixels, whose black and white are not defined; store it "
            "with 8 or 16 bits per channel."
        )
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBa"):
        image = image.convert("RGBA")
    return image.convert("RGB")
