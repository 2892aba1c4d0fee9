"""Settings of SCKD: its layers by the published numbers, and what means nothing."""

import pytest

from distilplace.common.errors import UserError
from distilplace.losses.sckd import SCKD, parse_layers


def test_taps_by_the_published_numbers():
    assert [parse_layers("SCmodule", k) for k in range(7)] == [
        (name,) for name in ("pooled", "stem", "layer1", "layer2", "layer3", "layer4", "pooled")
    ]
    for value in ("3_4", ["3", "4"], (3, 4)):
        assert parse_layers("SCmodule", value) == ("layer2", "layer3")
    layers = ("layer1", "layer2", "layer3", "layer4")
    assert SCKD().student_maps(layers) == SCKD().teacher_maps(layers) == ("layer4", "layer2")
    assert SCKD(SCmodule="5_1").teacher_maps(layers) == ("layer4", "stem")
    assert SCKD(alpha=0).student_maps(layers) == ("layer2",)
    assert SCKD(sigma="0").student_maps(layers) == ("layer4",)
    assert (SCKD().alpha, SCKD().sigma) == (100, 100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SCmodule": "7"}, "unknown layer of SCmodule '7'"),
        ({"hintmodule": "3,4"}, "unknown layer of hintmodule '3,4'"),
        ({"hintmodule": "6_0"}, "hintmodule 6_0 names one feature map twice"),
        ({"SCmodule": "none", "hintmodule": "none"}, "every weight of this distillation method is 0: set SCmodule"),
        ({"alpha": 0, "SCmodule": "none"}, "every weight of this distillation method is 0"),
        ({"alpha": -1}, "alpha is -1"),
        ({"sigma": "nan"}, "sigma is 'nan'"),
        ({"SCKL": "perhaps"}, "SCKL is 'perhaps'"),
        ({"SCKL_reduction": "mean"}, "did you mean 'batchmean'"),
    ],
)
def test_settings_that_mean_nothing(given, message):
    with pytest.raises(UserError, match=message):
        SCKD(**given)
