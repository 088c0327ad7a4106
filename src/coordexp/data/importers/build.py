"""One annotation of any format to one object of a record: the same checks, clamping, simplification and counts for all formats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordexp.data.importers.options import ImportOptions, ImportSummary
from coordexp.data.importers.source import Problem, SourceImage, SourceObject, Unit
from coordexp.data.rules import MAX_PIXEL
from coordexp.geometry.affine import visible_part
from coordexp.geometry.bins import clamp_to_image, count_beyond_border
from coordexp.geometry.contours import mask_to_rings
from coordexp.geometry.polygons import Ring, canonical_ring, ring_area, ring_to_box
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject

_NO_OUTLINE = Problem("no_segmentation", "polygons are asked for, but the annotation has no segmentation")


class UnusableError(Exception):
    """An annotation that cannot become an object."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem)


def build_objects(image: SourceImage, *, width: int, height: int, options: ImportOptions, summary: ImportSummary) -> tuple[DetObject, ...]:
    """The objects of an image of `width` × `height` pixels, in the order of the source.

    Raises:
        DataError: an annotation that cannot be used, unless such are skipped.
    """
    scale = _scale_of(image.unit, width, height)
    objects: list[DetObject] = []
    for item in image.objects:
        if item.is_crowd:
            summary.num_crowd += 1
            continue
        label = "" if item.problem is not None else _map_label(item.label, options, summary)
        if label is None:
            continue
        try:
            points = _to_points(item, label, scale, (width, height), options, summary)
        except UnusableError as error:
            if not options.skip_invalid:
                fix = "correct the annotation, or skip such ones with --skip-invalid"
                raise DataError(error.problem.what, where=item.where, fix=fix) from error
            summary.skipped[error.problem.reason] += 1
            continue
        if options.min_side and _shorter_side(points, options) < options.min_side:
            summary.left_out[f"objects left out, smaller than {options.min_side:g} pixels"] += 1
            continue
        objects.append(DetObject(label, options.geometry, points))
    return tuple(objects)


def limit_objects(objects: tuple[DetObject, ...], options: ImportOptions, summary: ImportSummary) -> tuple[DetObject, ...] | None:
    """The objects that an image keeps under the limit; None: the image is left out."""
    limit = options.max_objects
    if limit is None or len(objects) <= limit:
        return objects
    if options.over_limit == "drop":
        summary.left_out[f"images left out, of more than {limit} objects"] += 1
        return None
    summary.left_out[f"objects left out, beyond {limit} of an image"] += len(objects) - limit
    return objects[:limit] if options.over_limit == "first" else keep_largest(objects, limit)


def keep_largest(objects: tuple[DetObject, ...], limit: int) -> tuple[DetObject, ...]:
    """The `limit` largest objects by the area of their boxes (of equal ones the earlier), in their order."""
    ranked = sorted(range(len(objects)), key=lambda index: (-_box_area(objects[index]), index))
    return tuple(objects[index] for index in sorted(ranked[:limit]))


def box_of(item: DetObject) -> tuple[float, float, float, float]:
    """The box xyxy of an object, around its outline when it is a polygon."""
    if item.kind == "poly":
        return ring_to_box(item.points)
    x1, y1, x2, y2 = item.points
    return x1, y1, x2, y2


def _box_area(item: DetObject) -> float:
    x1, y1, x2, y2 = box_of(item)
    return (x2 - x1) * (y2 - y1)


def _map_label(label: str, options: ImportOptions, summary: ImportSummary) -> str | None:
    """None: the object is left out, and counted."""
    clean = label.strip()
    summary.notes["labels with outer spaces, stripped"] += clean != label
    if clean in options.labels:
        mapped = options.labels[clean]
        if mapped is None:
            summary.left_out["objects left out by the label map"] += 1
        return mapped
    if options.only_mapped:
        summary.left_out["objects left out, their label not in the label map"] += 1
        return None
    return clean


