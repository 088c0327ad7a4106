"""Image files to upright RGB pictures, as data intake decodes them: training, inference and rescaling see the same pixels."""

from coordexp.data.images import MAX_IMAGE_PIXELS, load_image, read_image_size

__all__ = ["MAX_IMAGE_PIXELS", "load_image", "read_image_size"]
