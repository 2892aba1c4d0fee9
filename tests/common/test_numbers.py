"""What counts as a number in a text file."""

import math

import pytest

from distilplace.common.numbers import number_hint, parse_finite, parse_number, parse_whole


@pytest.mark.parametrize("text", ["1", "-1.5", "+.5", "5.", " 1e3\t", "1.2E-07", "0005", "9.9e-001"])
def test_ascii_numbers_are_read(text):
    assert parse_number(text) == parse_finite(text) == float(text)


@pytest.mark.parametrize(
    "text", ["", " ", "1_000", "\u0663", "1\u0660", "\uff11", "1,5", "0x10", "1 2", "e5", ".", "one", "1e"]
)
def test_anything_else_is_none(text):
    assert parse_number(text) is parse_finite(text) is None
    assert parse_whole(text) is None


def test_undefined_and_whole_numbers():
    assert math.isnan(parse_number("NaN"))
    assert parse_number("-inf") == -math.inf
    assert parse_finite("nan") is parse_finite("inf") is parse_finite("1e999") is None
    assert parse_whole(" -17 ") == -17
    assert parse_whole("1.0") is None
    assert parse_whole("9" * 18) == int("9" * 18)
    assert parse_whole("9" * 5000) is None


def test_hints():
    assert "decimal comma" in number_hint("1,5")
    assert "underscores" in number_hint("1_000")
    assert "0 to 9" in number_hint("\u0663")
    assert number_hint("one") == ""