def _to_points(
    item: SourceObject, label: str, scale: tuple[float, float], size: tuple[int, int], options: ImportOptions, summary: ImportSummary
) -> tuple[float, ...]:
    if item.problem is not None:
        raise UnusableError(item.problem)
    if not label:
        raise UnusableError(Problem("no_label", "the annotation has no label"))
    width, height = size
    is_poly = options.geometry == "poly"
    raw, is_cut = _outline(item, scale, size, options, summary) if is_poly else _box(item, scale, size)
    x1, y1, x2, y2 = ring_to_box(raw) if is_poly else raw
    if x2 < x1 or y2 < y1:
        raise UnusableError(Problem("negative_size", f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) has a negative width or height"))
    if _is_outside(x1, x2, width) or _is_outside(y1, y2, height):
        raise UnusableError(_outside((x1, y1, x2, y2), size))
    points = raw
    if count_beyond_border(raw, width=width, height=height):
        is_cut = True
        points = clamp_to_image(raw, width=width, height=height)
    summary.num_clamped += is_cut
    if is_poly:
        points = canonical_ring(points)
    x1, y1, x2, y2 = ring_to_box(points) if is_poly else points
    summary.num_zero_area += x1 == x2 or y1 == y2
    return points


def _is_outside(low: float, high: float, size: int) -> bool:
    """Nothing of it lies between 0 and `size`; what has an extent does not by touching one of them."""
    return high < 0 or low > size or (low < high and (high == 0 or low == size))


def _outside(box: Sequence[float], size: tuple[int, int]) -> Problem:
    x1, y1, x2, y2 = box
    return Problem("outside", f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) lies outside the image of {size[0]}x{size[1]}")


def _box(item: SourceObject, scale: tuple[float, float], size: tuple[int, int]) -> tuple[tuple[float, ...], bool]:
    """The box, and whether what lies past the border was cut off before."""
    if item.box is not None:
        box = _scaled(item.box, scale)
        _refuse_not_finite(box)
        return box, False
    if item.rings:
        rings, is_cut = _visible_rings([_scaled(ring, scale) for ring in item.rings], size)
        return ring_to_box([value for ring in rings for value in ring]), is_cut
    raise UnusableError(Problem("no_bbox", "no bbox"))


def _outline(item: SourceObject, scale: tuple[float, float], size: tuple[int, int], options: ImportOptions, summary: ImportSummary) -> tuple[Ring, bool]:
    """The outline, and whether what lies past the border was cut off before."""
    rings, num_holes = [_scaled(ring, scale) for ring in item.rings], 0
    if item.mask is not None:
        if item.mask.shape != size[::-1]:
            raise UnusableError(Problem("bad_mask", f"the mask is {item.mask.shape[1]}x{item.mask.shape[0]}, but the image is {size[0]}x{size[1]}"))
        rings, holes = mask_to_rings(item.mask)
        num_holes = len(holes)
        if not rings:
            raise UnusableError(Problem("empty_mask", "the mask of the segmentation has no pixel"))
    if not rings:
        raise UnusableError(_NO_OUTLINE)
    summary.num_multi_part += len(rings) > 1
    summary.num_with_holes += num_holes > 0
    rings, is_cut = _visible_rings(rings, size)
    chosen = _take_hull(rings) if options.outline == "hull" else max(rings, key=ring_area)
    return (chosen if options.max_vertices is None else _simplify(chosen, options.max_vertices, options.max_deviation, summary)), is_cut


def _visible_rings(rings: list[Ring], size: tuple[int, int]) -> tuple[list[Ring], bool]:
    """What of the parts lies between the edges of the image (0 and W, 0 and H), and whether that is less than all."""
    values = [value for ring in rings for value in ring]
    _refuse_not_finite(values)
    box, (width, height) = ring_to_box(values), size
    if box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height:
        return rings, False
    if max(map(abs, box)) > MAX_PIXEL:
        raise UnusableError(_outside(box, size))
    # an outline without area is clamped as a box is: there is nothing to cut
    parts = [visible_part(ring, kind="poly", window=(0, 0, width, height))[0] if ring_area(ring) else ring for ring in rings]
    visible = [part for part in parts if part is not None]
    if not visible:
        raise UnusableError(_outside(box, size))
    return visible, True


def _refuse_not_finite(values: Sequence[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise UnusableError(Problem("not_finite", "a coordinate is not a finite number"))


def _take_hull(rings: list[Ring]) -> Ring:
    from coordexp.geometry.simplify import convex_hull

    hull = convex_hull(rings)
    return max(rings, key=len) if hull is None else hull


def _simplify(ring: Ring, max_vertices: int, max_deviation: float, summary: ImportSummary) -> Ring:
    if len(ring) <= 2 * max_vertices:
        return ring
    from coordexp.geometry.simplify import simplify_ring

    simpler = simplify_ring(ring, max_vertices=max_vertices, max_deviation=max_deviation)
    if simpler is None:
        what = f"an outline of {len(ring) // 2} vertices would move by more than {max_deviation:g} pixels with {max_vertices} of them"
        raise UnusableError(Problem("too_many_vertices", what))
    summary.num_simplified += 1
    return simpler


def _scale_of(unit: Unit, width: int, height: int) -> tuple[float, float]:
    if unit == "pixel":
        return 1.0, 1.0
    return (width, height) if unit == "fraction" else (width / 1000, height / 1000)


def _scaled(points: Sequence[float], scale: tuple[float, float]) -> tuple[float, ...]:
    if scale == (1.0, 1.0):
        return tuple(points)
    return tuple([value * scale[position % 2] for position, value in enumerate(points)])


def _shorter_side(points: Sequence[float], options: ImportOptions) -> float:
    x1, y1, x2, y2 = ring_to_box(points) if options.geometry == "poly" else points
    return min(x2 - x1, y2 - y1)
