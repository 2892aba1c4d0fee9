"""Tables of things by name: loaded when asked for, settings from the constructor's signature, nearest names offered."""

import sys

import pytest

from distilplace.common.errors import UserError
from distilplace.common.registry import Registry, parameters


class Plain:
    def __init__(self, width: int, depth: int = 2, *, bias: bool = True) -> None:
        self.made = width, depth, bias


class Wider(Plain):
    def __init__(self, depth: int = 7, colour: str = "red", **settings: int) -> None:
        super().__init__(depth=depth, **settings)
        self.colour = colour


@pytest.fixture
def shapes() -> Registry:
    return Registry(
        "shape",
        {
            "plain": f"{__name__}:Plain",
            "narrow": (f"{__name__}:Plain", {"width": 1}),
            "wider": f"{__name__}:Wider",
            "far": "colorsys:rgb_to_hsv",
        },
    )


def test_a_name_decides_some_arguments_and_its_settings_are_the_others(shapes):
    assert shapes.settings("plain") == ("width", "depth", "bias")
    assert shapes.settings("narrow") == ("depth", "bias")
    assert shapes.create("narrow", depth=3).made == (1, 3, True)


def test_settings_passed_on_to_a_parent_count(shapes):
    assert set(shapes.settings("wider")) == {"width", "depth", "bias", "colour"}
    assert parameters(Wider)["depth"].default == 7
    assert shapes.create("wider", width=5, colour="blue").made == (5, 7, True)


def test_nothing_is_loaded_before_it_is_asked_for(shapes, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert list(shapes) == ["plain", "narrow", "wider", "far"]
    assert "colorsys" not in sys.modules
    assert shapes.load("far")(0.0, 0.0, 1.0)[2] == 1.0


def test_unknown_names_and_settings_are_refused_with_the_nearest(shapes):
    with pytest.raises(UserError, match="unknown shape 'plian': did you mean 'plain'"):
        shapes.create("plian")
    with pytest.raises(UserError, match="unknown setting of shape plain 'dept': did you mean 'depth'"):
        shapes.create("plain", width=1, dept=2)
    with pytest.raises(UserError, match="unknown setting of shape narrow 'width'"):
        shapes.create("narrow", width=1)
