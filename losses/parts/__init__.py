"""Geometry and relations that several losses share."""
