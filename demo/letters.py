"""Capital letters of three scripts, drawn with the fonts that come with matplotlib."""

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from demo.splits import SIZE, Split, SplitName

_DEJAVU_AND_STIX: dict[SplitName, tuple[str, ...]] = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-BoldOblique",
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "DejaVuSansMono-BoldOblique",
        "DejaVuSerif",
        "DejaVuSerif-BoldItalic",
        "STIXGeneral",
        "STIXGeneralBolIta",
    ),
    "val": ("DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralItalic"),
    "test": ("DejaVuSans-Oblique", "DejaVuSerif-Bold", "STIXGeneralBol"),
}

_WITH_COMPUTER_MODERN: dict[SplitName, tuple[str, ...]] = {
    "train": (*_DEJAVU_AND_STIX["train"], "cmr10", "cmtt10", "cmmi10"),
    "val": (*_DEJAVU_AND_STIX["val"], "cmti10"),
    "test": (*_DEJAVU_AND_STIX["test"], "cmb10", "cmss10"),
}


@dataclass(frozen=True)
class Script:
    """Letters by class name, and the font files of each split (none is in two)."""

    name: str
    letters: dict[str, str]
    fonts: dict[SplitName, tuple[str, ...]]


def _named(names: str, first: str) -> dict[str, str]:
    """Letters that follow each other in Unicode, by name; ``-`` skips one."""
    return {name: chr(ord(first) + i) for i, name in enumerate(names.split()) if name != "-"}


SCRIPTS = (
    Script("latin", {letter: letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}, _WITH_COMPUTER_MODERN),
    Script(
        "greek",
        _named(
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho - "
            "sigma tau upsilon phi chi psi omega",
            "Α",
        ),
        _DEJAVU_AND_STIX,
    ),
    Script(
        "cyrillic",
        _named(
            "a be ve ghe de ie zhe ze i short-i ka el em en o pe er es te u ef ha tse che sha shcha "
            "hard-sign yeru soft-sign e yu ya",
            "А",
        ),
        _DEJAVU_AND_STIX,
    ),
)


def draw_letters(script: Script, split: SplitName, count: int, rng: np.random.Generator) -> Split:
    """``count`` images, every letter equally often up to one, in random fonts and poses."""
    names = sorted(script.letters)
    labels = np.sort(np.arange(count) % len(names))
    images = [
        _draw(script.letters[names[label]], _font(str(rng.choice(script.fonts[split]))), rng)
        for label in labels
    ]
    return Split(np.stack(images), labels)


def _draw(letter: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One letter on a plain ground: turned, scaled, shifted, in two colours that differ in brightness."""
    canvas = 3 * SIZE
    mask = Image.new("L", (canvas, canvas))
    ImageDraw.Draw(mask).text((canvas / 2, canvas / 2), letter, fill=255, font=font, anchor="mm")
    mask = mask.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
    side = rng.uniform(0.8, 1.15) * canvas
    x, y = (canvas - side) / 2 + rng.uniform(-0.09, 0.09, 2) * canvas
    window = (x, y, x + side, y + side)
    mask = mask.transform((SIZE * 2, SIZE * 2), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
    ink = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)[..., None] / 255
    ground, colour = rng.uniform(0, 90, 3), rng.uniform(140, 255, 3)
    if rng.random() < 0.5:
        ground, colour = colour, ground
    noise = rng.normal(0, 8, (SIZE, SIZE, 1))
    pixels: NDArray[np.uint8] = (ground + (colour - ground) * ink + noise).clip(0, 255).astype(np.uint8)
    return pixels


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    path = files("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    with path.open("rb") as file:
        return ImageFont.truetype(io.BytesIO(file.read()), size=68, layout_engine=ImageFont.Layout.BASIC)
