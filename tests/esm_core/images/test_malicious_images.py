"""Images made to harm: refused with a clear error, quickly, and without taking the memory they claim."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounded import opened_in_bounds
from PIL import Image
from services import S3Server

from esm_core import InputError
from esm_core.images import open_images
from esm_core.images.base import MAX_BYTES
from esm_core.storage import Location

pytestmark = pytest.mark.fault

BOUND = 160 * 2**20
"""A fifteenth of what the smallest of these claims to hold."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims a size; its rows are zeros, compressed a thousand times."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def small_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def bombs() -> dict[str, bytes]:
    text = zlib.compress(bytes(2**28), 9)
    frame = struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    jpeg = io.BytesIO()
    Image.new("L", (8, 8)).save(jpeg, "JPEG")
    start = jpeg.getvalue().index(b"\xff\xc0")
    return {
        "colour.png": png(50_000, 50_000),
        "one-bit.png": png(50_000, 50_000, bits=1, colour=0),
        "sixteen-bits.png": png(50_000, 50_000, bits=16, colour=6),
        "largest.png": png(2**31 - 1, 2**31 - 1),
        "text.png": png(4, 4, chunk(b"zTXt", b"a\0\0" + text)),
        "profile.png": png(4, 4, chunk(b"iCCP", b"a\0\0" + text)),
        "screen.gif": b"GIF89a" + frame + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x00;",
        "plain.ppm": b"P6 50000 50000 255\n" + bytes(1000),
        "plain.bmp": b"BM" + struct.pack("<IHHIIiiHH", 1000, 0, 0, 54, 40, 50_000, 50_000, 1, 24) + bytes(24),
        "frame.jpg": jpeg.getvalue()[: start + 5] + b"\xff\xff\xff\xff" + jpeg.getvalue()[start + 9 :],
    }


def refused(paths: list[Path], bound: int = BOUND) -> dict[str, str]:
    found = opened_in_bounds("images", paths)
    for name, refusal in found.items():
        assert refusal.outcome.startswith("InputError: file://"), (name, refusal.outcome)
        assert len(refusal.outcome) < 1000, (name, refusal.outcome)
        assert refusal.took < bound, (name, refusal.took)
    return {name: refusal.outcome for name, refusal in found.items()}


def test_images_that_claim_to_be_huge(tmp_path: Path) -> None:
    folders = []
    for name, data in bombs().items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(data)
        folders.append(folder)
    huge = tmp_path / "huge"
    huge.mkdir()
    with (huge / "a.png").open("wb") as stream:
        stream.write(png(4, 4))
        stream.truncate(2**40)
    outcomes = refused([*folders, huge])
    assert f"image 'a.png' has {2**40} bytes; at most {MAX_BYTES} are read" in outcomes["huge"]


@pytest.mark.s3
def test_a_file_on_s3_that_is_huge_or_empty(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esm_core.images.folder.MAX_BYTES", 1000)
    folder = s3.bucket() / "images"
    (folder / "empty.png").write_bytes(b"")
    (folder / "good.png").write_bytes(small_png())
    (folder / "huge.png").write_bytes(bytes(1001))
    source = open_images(folder)
    assert [sample.data for sample in source.read(["empty.png", "good.png"])] == [b"", small_png()]
    with pytest.raises(InputError, match=r"image 'huge\.png' has more than"):
        list(source.read(["huge.png"]))


# Tar shards.


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header that claims a size, in the form that can hold any."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def shards() -> dict[str, tuple[bytes, int]]:
    """Content, and the size that the (sparse) file has."""
    image = member("a.png", len(small_png())) + small_png().ljust(512, b"\0")
    end = bytes(1024)
    huge = 2**33
    return {
        "image.tar": (image + member("b.png", huge), 3 * 512 + huge + 1024),
        "label.tar": (image + member("a.cls", huge), 3 * 512 + huge + 1024),
        "beyond-the-file.tar": (image + member("b.png", 2**62), 0),
        "negative.tar": (image + member("b.png", -512) + end, 0),
        "back-to-the-start.tar": (image + member("b.txt", -2048) + end, 0),
        "long-name.tar": (member("x", huge, tarfile.GNUTYPE_LONGNAME), huge),
        "long-link.tar": (member("x", huge, tarfile.GNUTYPE_LONGLINK), huge),
        "pax.tar": (member("x", huge, tarfile.XHDTYPE), huge),
        "global-pax.tar": (member("x", huge, tarfile.XGLTYPE), huge),
        "negative-name.tar": (member("x", -1024, tarfile.GNUTYPE_LONGNAME), huge),
        "negative-pax.tar": (member("x", -1024, tarfile.XHDTYPE), huge),
    }


def test_tar_shards(tmp_path: Path) -> None:
    paths = []
    for name, (content, size) in shards().items():
        path = tmp_path / name
        path.write_bytes(content)
        if size:
            with path.open("r+b") as stream:
                stream.truncate(size)
        paths.append(path)
    for name, outcome in refused(paths).items():
        assert name in outcome


# Parquet.


def write(path: Path, images: list[bytes], **options: object) -> Path:
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), path, **options)
    return path


def test_parquet_files(tmp_path: Path) -> None:
    bomb = write(tmp_path / "page.parquet", [bytes(2**29)], compression="zstd")
    assert bomb.stat().st_size < 2**20
    good = write(tmp_path / "rows.parquet", [small_png()] * 3, compression="none")
    # Rows that are nothing: a million of them are a few bytes.
    nothing = tmp_path / "nulls.parquet"
    pq.write_table(pa.table({"image": pa.nulls(20_000_000, pa.binary())}), nothing, compression="zstd")
    assert nothing.stat().st_size < 2**20
    footer = tmp_path / "footer.parquet"
    footer.write_bytes(b"PAR1")
    with footer.open("r+b") as stream:
        stream.truncate(2**33)
        stream.seek(2**33 - 8)
        stream.write((2**32 - 1).to_bytes(4, "little") + b"PAR1")
    assert [sample.data for sample in open_images(Location.parse(str(good))).read_all()] == [small_png()] * 3
    outcomes = refused([bomb, nothing, footer])
    assert "would unpack" in outcomes["page.parquet"]
    assert "claims 20000000 rows" in outcomes["nulls.parquet"]
    assert "claims a footer of 4294967295 bytes" in outcomes["footer.parquet"]
