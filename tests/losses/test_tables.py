"""The public face of the room: names, settings, and what importing it loads."""

import inspect

import pytest
from torch import nn

from distilplace import losses
from distilplace.common.errors import UserError
from distilplace.losses.combined import with_terms
from distilplace.losses.distiller import Distiller
from distilplace.losses.tasks.pml_table import LOSSES
from distilplace.losses.terms import TERMS


def test_names():
    methods = ["nokd", "rkdg", "ours", "ours_rkdg", "rkd", "asht", "wakd", "sckd", "whiten_mtd"]
    assert losses.list_distillers() == [*methods, *(name for name in TERMS if name not in methods)]
    assert losses.list_task_losses() == [
        "MultiBatchHardTripletMarginLoss",
        "BatchHardTripletMarginLoss",
        "TruncatedSmoothAP",
        "RankingCrossEntropy",
        "CorrelationRankingCrossEntropy",
        "sare_ind",
        "sare_joint",
        "triplet",
        "pose",
        "none",
        *(f"pml:{name}" for name in LOSSES),
    ]


def test_every_baseline_of_the_specification_has_its_line():
    section_7 = "kd mse epcnet afd rkd_d rkd_a rkd rkdg sp selfsim pkt cc vid crd hint at nst darkrank csd lsdnet mkd"
    absolute = "align align_projected aml csd_bank"
    assert {*section_7.split(), *absolute.split(), "simkl", "ail", "aht", "dist", "posekd"} == set(TERMS)


@pytest.mark.parametrize("name", losses.list_distillers())
def test_every_method_can_be_made_and_all_of_its_settings_are_optional(name):
    weights = {"rkdgloss_weight": 1.0, "crosslogitdistloss_weight_st2ss": "0.1"}
    known = losses.distiller_settings(name)
    method = losses.create_distiller(name, **{key: value for key, value in weights.items() if key in known})
    assert isinstance(method, Distiller)


@pytest.mark.parametrize("name", losses.list_task_losses())
def test_every_task_loss_can_be_made_and_all_of_its_settings_are_optional(name):
    assert isinstance(losses.task_loss_settings(name), tuple)
    assert isinstance(losses.create_task_loss(name), nn.Module)


@pytest.mark.parametrize("name", losses.list_task_losses())
def test_a_task_loss_that_reads_no_masks_does_without(name):
    loss = losses.implementation(name)
    masks = [inspect.signature(loss.forward).parameters[mask] for mask in ("positives_mask", "negatives_mask")]
    assert all((mask.default is None) == (not loss.reads_masks) for mask in masks)


@pytest.mark.parametrize("name", losses.list_distillers())
def test_a_method_says_whether_it_reads_masks(name):
    weights = {"rkdgloss_weight": 1.0, "crosslogitdistloss_weight_st2ss": "0.1"}
    known = losses.distiller_settings(name)
    method = losses.create_distiller(name, **{key: value for key, value in weights.items() if key in known})
    joined = with_terms(method, ["lsdnet"] if name != "lsdnet" else ["aml"])
    assert method.reads_masks == (name in {"asht", "aml", "lsdnet"})
    assert joined.reads_masks


def test_settings_are_upstreams_flags_with_upstreams_defaults():
    wanted = {
        "rkdgloss_weight": 0.0,
        **{f"crosslogit{kind}loss_type": "MSE" for kind in ("dist", "sim", "geodist")},
        **{f"crosslogit{kind}loss_logit_norm_fn": "l2" for kind in ("dist", "sim", "geodist")},
        **{
            f"crosslogit{kind}loss_weight_{way}": "0"
            for kind in ("dist", "sim", "geodist")
            for way in ("st2ss", "tt2st")
        },
        "crosslogitsimloss_divide": True,
        "curvature": 0.1,
        "logit_mapping_fn": "identity",
    }
    from distilplace.losses.distilvpr import SelfCrossAgent

    for name in ("rkdg", "ours", "ours_rkdg"):
        assert set(wanted) <= set(losses.distiller_settings(name))
    defaults = {key: value.default for key, value in inspect.signature(SelfCrossAgent).parameters.items()}
    assert {name: defaults[name] for name in wanted} == wanted
    assert {"exclude_diagonal", "legacy_mean"} <= set(defaults)
    assert losses.distiller_settings("rkd") == ("rkdloss_weight", "rkdloss_distance_weight", "rkdloss_angle_weight")
    assert losses.task_loss_settings("MultiBatchHardTripletMarginLoss") == ("margin", "weights", "normalize_embeddings")
    assert losses.task_loss_settings("BatchHardTripletMarginLoss") == ("margin", "normalize_embeddings")
    assert losses.task_loss_settings("TruncatedSmoothAP") == ("ap_tau1", "ap_similarity", "ap_positives_per_query")


@pytest.mark.parametrize("ask", [losses.create_distiller, losses.distiller_settings])
def test_unknown_methods_are_answered_with_the_nearest(ask):
    with pytest.raises(UserError, match="did you mean 'ours_rkdg'"):
        ask("ours_rkgd")


@pytest.mark.parametrize("ask", [losses.create_task_loss, losses.task_loss_settings])
def test_unknown_losses_are_answered_with_the_nearest(ask):
    with pytest.raises(UserError, match="did you mean 'TruncatedSmoothAP'"):
        ask("TruncatedSmoothAp")
