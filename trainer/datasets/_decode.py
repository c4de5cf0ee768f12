"""Decode one image into 8-bit RGB: which formats and modes are read, and within which bounds."""

from __future__ import annotations

import io
import os
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..accounting.config import STRICT, PositiveInt

RULES = 2  # raised when other files are read, or into other pixels, than before

# The first bytes of a file decide: opened by these classes, no file reaches another decoder, nor
# the bound of `Image.open`, which warns on the terminal; `max_pixels` is the bound here.
_FORMATS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"RIFF", WebPImageFile),
    (b"BM", BmpImageFile),
)
FORMATS = "JPEG, PNG, WebP, BMP"
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ALONE_FROM = 1 << 24  # pixels from which images are decoded one at a time
_alone = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Options of reading the pixels of image files."""

    __pydantic_config__ = STRICT

    # drop: colours as stored, also where they are transparent; white, black: laid on that colour.
    transparency: Literal["drop", "white", "black"] = field(
        default="drop", metadata={"id_default": "drop"}
    )
    # stored: rows as in the file; upright: turned as EXIF says.
    orientation: Literal["stored", "upright"] = field(
        default="stored", metadata={"id_default": "stored"}
    )
    # A larger image is refused before memory is taken: decoding takes up to 12 bytes a pixel.
    max_pixels: PositiveInt = field(default=1 << 26, metadata={"id_default": 1 << 26})


def readability(reading: Reading) -> str:
    """Return a text that differs where other files can be read."""
    return f"{RULES} {reading.max_pixels}{pixel_rules(reading)}"


def pixel_rules(reading: Reading) -> str:
    """Return a text that differs where pixels do; empty for the defaults."""
    ground = "" if reading.transparency == "drop" else f" transparency={reading.transparency}"
    turned = "" if reading.orientation == "stored" else f" orientation={reading.orientation}"
    return ground + turned


class ReadError(ValueError):
    """The file system gave no bytes: no fault of the image."""


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text that every stream can print: bytes that are not UTF-8 as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decode_image(
    source: bytes | Path, name: str | os.PathLike[str], reading: Reading | None = None
) -> np.ndarray:
    """Decode an image into uint8 RGB [H, W, 3].

    16-bit gray keeps its high byte, as Pillow has it of 16-bit colours. Raises: ReadError when the
    file system gives no bytes; ValueError for every damage, another format, too many pixels; both
    with the name.
    """
    reading = reading or Reading()
    try:
        if isinstance(source, bytes):
            return _decoded(io.BytesIO(source), reading)
        if source.exists() and not source.is_file():
            raise ValueError("it is no regular file")
        with open(source, "rb") as file:
            return _decoded(file, reading)
    except MemoryError as error:  # of the machine: the image may be sound
        raise MemoryError(f"data: {shown(name)}: no memory to decode it") from error
    except OSError as error:
        if error.errno is not None:
            why = _broken_link(source) or error.strerror
            raise ReadError(f"data: {shown(name)} cannot be read: {why}") from error
        raise _refusal(name, error) from error
    # Damaged files make Pillow's decoders raise whatever their code meets.
    except Exception as error:
        raise _refusal(name, error) from error


def _refusal(name: str | os.PathLike[str], error: Exception) -> ValueError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"data: {shown(name)} cannot be read as an image: {why}")


def _broken_link(source: bytes | Path) -> str:
    if isinstance(source, bytes) or not source.is_symlink() or source.exists():
        return ""
    return f"it is a link to {shown(os.readlink(source))}, which is not there"


def _decoded(file: IO[bytes], reading: Reading) -> np.ndarray:
    head = file.read(12)
    file.seek(0)
    kind = next((kind for magic, kind in _FORMATS if head.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"it is {_format_of(head)}; allowed: {FORMATS}")
    try:
        return _pixels(kind, file, reading)
    except ValueError:
        if kind is not PngImageFile:
            raise
        # Pillow refuses long texts and colour profiles, which no pixel needs.
        file.seek(0)
        lean = _without_text(file.read())
        return _pixels(kind, io.BytesIO(lean), reading)


def _pixels(kind: type[ImageFile], file: IO[bytes], reading: Reading) -> np.ndarray:
    with kind(file) as image:
        pixels = image.width * image.height
        if pixels > reading.max_pixels:
            raise TooLarge(
                f"{image.width} x {image.height} are {pixels} pixels; allowed: at most "
                f"{reading.max_pixels} (the data set's max_pixels)"
            )
        with _alone if pixels >= _ALONE_FROM else nullcontext():
            return np.asarray(_as_rgb(image, reading))


class TooLarge(Exception):
    """An image has more pixels than allowed."""


def _as_rgb(image: Image.Image, reading: Reading) -> Image.Image:
    if reading.orientation == "upright" and image.getexif().get(ExifTags.Base.Orientation):
        image = ImageOps.exif_transpose(image)
    image.load()
    keyed = image.info.get("transparency")  # one colour, or alpha of a palette
    if image.mode in _DEEP:
        deep_HW = np.asarray(image).astype(np.uint16)
        image = Image.fromarray((deep_HW >> 8).astype(np.uint8))
        if keyed is not None and reading.transparency != "drop":
            image.putalpha(Image.fromarray(np.where(deep_HW == keyed, 0, 255).astype(np.uint8)))
    elif image.mode not in _MODES:
        raise ValueError(f"its mode is {image.mode}; allowed: {', '.join(_MODES)}, I;16")
    elif isinstance(keyed, tuple) and max(keyed) > 255 and reading.transparency != "drop":
        raise ValueError(
            "its transparent colour has 16 bits; allowed: 8 bits, an alpha channel, or the option "
            "transparency=drop"
        )
    if reading.transparency != "drop" and image.has_transparency_data:
        ground = Image.new("RGBA", image.size, reading.transparency)
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    # Pillow warns of palettes with transparency unless alpha is made explicit first.
    palette = image.mode == "P" and keyed is not None
    return (image.convert("RGBA") if palette else image).convert("RGB")


def _without_text(png: bytes) -> bytes:
    """Leave out the text and profile chunks of a PNG file."""
    kept, at = [png[:8]], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] not in _TEXT_CHUNKS:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _format_of(head: bytes) -> str:
    """Name the format of a file that is none of ours, by Pillow's list; nothing is decoded."""
    if not head:
        return "empty"
    Image.init()
    for name in sorted(Image.OPEN):
        accept = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return name
    return "no image of a known format"
