"""The package's version, where everybody may read it without importing the package's top."""

__version__ = "0.2.0"
