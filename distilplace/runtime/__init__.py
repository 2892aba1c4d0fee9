"""What runs on a robot: a student in ONNX, a map of places. Without torch."""

from distilplace.runtime.map import PlaceMap, open_map

__all__ = ["PlaceMap", "open_map"]
