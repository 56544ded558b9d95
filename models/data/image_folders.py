"""`images:DIR`: PNG and JPEG pictures, one folder per class, perhaps below train/ and test/."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task, listed, whole_number
from tacit.models.data.rows import Column, Source
from tacit.models.errors import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg")


def open_images(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a folder of class folders.

    Pictures are grey if all of them are, else colour. Options: `size=32` resizes every picture to 32 x 32 pixels
    (without it all must have one size); `channels=3` makes them colour and `channels=1` grey whatever they are;
    `classes=a,b` fixes the classes and their order.

    Raises:
        InputError: there are no pictures, a picture cannot be read or has another size, or pillow is not installed.
    """
    check_options("images", options, ("size", "channels", "classes"))
    check_task("images", task, ("image-classification",))
    size = whole_number(options, "size", 0, minimum=1, maximum=4096) if "size" in options else 0
    channels = options.get("channels", "")
    if channels not in ("", "1", "3"):
        raise InputError("is not understood", where="option channels", right="channels=1 (grey) or channels=3 (colour)")
    folder = Path(location)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=location, right="a folder with one folder per class")
    has_parts = (folder / "train").is_dir()
    train_paths = _pictures(folder / "train" if has_parts else folder)
    test_paths = _pictures(folder / "test") if has_parts and (folder / "test").is_dir() else []
    if not train_paths:
        raise InputError("holds no pictures", where=location, right="CLASS/NAME.png or .jpg")

    pixels = _read(train_paths + test_paths, size, {"1": "L", "3": "RGB"}.get(channels))
    train = _part(train_paths, pixels[: len(train_paths)])
    test = _part(test_paths, pixels[len(train_paths) :]) if test_paths else None
    columns = (Column("image", "image", pixels.shape[1:]),)
    return assemble(columns, train, test, task=task, label=label, where=location, classes=listed(options, "classes"))


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures in the class folders of `folder`, in a fixed order."""
    return [
        path
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and not kind.name.startswith(".")
        for path in sorted(kind.iterdir())
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]


def _part(paths: list[Path], pixels: NDArray[np.uint8]) -> Part:
    labels = np.array([path.parent.name for path in paths], dtype=object)
    return Part({"image": pixels}, labels, place=lambda row: str(paths[row]))


def _read(paths: list[Path], size: int, mode: str | None) -> NDArray[np.uint8]:
    """Return all pictures as one array of shape `(pictures, channels, height, width)`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("needs pillow", where="data source images", right="install tacit[agent]") from error
    pictures = [_picture(path, size, mode, Image) for path in paths]
    channels = max(picture.shape[0] for picture in pictures)
    first = pictures[0].shape[1:]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape[1:] != first:
            height, width = picture.shape[1:]
            raise InputError(
                f"is {width} x {height} pixels",
                where=str(path),
                right=f"{first[1]} x {first[0]} as the others, or the option size=",
            )
    result = np.empty((len(pictures), channels, *first), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        result[row] = picture
    return result


def _picture(path: Path, size: int, mode: str | None, image_module: Any) -> NDArray[np.uint8]:
    """Return one picture as `(1 or 3, height, width)`."""
    try:
        with warnings.catch_warnings():
            # A picture that claims an absurd size is refused before its pixels are unpacked.
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path, formats=("PNG", "JPEG")) as opened:
                own_mode = opened.mode
                # A palette may hold transparency, which only the detour through RGBA drops without a warning.
                picture = opened.convert("RGBA") if opened.mode == "P" else opened
                picture = picture.convert(mode or ("L" if own_mode in ("1", "L", "LA") else "RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        image_module.DecompressionBombWarning,
        image_module.DecompressionBombError,
    ):
        raise InputError("cannot be read, or is truncated", where=str(path), right="a PNG or JPEG picture") from None
    if own_mode.startswith(("I", "F")):
        raise InputError("has more than 8 bits a channel", where=str(path), right="8 bits a channel")
    if size:
        picture = picture.resize((size, size), image_module.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
