import io
import os
import struct
import tarfile
import tracemalloc
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tacit.models.data import open_source
from tacit.models.data.rows import Schema, Source
from tacit.models.data.spectrograms import FLOOR_DECIBELS, band_edges, frame_count, log_mel, mel_filters
from tacit.models.data.wav_file import MAX_CHUNKS, read_wav
from tacit.models.errors import InputError

RATE = 8000
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def opened(folder: Path, options: str = f"sample_rate={RATE}", *, agreed: Schema | None = None) -> Source:
    return open_source(f"audio:{folder}?{options}", task="audio-classification", environ={}, agreed=agreed)


def refused(folder: Path, options: str = f"sample_rate={RATE}", *, task: str = "audio-classification") -> str:
    with pytest.raises(InputError) as caught:
        open_source(f"audio:{folder}?{options}", task=task, environ={})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sine(hertz: float, seconds: float = 1.0, rate: int = RATE, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def format_chunk(tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, more: bytes = b"") -> bytes:
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits) + more)


def write(path: Path, samples: np.ndarray | None = None, *, rate: int = RATE) -> Path:
    """Write 16-bit samples, full scale from -1 to 1, with the standard library."""
    values = np.zeros(rate // 10) if samples is None else samples
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(np.clip(values * 32768, -32768, 32767).astype("<i2").tobytes())
    return path


# The container


@given(
    width=st.sampled_from([1, 2, 3, 4]),
    channels=st.integers(1, 8),
    frames=st.integers(1, 20),
    data=st.data(),
)
def test_pcm_that_the_standard_library_writes_is_read_back(width, channels, frames, data):
    low, high = (0, 255) if width == 1 else (-(1 << (8 * width - 1)), (1 << (8 * width - 1)) - 1)
    count = frames * channels
    values = data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    content = b"".join(value.to_bytes(width, "little", signed=width > 1) for value in values)
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((channels, width, RATE, 0, "NONE", "not compressed"))
        file.writeframes(content)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(target.getvalue())
        clip = read_wav(path, 1.0)
    exact = (np.array(values, dtype=np.float64) - (128 if width == 1 else 0)) / (1 << (8 * width - 1))
    assert clip.sample_rate == RATE
    np.testing.assert_allclose(clip.samples, exact.reshape(frames, channels).mean(axis=1), rtol=0, atol=4e-7)


def test_floats_extensible_headers_and_chunks_between_are_read(tmp_path):
    values = np.array([0.5, -0.25, 2.0], dtype="<f4")
    plain = format_chunk(3, bits=32)
    extensible = format_chunk(0xFFFE, bits=32, more=struct.pack("<HHIH", 22, 32, 0, 3) + GUID_TAIL)
    notes = chunk(b"LIST", b"odd")
    for head in (plain, extensible, notes + plain + notes):
        (tmp_path / "a.wav").write_bytes(riff(head, chunk(b"data", values.tobytes())))
        assert read_wav(tmp_path / "a.wav", 1.0).samples.tolist() == [0.5, -0.25, 2.0]


def test_no_more_is_read_than_is_asked_for(tmp_path):
    path = write(tmp_path / "a.wav", sine(440, seconds=2.0))
    assert len(read_wav(path, 0.5).samples) == RATE // 2
    assert len(read_wav(path, 60.0).samples) == 2 * RATE


DATA = chunk(b"data", b"\1\0" * 400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no WAV file; RIFF and WAVE in the first 12 bytes"),
        (b"secret" * 100, "is no WAV file"),
        (b"RIFX" + riff(format_chunk(), DATA)[4:], "is no WAV file"),
        (riff(format_chunk(), DATA)[:-1], "is shorter than its header says; a whole WAV file"),
        (riff(format_chunk(), b"data" + struct.pack("<I", 0xFFFFFFFF) + b"\0" * 99), "is shorter than its header says"),
        (riff(b"LIST" + struct.pack("<I", 0xFFFFFFF0), format_chunk(), DATA), "is shorter than its header says"),
        (riff(DATA, format_chunk()), "has no format before its samples"),
        (riff(format_chunk()), "holds no samples; a data chunk"),
        (riff(format_chunk(), chunk(b"data", b"")), "holds no samples; at least one"),
        (riff(format_chunk(), chunk(b"data", b"\0\0\0")), "ends within a sample"),
        (riff(chunk(b"fmt ", b"\1\0"), DATA), "has a format chunk that is too short"),
        (riff(format_chunk(tag=2), DATA), "has format 2 with 16 bits; PCM of 8, 16, 24 or 32 bits, or 32-bit floats"),
        (riff(format_chunk(bits=12), DATA), "has format 1 with 12 bits"),
        (riff(format_chunk(tag=3, bits=64), DATA), "has format 3 with 64 bits"),
        (riff(format_chunk(channels=0), DATA), "has 0 channels; 1 to 8"),
        (riff(format_chunk(channels=4096), DATA), "has 4096 channels"),
        (riff(format_chunk(rate=0), DATA), "has 0 samples a second"),
        (riff(format_chunk(rate=0xFFFFFFFF), DATA), "has 4294967295 samples a second"),
        (riff(format_chunk(0xFFFE), DATA), "has an unknown format"),
        (riff(format_chunk(0xFFFE, more=b"\0" * 24), DATA), "has an unknown format"),
        (riff(format_chunk().replace(b"\2\0\x10\0", b"\4\0\x10\0"), DATA), "has a format that contradicts itself"),
        (
            riff(format_chunk(3, bits=32), chunk(b"data", struct.pack("<f", np.nan))),
            "holds a sample that is not finite",
        ),
        (
            riff(format_chunk(3, 2, bits=32), chunk(b"data", struct.pack("<2f", 3e38, 3e38))),
            "holds a sample that is not finite",
        ),
        (riff(*[chunk(b"LIST", b"")] * (MAX_CHUNKS + 1), format_chunk(), DATA), "holds too many chunks"),
    ],
)
def test_a_corrupted_file_is_one_line_and_costs_nothing(tmp_path, content, message):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "1.wav").write_bytes(content)
    write(tmp_path / "b" / "1.wav")
    opened_once = refused(tmp_path)  # so that what is imported and remembered at first use is not counted
    tracemalloc.start()
    try:
        assert refused(tmp_path) == opened_once
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"a/1.wav: {message}" in opened_once and "secret" not in opened_once
    assert peak < 1 << 20


