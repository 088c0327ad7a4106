import numpy as np
import pytest
from PIL import Image

from coordexp.batching.pictures import PatchLayout, encode_png, restore_picture
from coordexp.batching.prompt import PromptEncoder
from coordexp.data.images import load_image
from coordexp.data.odd_pictures import write_odd_pictures
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.processor import load_processor
from coordexp.types.sequences import ImageInputs

PROCESSOR = load_processor(tiny_checkpoint())
ENCODER, LAYOUT = PromptEncoder(PROCESSOR), PatchLayout.of(PROCESSOR.image_processor)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_picture_that_fits_the_patches_comes_back_pixel_for_pixel() -> None:
    picture = noise(96, 64)
    assert np.array_equal(np.asarray(restore_picture(ENCODER.encode_image(picture), LAYOUT)), np.asarray(picture))


def test_what_comes_back_is_cut_into_the_same_patches_again(tmp_path) -> None:
    for path in write_odd_pictures(tmp_path):
        first = ENCODER.encode_image(load_image(path))
        again = ENCODER.encode_image(restore_picture(first, LAYOUT))
        assert again.grid_thw == first.grid_thw, path.name
        assert np.array_equal(again.pixel_values, first.pixel_values), path.name


def test_png_loses_nothing(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(noise(31, 17)))
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(noise(31, 17)))


def test_values_that_no_picture_has_are_refused() -> None:
    inputs = ENCODER.encode_image(noise(32, 32))
    for values in (inputs.pixel_values + 0.003, inputs.pixel_values * 2):
        with pytest.raises(ValueError, match="no 8-bit picture"):
            restore_picture(ImageInputs(values.astype(np.float32), inputs.grid_thw), LAYOUT)
