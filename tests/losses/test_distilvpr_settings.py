"""Settings of DistilVPR and RKD that mean nothing."""

import pytest

from distilplace.common.errors import UserError
from distilplace.losses import create_distiller

KL_FREE = {"crosslogitdistloss_type": "KLDiv", "crosslogitdistloss_weight_st2ss": "1"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ours", {**KL_FREE}, "probability"),
        ("ours_rkdg", {**KL_FREE, "crosslogitdistloss_logit_norm_fn": "identity"}, "probability"),
        (
            "ours",
            {
                "crosslogitsimloss_type": "KLDiv",
                "crosslogitsimloss_weight_st2ss": 1,
                "crosslogitsimloss_logit_norm_fn": "log_softmax",
            },
            "NaN",
        ),
        ("ours", {}, "--distil_method nokd"),
        ("ours_rkdg", {}, "--distil_method nokd"),
        ("ours_rkdg", {"rkdgloss_weight": 0, "crosslogitdistloss_weight_st2ss": "0"}, "--rkdgloss_weight"),
        ("rkdg", {"crosslogitdistloss_weight_st2ss": "1"}, "--rkdgloss_weight"),
        ("rkd", {"rkdloss_weight": 0}, "--rkdloss_weight"),
        ("rkdg", {"rkdgloss_weight": -1}, "negative"),
        ("rkdg", {"rkdgloss_weight": "ten"}, "finite number"),
        ("rkdg", {"rkdgloss_weight": float("nan")}, "finite number"),
        ("rkdg", {"rkdgloss_weight": 1, "curvature": 0}, "above 0"),
        ("rkdg", {"rkdgloss_weight": 1, "curvature": -0.1}, "above 0"),
        ("rkdg", {"rkdgloss_weight": 1, "hyperbolic_clip_radius": 0}, "above 0"),
        ("rkdg", {"rkdgloss_weight": 1, "legacy_mean": "maybe"}, "True or False"),
        ("ours", {"crosslogitdistloss_weight_st2ss": "1_0.5"}, "give 1"),
        ("ours", {"crosslogitdistloss_weight_st2ss": "1", "logit_mapping_fn": "id_topoin"}, "identity, topoincare"),
        ("ours", {"crosslogitgeodistloss_weight_st2ss": "1_1", "logit_mapping_fn": "id_topoin"}, "give 1"),
        ("ours", {"crosslogitdistloss_weight_st2ss": "1", "logit_mapping_fn": "poincare"}, "did you mean 'topoincare'"),
        ("ours", {"crosslogitdistloss_weight_st2ss": "1", "crosslogitdistloss_type": "mse"}, "MSE"),
        ("ours", {"crosslogitdistloss_weight_st2ss": "1", "crosslogitsimloss_logit_norm_fn": "L2"}, "l2"),
        ("ours", {"crosslogitdistloss_weight_st2s": "1"}, "did you mean 'crosslogitdistloss_weight_st2ss'"),
        ("our_rkdg", {}, "did you mean 'ours_rkdg'"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        create_distiller(name, **options)
    assert "\n" not in str(caught.value)


def test_kl_divergence_that_only_reproduces_a_number_is_warned_of():
    with pytest.warns(UserWarning, match="not a probability distribution"):
        create_distiller("ours", **KL_FREE, crosslogitdistloss_logit_norm_fn="softmax")
