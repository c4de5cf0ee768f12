"""Image files that are odd, damaged, hostile or too large: read rightly, or refused by name."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tokenlaw.trainer.datasets import _files, imagefolder, lsun, parquet
from tokenlaw.trainer.datasets._decode import Reading, decode_image, shown

RAMP = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
NOISE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_HOME", str(tmp_path / "home"))


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, *, bits=8, colour=2, rows=b"", key=b""):
    """A PNG file chunk by chunk: Pillow does not write all that it reads."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pieces = [chunk(b"IHDR", header), chunk(b"tRNS", key) if key else b""]
    pieces += [chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def table(path, images, labels, **options):
    column = [{"bytes": content, "path": None} for content in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(column, kind), "label": pa.array(labels, pa.int64())}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


# ------------------------------------------------------------------------------------ right pixels


@pytest.mark.parametrize("kind", ["gray", "gray with alpha", "colour"])
def test_16_bits_become_the_high_byte(kind):
    if kind == "gray":
        content = encoded(RAMP)
    else:
        deep = np.repeat(RAMP[:, :, None], 2 if kind == "gray with alpha" else 3, axis=2)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
        content = png(64, 64, bits=16, colour=4 if kind == "gray with alpha" else 2, rows=rows)
    image_HWC = decode_image(content, "ramp.png")
    assert (image_HWC == (RAMP >> 8).astype(np.uint8)[:, :, None]).all()
    assert abs(image_HWC.mean() - 127.5) < 0.5 and (image_HWC == 255).mean() < 0.005


def test_a_long_text_or_profile_does_not_hide_good_pixels():
    text, packed, international = PngInfo(), PngInfo(), PngInfo()
    text.add_text("note", "a" * (70 << 20))
    packed.add_text("note", "a" * (3 << 20), zip=True)
    international.add_itxt("note", "a" * (3 << 20), zip=True)
    for options in (
        {"pnginfo": text},
        {"pnginfo": packed},
        {"pnginfo": international},
        {"icc_profile": bytes(3 << 20)},
    ):
        content = encoded(NOISE, **options)
        assert (decode_image(content, "x.png") == NOISE).all(), options.keys()


def half_transparent(kind):
    """Red, opaque on the left; on the right transparent."""
    if kind == "palette":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([0, 0, 0, 255, 0, 0, 255, 0, 0])
        image.paste(2, (2, 0, 4, 2))
        buffer = io.BytesIO()
        image.save(buffer, "png", transparency=bytes([255, 255, 0]))
        return buffer.getvalue()
    if kind == "key of 16-bit gray":
        rows = (b"\0" + struct.pack(">4H", 0x4C00, 0x4C00, 0x4CFF, 0x4CFF)) * 2
        return png(4, 2, bits=16, colour=0, rows=rows, key=struct.pack(">H", 0x4CFF))
    alpha_HW = np.array([[255, 255, 0, 0]] * 2, np.uint8)
    colour_HWC = np.zeros((2, 4, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    if kind == "gray and alpha":
        gray_HW = np.full((2, 4), 0x4C, np.uint8)
        image = Image.merge("LA", [Image.fromarray(gray_HW), Image.fromarray(alpha_HW)])
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()
    rgba_HWC = np.dstack([colour_HWC, alpha_HW])
    return (
        encoded(rgba_HWC, "webp", lossless=True, exact=True)
        if kind == "webp"
        else encoded(rgba_HWC)
    )


@pytest.mark.parametrize(
    "kind", ["rgba", "webp", "palette", "gray and alpha", "key of 16-bit gray"]
)
def test_transparency_shows_the_colour_below_or_the_ground(kind):
    content = half_transparent(kind)
    stored = [0x4C] * 3 if "gray" in kind else [255, 0, 0]
    for reading, right in (
        (None, stored),
        (Reading(transparency="white"), [255] * 3),
        (Reading(transparency="black"), [0] * 3),
    ):
        image_HWC = decode_image(content, "x", reading)
        assert image_HWC[0, 0].tolist() == stored and image_HWC[0, 3].tolist() == right


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "16-bit png"])
def test_orientation_is_as_stored_or_upright(kind):
    image_HWC = np.zeros((2, 3, 3), np.uint8)
    image_HWC[:, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    if kind == "16-bit png":
        deep_HW = image_HWC[:, :, 0].astype(np.uint16) << 8
        content = encoded(deep_HW, "png", exif=exif)
    else:
        content = encoded(image_HWC, kind, exif=exif, quality=100)
    assert decode_image(content, "x").shape == (2, 3, 3)
    upright = decode_image(content, "x", Reading(orientation="upright"))
    assert upright.shape == (3, 2, 3) and upright[2].min() > 200 and upright[0].max() < 60


def test_options_of_reading_keep_the_ids_of_before_and_move_the_digest(tmp_path):
    from tokenlaw.trainer.accounting.identity import id_tree

    folder = tmp_path / "set"
    for half in ("train", "val"):
        (folder / half / "a").mkdir(parents=True)
        (folder / half / "a" / "0.png").write_bytes(encoded(NOISE))
    table(folder / "train.parquet", [encoded(NOISE)], [0])
    table(folder / "val.parquet", [encoded(NOISE)], [0])
    os.symlink(folder / "train", folder / "room_train")
    os.symlink(folder / "val", folder / "room_val")
    for module, options in ((imagefolder, {}), (parquet, {}), (lsun, {"category": "room"})):
        plain = module.Config(**options)
        assert not {"transparency", "orientation", "max_pixels"} & set(id_tree(plain))
        digests = {
            module.describe(module.Config(**options, **more), folder).digest
            for more in ({}, {"transparency": "white"}, {"orientation": "upright"})
        }
        assert len(digests) == 3  # pixels that are kept by digest must not be mixed


# --------------------------------------------------------------------------------- refused by name

OTHER = {
    "gif": lambda: encoded(NOISE, "gif"),
    "tiff": lambda: encoded(NOISE, "tiff"),
    "float tiff": lambda: encoded(NOISE[:, :, 0].astype(np.float32), "tiff"),
    "ppm": lambda: encoded(NOISE, "ppm"),
    "ico": lambda: encoded(NOISE, "ico"),
    "eps": lambda: encoded(NOISE, "eps"),
    "jpeg2000": lambda: encoded(NOISE, "jpeg2000"),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "empty": lambda: b"",
    "riff": lambda: b"RIFF\x04\0\0\0WAVEfmt ",
    "header only": lambda: png(4, 4)[:40],
    "no rows": lambda: png(4, 4),
    "too many pixels": lambda: png(13000, 13000),
    "huge": lambda: png(2**31 - 1, 2**31 - 1),
    "no width": lambda: png(0, 4),
    "truncated": lambda: encoded(NOISE, "jpeg")[:-40],
}
SAYS = {
    "gif": "it is GIF; allowed: JPEG, PNG, WebP, BMP",
    "tiff": "it is TIFF; allowed",
    "float tiff": "it is TIFF; allowed",
    "ppm": "it is PPM; allowed",
    "ico": "it is ICO; allowed",
    "eps": "it is EPS; allowed",
    "empty": "it is empty; allowed",
    "pointer": "it is no image of a known format; allowed",
    "too many pixels": "13000 x 13000 are 169000000 pixels; allowed: at most 67108864",
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_image_is_named_or_left_out_in_every_data_set(tmp_path, name):
    bad, good = OTHER[name](), encoded(NOISE)
    folder = tmp_path / "set"
    for half in ("train", "val"):
        (folder / half / "a").mkdir(parents=True)
        (folder / half / "a" / "0.png").write_bytes(good)
    (folder / "train" / "a" / "1.png").write_bytes(bad)
    table(folder / "train.parquet", [good, bad], [0, 0])
    table(folder / "val.parquet", [good], [0])
    for module, place in (
        (imagefolder, "train/a/1.png"),
        (parquet, "train.parquet row group 0 row 1"),
    ):
        with pytest.raises(ValueError) as caught:
            module.open_split(module.Config(), folder, "train").image(1)
        text = str(caught.value)
        assert text.startswith(f"data: {folder}/{place} cannot be read as an image: ")
        assert SAYS.get(name, "") in text and "\n" not in text and " object at 0x" not in text
        facts = module.describe(module.Config(on_broken="skip"), folder)
        assert (facts.num_train, facts.skipped) == (1, 1)


@pytest.mark.parametrize("kind", ["png", "16-bit png", "palette", "jpeg", "webp", "bmp"])
def test_every_damage_is_named(kind):
    """Bytes flipped, cut out and cut off, also with the options that look at more of the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = {
        "png": lambda: encoded(NOISE, "png", exif=exif),
        "16-bit png": lambda: encoded(RAMP[:16, :16], "png", exif=exif),
        "palette": lambda: half_transparent("palette"),
        "jpeg": lambda: encoded(NOISE, "jpeg", exif=exif),
        "webp": lambda: encoded(NOISE, "webp", exif=exif),
        "bmp": lambda: encoded(NOISE, "bmp"),
    }[kind]()
    draw = random.Random(0)
    readings = (None, Reading(transparency="white", orientation="upright"))
    named = 0
    for number in range(150):
        content = bytearray(whole)
        at = draw.randrange(len(content))
        if number % 3 == 0:
            del content[at:]
        elif number % 3 == 1:
            del content[at : at + draw.randrange(1, 9)]
        for _ in range(draw.randrange(1, 4) if content else 0):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        for reading in readings:
            try:
                image_HWC = decode_image(bytes(content), "set/x.img", reading)
            except ValueError as error:
                named += 1
                assert str(error).startswith("data: set/x.img cannot be read as an image: ")
            else:
                assert image_HWC.dtype == np.uint8 and image_HWC.shape[2] == 3
    assert named > 50


def test_a_transparent_colour_of_16_bits_is_not_guessed():
    rows = (b"\0" + struct.pack(">6H", 65535, 300, 0, 1, 2, 3)) * 2
    content = png(2, 2, bits=16, rows=rows, key=struct.pack(">3H", 65535, 300, 0))
    assert decode_image(content, "x")[0, 0].tolist() == [255, 1, 0]
    with pytest.raises(ValueError, match="x cannot be .* transparent colour has 16 bits; allowed"):
        decode_image(content, "x", Reading(transparency="white"))


# ------------------------------------------------------------------------------ links, pipes, names


def link(path):
    path.symlink_to("nowhere.png")


def circle(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (link, "it is a link to nowhere.png, which is not there"),
        (circle, "it is a link to 1.png, which is not there"),
        (os.mkfifo, "it is no regular file"),
    ],
)
def test_what_leads_to_no_file_is_named_or_left_out(tmp_path, make, why):
    for half in ("train", "val"):
        (tmp_path / half / "a").mkdir(parents=True)
        (tmp_path / half / "a" / "0.png").write_bytes(encoded(NOISE))
    make(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(ValueError, match=rf"train/a/1\.png cannot be read.*: {why}"):
        imagefolder.describe(imagefolder.Config(), tmp_path)
    facts = imagefolder.describe(imagefolder.Config(on_broken="skip"), tmp_path)
    assert (facts.num_train, facts.skipped) == (1, 1)


def test_a_disk_that_fails_is_no_broken_image(tmp_path, monkeypatch):
    for half in ("train", "val"):
        (tmp_path / half / "a").mkdir(parents=True)
        (tmp_path / half / "a" / "0.png").write_bytes(encoded(NOISE))
    config = imagefolder.Config(on_broken="skip")
    (tmp_path / "train" / "a" / "0.png").chmod(0)
    real = open

    def failing(path, *args, **kwargs):
        if str(path).endswith("train/a/0.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", failing)  # root may open what others may not
    with pytest.raises(ValueError, match=r"train/a/0\.png cannot be read: Permission denied"):
        imagefolder.describe(config, tmp_path)


def test_names_of_any_bytes(tmp_path):
    folder = tmp_path / "set"
    for half in ("train", "val"):
        (folder / half / "a").mkdir(parents=True)
        name = os.fsencode(folder / half / "a") + b"/caf\xe9.png"
        Path(os.fsdecode(name)).write_bytes(encoded(NOISE))
    os.symlink(folder / "train", folder / "room_train")
    for module, options in ((imagefolder, {}), (lsun, {"category": "room", "num_val_held_out": 1})):
        if module is lsun:
            held_out_pair(folder)
        config = module.Config(**options)
        first = module.describe(config, folder)
        assert module.describe(config, folder) == first
        assert (module.open_split(config, folder, "train").image(0) == NOISE).all()
    path = Path(os.fsdecode(os.fsencode(folder) + b"/train/a/caf\xe9.png"))
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a/caf\\xe9\.png cannot be read as an image") as caught:
        imagefolder.open_split(imagefolder.Config(), folder, "train").image(0)
    str(caught.value).encode()  # every stream can print it
    assert shown("caf\u00e9.png") == "caf\u00e9.png"


def held_out_pair(folder):
    """One part of LSUN with two images: one of them is held out."""
    (folder / "room_train").unlink()
    (folder / "room").mkdir()
    for number in range(2):
        name = os.fsencode(folder / "room") + b"/\xff%d.png" % number
        Path(os.fsdecode(name)).write_bytes(encoded(NOISE))


# ------------------------------------------------------------------------------ the cache of hashes


def test_a_torn_line_is_no_entry_whatever_its_bytes(tmp_path, monkeypatch):
    for half in ("train", "val"):
        (tmp_path / half / "\u732b").mkdir(parents=True)
        for number in range(2):
            path = tmp_path / half / "\u732b" / f"{number}\t\U0001f408.png"
            path.write_bytes(encoded(NOISE))
    config = imagefolder.Config()
    first = imagefolder.describe(config, tmp_path)
    cache = _files._cache_path(tmp_path)
    lines = cache.read_bytes().lstrip().splitlines(keepends=True)
    draw = random.Random(0)
    torn = [lines[0][:length] + b"\n" for length in range(len(lines[0]))]
    torn += [lines[0].replace(b"\t", b"\t" + bytes([value]), 1) for value in range(256)]
    torn += [lines[0][:-1] + tail + b"\n" for tail in (b"\\u73", b"\\", b"\\d", b"\\U00110000")]
    torn += [draw.randbytes(90) + b"\n" for _ in range(20)]
    cache.write_bytes(b"".join(torn) + b"".join(lines))
    monkeypatch.setattr(_files, "_sha256", None)  # nothing is hashed again
    assert imagefolder.describe(config, tmp_path) == first


def test_findings_by_other_rules_are_not_taken(tmp_path):
    for half in ("train", "val"):
        (tmp_path / half / "a").mkdir(parents=True)
        (tmp_path / half / "a" / "0.png").write_bytes(encoded(NOISE))
    (tmp_path / "train" / "a" / "1.png").write_bytes(encoded(RAMP))
    for limit, skipped in ((1000, 1), (5000, 0), (1000, 1)):
        config = imagefolder.Config(on_broken="skip", max_pixels=limit)
        assert imagefolder.describe(config, tmp_path).skipped == skipped
    cache = _files._cache_path(tmp_path)
    # As written before rules were noted: the hash holds, the finding does not.
    old = b"".join(
        b"\t".join([*fields[:3], b"0", fields[4]])
        for fields in (line.split(b"\t") for line in cache.read_bytes().splitlines(keepends=True))
        if len(fields) == 5
    )
    cache.write_bytes(old)
    assert imagefolder.describe(imagefolder.Config(on_broken="skip"), tmp_path).skipped == 0


def test_a_full_disk_is_named_and_a_short_write_is_gone_on_with(tmp_path):
    path, lines = tmp_path / "cache.tsv", ["a" * 99 + "\n"] * 100
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match=r"cache\.tsv"):
            _files._append(path, lines)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 5000 and len(lines) == 100
    _files._append(path, lines)
    assert path.read_bytes()[5000:] == b"\n" + 100 * (b"a" * 99 + b"\n") and not lines


# ------------------------------------------------------------------------------------------ parquet


def flipped(path, column, *, kept=False):
    """Damage the first page of a column."""
    row_group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [row_group.column(place) for place in range(row_group.num_columns)]
    (chunk,) = (chunk for chunk in chunks if chunk.path_in_schema == column)
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(path.read_bytes())
    content[at : at + 12] = b"\xff" * 12
    path.write_bytes(content)


def metadata(path, text):
    whole = pq.read_table(path)
    pq.write_table(whole.replace_schema_metadata({"huggingface": text}), path)


PARQUET = {
    "metadata is no JSON": (lambda p: metadata(p, "{x"), "'huggingface' is no JSON"),
    "metadata is not UTF-8": (lambda p: metadata(p, b"\xff\xfe{"), "'huggingface' is no JSON"),
    "footer": (lambda p: p.write_bytes(p.read_bytes()[:-9]), "cannot be read as parquet"),
    "page of labels": (lambda p: flipped(p, "label"), "column label cannot be read as parquet"),
    "page of images": (
        lambda p: flipped(p, "image.bytes"),
        "row group 0 cannot be read as parquet: .* \\(row 1\\)",
    ),
    "empty": (lambda p: p.write_bytes(b""), "cannot be read as parquet"),
    "far more rows than bytes": (
        lambda p: table(p, [None] * 100_000, [0] * 100_000),
        "declares 100000 rows in .* bytes; allowed: at least a byte for each",
    ),
    "one image of zeros": (
        lambda p: table(p, [encoded(NOISE), bytes(2 << 20)], [0, 0], compression="zstd"),
        "image.bytes unpacks from .* to .* bytes; allowed: 1 MiB, or 16 times",
    ),
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_damaged_parquet_file_is_named(tmp_path, monkeypatch, name):
    make, words = PARQUET[name]
    monkeypatch.setattr(parquet, "UNPACKED_BYTES", 1 << 20)
    good = encoded(NOISE)
    path = table(tmp_path / "train.parquet", [good, good], [0, 0])
    table(tmp_path / "val.parquet", [good], [0])
    make(path)
    with pytest.raises(ValueError, match=rf"train\.parquet.*{words}") as caught:
        parquet.describe(parquet.Config(), tmp_path)
        parquet.open_split(parquet.Config(), tmp_path, "train").image(1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", '{"info": []}', '{"info": {"features": null}}'])
def test_metadata_of_another_form_names_no_classes(tmp_path, text):
    path = table(tmp_path / "train.parquet", [encoded(NOISE)] * 4, [0, 1] * 2)
    table(tmp_path / "val.parquet", [encoded(NOISE)] * 2, [0, 1])
    metadata(path, text)
    assert parquet.describe(parquet.Config(), tmp_path).num_classes == 2


def test_rows_of_a_damaged_page_are_left_out(tmp_path):
    good = encoded(NOISE)
    path = table(tmp_path / "train.parquet", [good] * 5, [0] * 5, row_group_size=2)
    table(tmp_path / "val.parquet", [good], [0])
    flipped(path, "image.bytes")
    facts = parquet.describe(parquet.Config(on_broken="skip"), tmp_path)
    assert (facts.num_train, facts.skipped) == (3, 2)


def test_every_flipped_byte_of_a_parquet_file_is_named_or_harmless(tmp_path):
    good = encoded(NOISE)
    path = table(tmp_path / "train.parquet", [good] * 2, [0, 0])
    table(tmp_path / "val.parquet", [good], [0])
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(2):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            parquet.describe(parquet.Config(), tmp_path)
            split = parquet.open_split(parquet.Config(), tmp_path, "train")
            for index in range(len(split)):
                split.image(index)
        except ValueError as error:
            assert "train.parquet" in str(error) or str(tmp_path) in str(error), error


# ------------------------------------------------------------------------------------------- memory

SMALL = """
import sys
from pathlib import Path
from tokenlaw.trainer.datasets import parquet
from tokenlaw.trainer.datasets._decode import decode_image
import pyarrow.parquet
folder = Path(sys.argv[1])
def peak():  # of this program alone; getrusage has the peak of the process that started it
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1])
before = peak()
for path in sorted(folder.glob("*.img")):
    try:
        decode_image(path, path)
    except ValueError as error:
        assert "pixels; allowed: at most" in str(error), error
    else:
        raise AssertionError(path)
for path in sorted(folder.glob("set-*")):
    try:
        parquet.describe(parquet.Config(), path)
        parquet.open_split(parquet.Config(), path, "train").image(0)
    except ValueError as error:
        print(error)
print((peak() - before) // 1024)
"""


def test_small_files_take_little_memory(tmp_path):
    row = b"\0" + bytes(-(-13000 // 8))
    (tmp_path / "png.img").write_bytes(png(13000, 13000, bits=1, colour=0, rows=row * 13000))
    (tmp_path / "bmp.img").write_bytes(bmp_header(30000, 30000))
    jpeg = encoded(NOISE, "jpeg")
    at = jpeg.index(b"\xff\xc0") + 5
    (tmp_path / "jpeg.img").write_bytes(
        jpeg[:at] + struct.pack(">HH", 60000, 60000) + jpeg[at + 4 :]
    )
    webp = bytearray(encoded(np.dstack([NOISE, NOISE[:, :, :1]]), "webp", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = struct.pack("<I", 12000 << 14 | 12000)
    (tmp_path / "webp.img").write_bytes(webp)
    good = encoded(NOISE)
    for name, images in (
        ("set-one value", [bytes(300 << 20)]),
        ("set-many rows", [os.urandom(1 << 20)] * 300),
    ):
        path = tmp_path / name / "train.parquet"
        table(
            path, images, [0] * len(images), compression="zstd", dictionary_pagesize_limit=1 << 30
        )
        table(tmp_path / name / "val.parquet", [good], [0])
        del images
    done = subprocess.run(
        [sys.executable, "-c", SMALL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tiny.ROOT,
        timeout=120,
    )
    assert done.stderr == ""  # Pillow's warning of large images is not printed
    *lines, megabytes = done.stdout.splitlines()
    assert len(lines) == 2 and int(megabytes) < 150, done.stdout


def bmp_header(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def test_a_larger_image_is_read_where_the_study_allows_it():
    row = b"\0" + bytes(-(-9000 // 8))
    content = png(9000, 9000, bits=1, colour=0, rows=row * 9000)
    with pytest.raises(ValueError, match="9000 x 9000 are 81000000 pixels"):
        decode_image(content, "x")
    with contextlib.suppress(MemoryError):
        assert decode_image(content, "x", Reading(max_pixels=100_000_000)).shape == (9000, 9000, 3)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_an_image_within_the_bound_gives_no_warning_of_pillow(monkeypatch, kind):
    content = encoded(NOISE, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", NOISE[:, :, 0].size - 1)
    with warnings.catch_warnings(action="error"):
        assert decode_image(content, "x").shape == NOISE.shape


def test_kept_pixels_are_those_of_the_rules(tmp_path, monkeypatch):
    from tokenlaw.trainer.accounting import config as configs
    from tokenlaw.trainer.loop import data
    from tokenlaw.trainer.run import Settings

    for half in ("train", "val"):
        (tmp_path / half / "a").mkdir(parents=True)
        (tmp_path / half / "a" / "0.png").write_bytes(encoded(RAMP))
    facts = imagefolder.describe(imagefolder.Config(), tmp_path)
    counts = {name: getattr(facts, name) for name in ("digest", "num_train", "num_val")}
    tree = {"dataset": "imagefolder", "num_classes": 1, "resolution": 16, **counts}
    config = configs.decode(configs.DataConfig, tree)
    settings = Settings(locations={"data": str(tmp_path)})
    monkeypatch.setattr(data, "KEEP_FROM", 1)
    kept = set()
    for rules in (1, 2):  # as before 16 bits were scaled, and since
        monkeypatch.setattr(data, "RULES", rules)
        data.open_images(config, settings, "train").dense()
        kept = set((tmp_path / "home" / "cache" / "pixels").iterdir())
        assert len(kept) == rules
