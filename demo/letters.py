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


Range = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Darkest and brightest RGB values of a colour that is drawn at random."""


@dataclass(frozen=True)
class Look:
    """Colours of the ground and of the letter."""

    ground: Range
    ink: Range


@dataclass(frozen=True)
class Script:
    """Letters by class name, the font files of each split (none is in two), and the look of their source.

    Every script has a look of its own, as data sets have: many capital letters are the same in all three,
    so nothing else in an image would say which task it belongs to.
    """

    name: str
    letters: dict[str, str]
    fonts: dict[SplitName, tuple[str, ...]]
    look: Look


BOOK = Look(ground=((205, 200, 185), (250, 245, 235)), ink=((0, 0, 0), (80, 75, 75)))
STREET_SIGN = Look(ground=((0, 40, 110), (40, 90, 190)), ink=((205, 205, 205), (255, 255, 255)))
POSTER = Look(ground=((150, 15, 15), (215, 70, 60)), ink=((225, 195, 90), (255, 250, 200)))


def _named(names: str, first: str) -> dict[str, str]:
    """Letters that follow each other in Unicode, by name; ``-`` skips one."""
    return {name: chr(ord(first) + i) for i, name in enumerate(names.split()) if name != "-"}


SCRIPTS = (
    Script("latin", {letter: letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}, _WITH_COMPUTER_MODERN, BOOK),
    Script(
        "greek",
        _named(
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho - "
            "sigma tau upsilon phi chi psi omega",
            "Α",
        ),
        _DEJAVU_AND_STIX,
        STREET_SIGN,
    ),
    Script(
        "cyrillic",
        _named(
            "a be ve ghe de ie zhe ze i short-i ka el em en o pe er es te u ef ha tse che sha shcha "
            "hard-sign yeru soft-sign e yu ya",
            "А",
        ),
        _DEJAVU_AND_STIX,
        POSTER,
    ),
)


def draw_letters(script: Script, split: SplitName, count: int, rng: np.random.Generator) -> Split:
    """``count`` images, every letter equally often up to one, in random fonts and poses."""
    names = sorted(script.letters)
    labels = np.sort(np.arange(count) % len(names))
    images = [
        _draw(script.letters[names[label]], _font(str(rng.choice(script.fonts[split]))), script.look, rng)
        for label in labels
    ]
    return Split(np.stack(images), labels)


def _draw(
    letter: str, font: ImageFont.FreeTypeFont, look: Look, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One letter on a plain ground: turned, scaled, shifted."""
    canvas = 3 * SIZE
    mask = Image.new("L", (canvas, canvas))
    ImageDraw.Draw(mask).text((canvas / 2, canvas / 2), letter, fill=255, font=font, anchor="mm")
    mask = mask.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    side = rng.uniform(0.8, 1.0) * canvas
    x, y = (canvas - side) / 2 + rng.uniform(-0.05, 0.05, 2) * canvas
    window = (x, y, x + side, y + side)
    mask = mask.transform((SIZE * 2, SIZE * 2), Image.Transform.EXTENT, window, Image.Resampling.BILINEAR)
    ink = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)[..., None] / 255
    ground, colour = rng.uniform(*look.ground), rng.uniform(*look.ink)
    noise = rng.normal(0, 4, (SIZE, SIZE, 1))
    pixels: NDArray[np.uint8] = (ground + (colour - ground) * ink + noise).clip(0, 255).astype(np.uint8)
    return pixels


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    path = files("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    with path.open("rb") as file:
        return ImageFont.truetype(io.BytesIO(file.read()), size=68, layout_engine=ImageFont.Layout.BASIC)
