"""A mark in the picture itself, which stays where a program removes everything beside the pixels.

It leads to a record, and proves nothing alone: whoever knows how can copy it onto another picture or wash it out.
"""

from lienzo.provenance.watermark.payload import Found
from lienzo.provenance.watermark.pixels import MIN_SIDE, can_carry, find, mark

__all__ = ["MIN_SIDE", "Found", "can_carry", "find", "mark"]