@given(st.binary(max_size=80), st.integers(0, 60))
@example(b"\xff" * 8, 40)
@settings(deadline=None)
def test_any_bytes_are_a_clip_or_bad_input_in_one_line(noise, place):
    content = riff(format_chunk(), chunk(b"data", bytes(range(40))))
    content = content[:place] + noise + content[place + len(noise) :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(content)
        try:
            clip = read_wav(path, 1.0)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert len(clip.samples) > 0 and np.isfinite(clip.samples).all()


# The spectrogram


def test_a_full_scale_sine_whose_band_is_wide_has_nearly_the_highest_level():
    # Half of the top band is far wider than the window's main lobe of 160 Hz.
    edges = band_edges(RATE, 8)
    levels = log_mel(sine(edges[8]), RATE, 8)
    decibels = FLOOR_DECIBELS * (1 - levels[7] / 255.0)
    assert (edges[9] - edges[7]) / 2 > 3 * 160
    assert (decibels > -1.5).all() and (decibels <= 0).all()


@pytest.mark.parametrize("band", [10, 20, 30, 39])
def test_the_loudest_band_is_the_one_that_the_tone_is_in(band):
    tone = band_edges(16_000, 40)[band + 1]
    levels = log_mel(sine(tone, rate=16_000), 16_000, 40)
    assert set(levels.argmax(axis=0)) == {band}


def test_half_the_amplitude_is_six_decibels_less():
    loud, soft = (log_mel(sine(1000, amplitude=a), RATE, 20).astype(float) for a in (0.5, 0.25))
    heard = soft.min(axis=1) > 0
    steps = 20 * np.log10(2) / -FLOOR_DECIBELS * 255
    assert heard.any()
    np.testing.assert_allclose((loud - soft)[heard], steps, atol=1.0)


def test_silence_is_black_and_the_loudest_sound_is_white_at_most():
    assert log_mel(np.zeros(RATE), RATE, 40).max() == 0
    assert log_mel(np.full(RATE, 1e30) * sine(1000), RATE, 40).max() == 255


def test_a_sound_that_comes_one_hop_later_is_one_frame_later():
    random = np.random.default_rng(1)
    samples = random.normal(0.0, 0.1, RATE)
    later = np.concatenate([np.zeros(RATE // 100), samples])
    np.testing.assert_array_equal(log_mel(later, RATE, 40)[:, 1:], log_mel(samples, RATE, 40))


def test_it_is_what_its_definition_says():
    random = np.random.default_rng(2)
    samples = random.normal(0.0, 0.1, 1000)
    levels = log_mel(samples, RATE, 20)
    assert levels.shape == (20, frame_count(1000, RATE)) == (20, 11)  # 1 + (1000 - 200) // 80
    # Frame 3 and band 12 by the sums that the module gives, one term after the other.
    window, points = 200, 512
    weight = np.array([0.5 - 0.5 * np.cos(2 * np.pi * (n + 1) / (window + 1)) for n in range(window)])
    low, middle, high = band_edges(RATE, 20)[12:15]
    energy = 0.0
    for k in range(points // 2 + 1):
        hertz = k * RATE / points
        triangle = max(0.0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
        turns = np.exp(-2j * np.pi * k * np.arange(window) / points)
        energy += triangle * abs((samples[240 : 240 + window] * weight * turns).sum()) ** 2
    energy *= 4 / (points * (weight**2).sum())
    assert levels[12, 3] == round(255 * (1 + 10 * np.log10(energy) / 80))


@given(st.sampled_from([4000, 8000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000]), st.integers(8, 128))
@settings(deadline=None)
def test_the_bands_cover_every_tone_between_the_first_peak_and_the_last(rate, mels):
    try:
        filters = mel_filters(rate, mels)
    except InputError as error:
        assert "bands are too many" in str(error) and (rate, mels) >= (4000, 100)
        return
    edges = band_edges(rate, mels)
    hertz = np.linspace(0, rate / 2, filters.shape[1])
    inside = (hertz >= edges[1]) & (hertz <= edges[-2])
    np.testing.assert_allclose(filters.sum(axis=0)[inside] > 0.49, True)
    assert filters.max() <= 1.0


# The folder


def test_every_folder_is_a_class_and_every_clip_one_image(tmp_path):
    write(tmp_path / "high" / "1.wav", sine(3000))
    write(tmp_path / "high" / "2.WAV", sine(3000, seconds=0.3))
    write(tmp_path / "low" / "1.wav", sine(200, seconds=5))
    (tmp_path / "low" / "notes.txt").write_text("passed over")
    write(tmp_path / ".hidden" / "1.wav")
    source = opened(tmp_path)
    (column,) = source.schema.columns
    assert (column.name, column.kind, column.shape) == ("spectrogram", "image", (1, 40, 98))
    assert source.schema.classes == ("high", "low")
    assert source.train.labels.tolist() == [0, 0, 1]
    pixels = source.train.columns["spectrogram"]
    assert pixels.dtype == np.uint8 and pixels.shape == (3, *column.shape)
    # The second clip is filled up with silence, the third is cut.
    assert (pixels[1, 0, :, 30:] == 0).all() and (pixels[1, 0, :, :27].max(axis=0) > 0).all()
    assert (pixels[2, 0].max(axis=0) > 0).all()
    assert source.test is None


def test_train_and_test_folders_are_the_two_parts(tmp_path):
    for part, kind in (("train", "a"), ("train", "b"), ("test", "b")):
        write(tmp_path / part / kind / "1.wav")
    source = opened(tmp_path, f"sample_rate={RATE}&seconds=0.5&mels=16")
    assert source.schema.columns[0].shape == (1, 16, 48)  # 1 + (4000 - 200) // 80
    assert len(source.train) == 2
    assert source.test is not None and source.test.labels.tolist() == [1]


def test_names_can_tell_the_class_and_whose_clips_they_are(tmp_path):
    for name in ("7_ann_1", "7_bo_1", "3_ann_1", "3_ann_2_more"):
        write(tmp_path / f"{name}.wav")
    source = opened(tmp_path, f"sample_rate={RATE}&pattern={{label}}_{{client}}_*")
    assert source.schema.classes == ("3", "7")
    assert source.train.labels.tolist() == [0, 0, 1, 1]
    assert source.file_names == ("ann", "bo") and source.files.tolist() == [0, 0, 0, 1]
    source = opened(tmp_path, f"sample_rate={RATE}&pattern={{label}}_*")
    assert source.file_names == () and len(source.files) == 0
    write(tmp_path / "odd.wav")
    message = refused(tmp_path, f"sample_rate={RATE}&pattern={{label}}_*")
    assert "odd.wav: the name does not fit; names that fit the option pattern" in message


def test_another_sample_rate_is_refused_or_resampled_when_that_is_asked_for(tmp_path):
    write(tmp_path / "a" / "1.wav", sine(1000))
    write(tmp_path / "b" / "1.wav", sine(1000, rate=44_100), rate=44_100)
    message = refused(tmp_path)
    assert "b/1.wav: has 44100 samples a second; 8000, or the option sample_rate= or resample=yes" in message
    pixels = opened(tmp_path, f"sample_rate={RATE}&resample=yes").train.columns["spectrogram"].astype(int)
    # The same tone at 8000 and at 44100 samples a second: where it sounds, within one decibel.
    heard = pixels[0] > 128
    assert heard.any() and (abs(pixels[0] - pixels[1])[heard] <= 255 / 80).all()
    write(tmp_path / "c" / "1.wav", rate=44_101)
    message = refused(tmp_path, f"sample_rate={RATE}&resample=yes")
    assert "44101 samples a second, which has no simple ratio to 8000; a ratio of numbers up to 1000" in message


def test_classes_follow_the_option_or_the_agreed_dictionary(tmp_path):
    write(tmp_path / "b" / "1.wav")
    assert opened(tmp_path, f"sample_rate={RATE}&classes=b,a").train.labels.tolist() == [0]
    write(tmp_path / "a" / "1.wav")
    agreed = Schema(opened(tmp_path).schema.columns, "label", ("a", "b", "c"))
    assert opened(tmp_path, agreed=agreed).schema == agreed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("resample=no", "option resample: is not understood; resample=yes"),
        ("sample_rate=100", "option sample_rate: 100 is out of range"),
        ("seconds=0", "option seconds: is out of range; a number from 0.1 to 60"),
        ("seconds=nan", "option seconds: is out of range"),
        ("mels=4", "option mels: 4 is out of range"),
        ("mels=128&sample_rate=4000", "option mels: 128 bands are too many; fewer at 4000 samples/s"),
        ("pattern=*", "option pattern: is not understood; {label} once"),
        ("pattern={label}_{label}", "option pattern: is not understood"),
        ("pattern={label}_{speaker}", "option pattern: is not understood"),
        ("pattern={label}_*_*_*", "option pattern: has 4 blanks; at most 3"),
        ("rate=8000", "unknown option 'rate'"),
    ],
)
def test_an_option_that_cannot_be_is_one_clear_line(tmp_path, options, message):
    write(tmp_path / "a" / "1.wav", rate=4000)
    write(tmp_path / "b" / "1.wav", rate=4000)
    assert message in refused(tmp_path, options)


def test_a_folder_that_is_missing_or_without_clips_is_refused(tmp_path):
    assert "there is no such folder; a folder with one folder per class" in refused(tmp_path / "absent")
    assert "holds no clips; CLASS/NAME.wav" in refused(tmp_path)
    assert "holds no clips; NAME.wav" in refused(tmp_path, "pattern={label}_*")
    write(tmp_path / "a" / "1.wav")
    assert "the label has 1 class" in refused(tmp_path)


def test_sounds_serve_no_image_task(tmp_path):
    assert "has no data for the task 'image-classification'; task audio-classification" in refused(
        tmp_path, task="image-classification"
    )


@pytest.mark.slow
@pytest.mark.skipif("TACIT_DATA" not in os.environ, reason="TACIT_DATA names no folder with real data")
def test_the_spoken_digits_open_as_one_client_a_speaker(tmp_path):
    with tarfile.open(Path(os.environ["TACIT_DATA"]) / "fsdd" / "recordings.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    source = opened(tmp_path / "recordings", f"sample_rate={RATE}&pattern={{label}}_{{client}}_*")
    assert source.file_names == ("george", "jackson", "theo", "yweweler")
    assert np.bincount(source.files).tolist() == [500] * 4
    assert source.findings.classes == {str(digit): 200 for digit in range(10)}
