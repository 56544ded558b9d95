"""`audio:DIR`: WAV files, one folder per class or with the class in their names, as log-mel spectrograms."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tacit.models.data.assemble import Part, assemble
from tacit.models.data.options import check_options, check_task, listed, real_number, whole_number
from tacit.models.data.rows import Column, Source
from tacit.models.data.spectrograms import frame_count, log_mel
from tacit.models.data.wav_file import read_wav
from tacit.models.errors import InputError

_OPTIONS = ("pattern", "sample_rate", "resample", "seconds", "mels", "classes")
_SUFFIX = ".wav"
_PATTERN_PART = re.compile(r"(\{[^}]*\}|\*)")
_MEANINGS = {"{label}": "(?P<label>.+?)", "{client}": "(?P<client>.+?)", "*": ".*?"}
# Each of these makes the match try every place once more; a file name is short.
_MAX_BLANKS = 3
# Beyond this ratio the filter of a resampling is longer than most clips.
_MAX_RATIO = 1000


@dataclass(frozen=True)
class _Sound:
    """How every clip is heard."""

    sample_rate: int
    seconds: float
    mels: int
    resample: bool

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.mels, frame_count(self.samples, self.sample_rate)


@dataclass(frozen=True)
class _Named:
    """A file, and what its place and name say about it."""

    path: Path
    label: str
    client: str = ""


def open_audio(location: str, options: Mapping[str, str], *, task: str, label: str) -> Source:
    """Open a folder of sounds, perhaps below train/ and test/.

    Each clip becomes one image column of shape `(1, mels, frames)`; see `spectrograms`. Options: `pattern={label}_*`
    takes the class from the files' names instead of their folders, and `{client}` in it says whose they are;
    `sample_rate=16000` samples a second, which all files must have unless `resample=yes`; `seconds=1` to which clips
    are cut, or filled up with silence; `mels=40` bands; `classes=a,b` fixes the classes and their order.

    Raises:
        InputError: there are no clips, a file cannot be read or has another sample rate, or a name does not fit.
    """
    check_options("audio", options, _OPTIONS)
    check_task("audio", task, ("audio-classification",))
    sound = _sound(options)
    pattern = _pattern(options["pattern"]) if "pattern" in options else None
    folder = Path(location)
    if not folder.is_dir():
        raise InputError("there is no such folder", where=location, right="a folder with one folder per class")
    has_parts = (folder / "train").is_dir()
    train_files = _files(folder / "train" if has_parts else folder, pattern)
    test_files = _files(folder / "test", pattern) if has_parts and (folder / "test").is_dir() else []
    if not train_files:
        right = "CLASS/NAME.wav" if pattern is None else "NAME.wav"
        raise InputError("holds no clips", where=location, right=right)
    clients = sorted({file.client for file in train_files} - {""})
    return assemble(
        (Column("spectrogram", "image", sound.shape),),
        _part(train_files, sound, clients),
        _part(test_files, sound, []) if test_files else None,
        task=task,
        label=label,
        where=location,
        classes=listed(options, "classes"),
        file_names=tuple(clients),
    )


def _sound(options: Mapping[str, str]) -> _Sound:
    if options.get("resample", "yes") != "yes":
        raise InputError("is not understood", where="option resample", right="resample=yes, or no such option")
    return _Sound(
        sample_rate=whole_number(options, "sample_rate", 16_000, minimum=4000, maximum=192_000),
        seconds=real_number(options, "seconds", 1.0, minimum=0.1, maximum=60.0),
        mels=whole_number(options, "mels", 40, minimum=8, maximum=128),
        resample="resample" in options,
    )


def _pattern(text: str) -> re.Pattern[str]:
    """Return what the names of files, without .wav, must look like."""
    where, right = "option pattern", "{label} once, perhaps {client} and *, such as {label}_{client}_*"
    parts = _PATTERN_PART.split(text)
    blanks = parts[1::2]
    if any(blank not in _MEANINGS for blank in blanks) or blanks.count("{label}") != 1 or blanks.count("{client}") > 1:
        raise InputError("is not understood", where=where, right=right)
    if len(blanks) > _MAX_BLANKS:
        raise InputError(f"has {len(blanks)} blanks", where=where, right=f"at most {_MAX_BLANKS}")
    return re.compile("".join(_MEANINGS.get(part) or re.escape(part) for part in parts), re.DOTALL)


def _files(folder: Path, pattern: re.Pattern[str] | None) -> list[_Named]:
    """Return the clips in `folder`, or in its class folders, in a fixed order."""
    if pattern is not None:
        return [_named(path, pattern) for path in _clips(folder)]
    return [
        _Named(path, kind.name)
        for kind in sorted(folder.iterdir())
        if kind.is_dir() and not kind.name.startswith(".")
        for path in _clips(kind)
    ]


def _clips(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == _SUFFIX and path.is_file() and not path.name.startswith(".")
    ]


def _named(path: Path, pattern: re.Pattern[str]) -> _Named:
    match = pattern.fullmatch(path.stem)
    if match is None:
        raise InputError("the name does not fit", where=str(path), right="names that fit the option pattern")
    found = match.groupdict()
    return _Named(path, found["label"], found.get("client", ""))


def _part(files: list[_Named], sound: _Sound, clients: list[str]) -> Part:
    pixels = np.empty((len(files), *sound.shape), dtype=np.uint8)
    for row, file in enumerate(files):
        pixels[row, 0] = log_mel(_heard(file.path, sound), sound.sample_rate, sound.mels)
    numbers = {client: number for number, client in enumerate(clients)}
    return Part(
        {"spectrogram": pixels},
        np.array([file.label for file in files], dtype=object),
        place=lambda row: str(files[row].path),
        files=np.array([numbers[file.client] for file in files] if clients else [], dtype=np.int64),
    )


def _heard(path: Path, sound: _Sound) -> NDArray[np.float32]:
    """Return the clip at the sample rate and of the length of all others."""
    clip = read_wav(path, sound.seconds)
    samples = clip.samples
    if clip.sample_rate != sound.sample_rate:
        divisor = math.gcd(clip.sample_rate, sound.sample_rate)
        up, down = sound.sample_rate // divisor, clip.sample_rate // divisor
        if not sound.resample:
            raise InputError(
                f"has {clip.sample_rate} samples a second",
                where=str(path),
                right=f"{sound.sample_rate}, or the option sample_rate= or resample=yes",
            )
        if max(up, down) > _MAX_RATIO:
            raise InputError(
                f"has {clip.sample_rate} samples a second, which has no simple ratio to {sound.sample_rate}",
                where=str(path),
                right=f"a ratio of numbers up to {_MAX_RATIO}",
            )
        # Here, because importing it takes longer than reading many clips that need no resampling.
        from scipy.signal import resample_poly

        samples = np.asarray(resample_poly(samples, up, down), dtype=np.float32)
    result = np.zeros(sound.samples, dtype=np.float32)
    result[: len(samples)] = samples[: len(result)]
    return result
