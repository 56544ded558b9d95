"""What the networks for images expect of their inputs."""

from __future__ import annotations

from tacit.models.errors import InputError

LEAST_PIXELS = 8  # of a height and a width


def image_shape(input_shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    """Return `(channels, height, width)`.

    Raises:
        InputError: `input_shape` is not of that form, or height or width is less than 8.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < LEAST_PIXELS:
        raise InputError(
            f"the inputs have shape {input_shape}",
            where=f"model {model}",
            right=f"expected (channels, height, width), {LEAST_PIXELS}x{LEAST_PIXELS} up",
        )
    channels, height, width = input_shape
    return channels, height, width
