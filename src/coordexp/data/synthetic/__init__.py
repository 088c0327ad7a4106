"""Data sets that need no download: drawn shapes and real handwritten digits, many to an image, written as ordinary COCO data sets."""

from coordexp.data.synthetic.coco import SplitInfo, category_names, hash_split, render_scene, write_coco_dataset
from coordexp.data.synthetic.digits import DIGIT_NAMES, render_digits_scene
from coordexp.data.synthetic.scaled import Sample, scale_scene, write_scene_records
from coordexp.data.synthetic.scenes import Scene, SceneSettings
from coordexp.data.synthetic.shapes import SHAPE_NAMES, render_shapes_scene
from coordexp.data.synthetic.splits import Split, describe_split, head_of, load_split, split_names

__all__ = [
    "DIGIT_NAMES",
    "SHAPE_NAMES",
    "Sample",
    "Scene",
    "SceneSettings",
    "Split",
    "SplitInfo",
    "category_names",
    "describe_split",
    "hash_split",
    "head_of",
    "load_split",
    "render_digits_scene",
    "render_scene",
    "render_shapes_scene",
    "scale_scene",
    "split_names",
    "write_coco_dataset",
    "write_scene_records",
]
