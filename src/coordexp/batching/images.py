"""Image files for the model. The decoding is the one of the data intake, so that what was validated is what is trained on and inferred on."""

from coordexp.data.images import MAX_IMAGE_PIXELS, load_image, read_image_size

__all__ = ["MAX_IMAGE_PIXELS", "load_image", "read_image_size"]
