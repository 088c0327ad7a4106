"""Coordinate conversion of records: pixel ↔ norm1000 ↔ token. `token` and `norm1000` hold the same bins and differ only in spelling."""

from __future__ import annotations

from dataclasses import replace

from coordexp.geometry.bins import Rounding, bins_to_pixels, count_beyond_border, pixels_to_bins
from coordexp.geometry.polygons import canonical_ring
from coordexp.types.records import CoordSpace, DetObject, Record


def to_norm1000(record: Record, *, rounding: Rounding = "nearest") -> Record:
    """The record in bins. Values beyond the border are clamped (`count_clamped`); polygons are put in canonical order again, which rounding can disturb."""
    if record.coord_space != "pixel":
        return replace(record, coord_space="norm1000")
    objects = tuple([_quantize(item, width=record.width, height=record.height, rounding=rounding) for item in record.objects])
    return replace(record, objects=objects, coord_space="norm1000")


def to_tokens(record: Record, *, rounding: Rounding = "nearest") -> Record:
    """As `to_norm1000`, spelled as coordinate tokens in a file."""
    return replace(to_norm1000(record, rounding=rounding), coord_space="token")


def to_pixels(record: Record) -> Record:
    """The record in unrounded pixels of its own width and height."""
    if record.coord_space == "pixel":
        return record
    objects = tuple([replace(item, points=bins_to_pixels(item.points, width=record.width, height=record.height)) for item in record.objects])
    return replace(record, objects=objects, coord_space="pixel")


def to_space(record: Record, space: CoordSpace, *, rounding: Rounding = "nearest") -> Record:
    """The record in the given space."""
    if space == "pixel":
        return to_pixels(record)
    return replace(to_norm1000(record, rounding=rounding), coord_space=space)


def reorder_polygons(record: Record) -> Record:
    """The record with every polygon in canonical order; itself when all are."""
    objects = tuple([replace(item, points=canonical_ring(item.points)) if item.kind == "poly" else item for item in record.objects])
    return record if objects == record.objects else replace(record, objects=objects)


def count_clamped(record: Record) -> int:
    """Values of a pixel record that quantization clamps to the border."""
    if record.coord_space != "pixel":
        return 0
    return sum(count_beyond_border(item.points, width=record.width, height=record.height) for item in record.objects)


def _quantize(item: DetObject, *, width: int, height: int, rounding: Rounding) -> DetObject:
    bins = pixels_to_bins(item.points, kind=item.kind, width=width, height=height, rounding=rounding)
    return replace(item, points=canonical_ring(bins) if item.kind == "poly" else bins)
