"""Sections of reports: functions from the material to a section, or to None where there is nothing to show."""
