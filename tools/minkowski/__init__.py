"""Building MinkowskiEngine from its source package."""
