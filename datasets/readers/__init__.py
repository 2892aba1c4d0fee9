"""Readers, one folder per family of data sets."""
