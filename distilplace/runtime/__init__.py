"""What runs on a robot: a student in ONNX, a map of places. Without torch."""

from distilplace.runtime.localise.localiser import Localiser, Location, Prior
from distilplace.runtime.map import PlaceMap, open_map
from distilplace.runtime.student import Student

__all__ = ["Localiser", "Location", "PlaceMap", "Prior", "Student", "open_map"]
