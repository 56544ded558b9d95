from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tacit.models.data import open_source
from tacit.models.data.rows import Column, Schema, Source
from tacit.models.errors import InputError


def opened(path: Path, options: str = "", agreed: Schema | None = None) -> Source:
    return open_source(f"images:{path}{options}", task="image-classification", environ={}, agreed=agreed)


def refused(path: Path, options: str = "") -> str:
    with pytest.raises(InputError) as caught:
        opened(path, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(path: Path, value: int = 0, *, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"L": value, "1": value, "P": value, "I;16": value, "RGB": (value, 0, 255), "RGBA": (value, 0, 255, 9)}
    Image.new(mode, size, colour[mode]).save(path)


def test_every_folder_is_a_class(tmp_path):
    picture(tmp_path / "cat" / "1.png", 10)
    picture(tmp_path / "cat" / "2.png", 20)
    picture(tmp_path / "dog" / "1.PNG", 30)
    source = opened(tmp_path)
    assert source.schema == Schema((Column("image", "image", (1, 3, 4)),), "label", ("cat", "dog"))
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.train.columns["image"][:, 0, 0, 0].tolist() == [10, 20, 30]
    assert source.test is None


def test_train_and_test_folders_are_the_two_parts(tmp_path):
    for part, kind, value in (("train", "a", 1), ("train", "b", 2), ("test", "b", 3)):
        picture(tmp_path / part / kind / "x.png", value)
    source = opened(tmp_path)
    assert len(source.train) == 2
    assert source.test is not None and source.test.labels.tolist() == [1]
    assert source.test.columns["image"].max() == 3


def test_one_colour_picture_makes_all_of_them_colour(tmp_path):
    picture(tmp_path / "a" / "1.png", 7)
    picture(tmp_path / "b" / "1.png", 9, mode="RGB")
    pixels = opened(tmp_path).train.columns["image"]
    assert pixels[:, :, 0, 0].tolist() == [[7, 7, 7], [9, 0, 255]]


@pytest.mark.parametrize("mode", ["1", "P", "RGBA"])
def test_other_kinds_of_pixels_are_converted_without_a_warning(tmp_path, mode):
    picture(tmp_path / "a" / "1.png", 1, mode=mode)
    picture(tmp_path / "b" / "1.png", 0, mode=mode)
    assert opened(tmp_path).train.columns["image"].shape == (2, 1 if mode == "1" else 3, 3, 4)


def test_pictures_of_all_sizes_and_formats_can_be_resized(tmp_path):
    picture(tmp_path / "a" / "1.png", 100)
    picture(tmp_path / "b" / "1.jpg", 200, size=(9, 9))
    pixels = opened(tmp_path, "?size=5").train.columns["image"]
    assert pixels.shape == (2, 1, 5, 5)
    assert pixels[0].tolist() == np.full((1, 5, 5), 100).tolist()


def test_channels_follow_the_option_or_the_agreed_dictionary(tmp_path):
    picture(tmp_path / "a" / "1.png", 7)
    agreed = Schema((Column("image", "image", (3, 3, 4)),), "label", ("a", "b"))
    assert opened(tmp_path, agreed=agreed).schema == agreed
    picture(tmp_path / "b" / "1.png", 9, mode="RGB")
    assert opened(tmp_path, "?channels=1").train.columns["image"].shape == (2, 1, 3, 4)


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png")
    picture(tmp_path / ".cache" / "1.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "._1.png").write_text("x")
    assert len(opened(tmp_path).train) == 2


def test_faulty_folders_and_pictures_are_refused(tmp_path):
    assert "there is no such folder" in refused(tmp_path / "absent")
    assert "holds no pictures; CLASS/NAME.png or .jpg" in refused(tmp_path)
    picture(tmp_path / "a" / "1.png")
    assert "the label has 1 class" in refused(tmp_path)
    assert "option size" in refused(tmp_path, "?size=0")
    assert "option channels" in refused(tmp_path, "?channels=2")
    picture(tmp_path / "b" / "1.png", size=(5, 3))
    assert "1.png: is 5 x 3 pixels; 4 x 3 as the others, or the option size=" in refused(tmp_path)
    picture(tmp_path / "b" / "1.png", mode="I;16")
    assert "has more than 8 bits a channel" in refused(tmp_path)


def test_a_picture_that_is_cut_before_its_last_pixel_is_refused(tmp_path):
    picture(tmp_path / "a" / "1.png")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (3, 4, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "b").mkdir()
    # Behind the pixels stand the end of the compressed block and two checksums of four bytes.
    end_of_pixels = whole.index(b"IEND") - 4 - 2 * 4 - 4
    for length in range(end_of_pixels):
        (tmp_path / "b" / "1.png").write_bytes(whole[:length])
        assert "b/1.png: cannot be read, or is truncated" in refused(tmp_path)


def test_a_picture_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png")
    for limit in (8, 4):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "a/1.png: cannot be read" in refused(tmp_path)
