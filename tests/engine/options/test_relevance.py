"""Every option works or is refused: asked of each data set, of networks, methods and modes; what is only told."""

import logging

import pytest

from distilplace import datasets
from distilplace.common.errors import UserError
from distilplace.datasets.transforms.views import READS, VIEWS
from distilplace.engine import building
from distilplace.engine.options import DataOptions, EvaluateOptions, TrainOptions
from distilplace.engine.options.command_line import parse
from distilplace.engine.options.relevance import _changed, unread
from distilplace.tools.demo.run import ALONE
from distilplace.tools.shared_flags import only_read, refuse_in_vain
from tests.miniature_images import utm_name, write_images


def train(home, *argv, **rest):
    return parse(TrainOptions, argv, home=home, environment=rest.pop("environment", {}), **rest)


def evaluate(home, *argv):
    return parse(EvaluateOptions, ["--weights", "w", *argv], home=home, environment={})


# Read by what is built around a data set, whichever it is.
EVERYWHERE = {"dataset", "test_dataset", "test_folder", "num_workers", "val_batch_size", "scales", "query_image_size"}


class Opened(Exception):
    """A data set was about to be made."""


@pytest.mark.parametrize("name", datasets.list_datasets())
def test_every_data_option_changes_what_a_data_set_is_made_of_or_is_refused(name, monkeypatch):
    """Property of the constructor's arguments and of the attributes set on its product, by changing one option."""

    def made(options):
        """What ``build_data`` hands to a data set of this name: settings, then attributes."""

        def create(which, **settings):
            seen.update(settings)
            return product

        class Product:
            views, crop_size = datasets.dataset_views(name), None

        seen, product = {}, Product()
        monkeypatch.setattr(building.datasets, "create_dataset", create)
        building.build_data(options)
        read = READS[product.views]
        seen |= {"size": vars(product).get("resize"), "views": product.views}
        return seen | {key: getattr(product, key, None) for key in ("crop_size", "normalisation") if key in read}

    options = TrainOptions(dataset=name, dataset_folder="d", model=["minklocmmcat"], batches="pairs")
    views = "landmarks" if datasets.dataset_views(name) == "svd" else "svd"
    values = {"image_size": "77", "views": views, "normalisation": "raw"}
    for option in set(DataOptions.model_fields) - EVERYWHERE:
        other = _changed(options, option)
        if option in values:
            other = options.model_copy(update={option: values[option]})
        reads = made(options) != made(other)
        assert reads != (option in unread(other, [option])), (name, option)


@pytest.mark.parametrize("kind", VIEWS)
def test_the_table_of_what_views_read_is_true(kind):
    """Changing a setting changes the training transform exactly where the table says that it is read."""
    import numpy as np
    import torch
    from PIL import Image

    from distilplace.datasets.transforms.views import make_view

    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    mean = np.full((300, 300, 3), 100.0, dtype=np.float32)

    def taken(**settings):
        torch.manual_seed(0)
        return make_view(kind, augment=True, mean_image=mean, **{"rates": (0.0, 0.0, 0.0), **settings})(
            Image.fromarray(noise)
        )

    plain = taken()
    changed = {"crop_size": 50, "normalisation": "raw", "rates": (0.9, 0.4, 1.0)}
    found = {
        name
        for name, value in changed.items()
        if (other := taken(**{name: value})).shape != plain.shape or not torch.equal(other, plain)
    }
    assert found == READS[kind]


REFUSED = [
    ("--dataset oxford --eval_radius 5", ("eval_radius", "frames", "oxford")),
    ("--dataset kitti --frames_points 9", ("frames_points", "frames", "kitti")),
    ("--dataset frames --image_path x", ("image_path", "oxford", "boreas", "frames")),
    ("--distil_method rkdg --strategy maxmin", ("strategy", "whiten_mtd", "rkdg")),
    ("--distil_method rkdg --crosslogitsimloss_weight_st2ss 1", ("crosslogitsimloss_weight_st2ss", "ours_rkdg")),
    ("--distil_method ours --rkdgloss_weight 1", ("rkdgloss_weight", "rkdg", "ours")),
    ("--distil_method nokd --kd pkt --mse_norm none", ("mse_norm", "epcnet", "pkt")),
    ("--distil_method nokd --rkdgloss_weight 1", ("rkdgloss_weight", "rkdg")),
    ("--loss TruncatedSmoothAP --margin 1", ("margin", "MultiBatchHardTripletMarginLoss", "TruncatedSmoothAP")),
    ("--clusters 8", ("clusters", "resnet18netvlad", "resnet18")),
    ("--model resnet50 --minklocmm_cloud_planes 32_32", ("minklocmm_cloud_planes", "minklocmmcat", "resnet50")),
    ("--student_minkloconly_planes 8_8", ("student_minkloconly_planes", "minkloconly")),
    ("--train_mode train_teacher --student_model resnet34", ("student_model", "train_teacher")),
    ("--train_mode train_teacher --teacher_store s", ("teacher_store", "train_teacher")),
    ("--train_mode train_teacher --distil_method asht", ("distil_method", "train_teacher")),
    ("--train_mode train_teacher --distil_logit_weight 2", ("distil_logit_weight",)),
    ("--train_mode train_teacher --strategy mean", ("strategy", "whiten_mtd")),
    ("--train_mode train_teacher --model minkloc --image_size 64", ("image_size", "no network")),
    ("--train_mode train_teacher --model minkloc resnet18", ("--model", "2")),
    ("--distil_method nokd --model minkloc", ("model", "nokd")),
    ("--distil_method nokd --teacher_weights_path t", ("teacher_weights_path", "nokd")),
    ("--distil_method nokd --oxford_quantization_size 0.1", ("oxford_quantization_size", "clouds")),
    ("--teacher_outputs live --rebuild_store", ("rebuild_store", "live")),
    ("--tuple_size 3", ("tuple_size", "tuples")),
    ("--loss sare_ind --train_batch_size 8", ("train_batch_size", "tuple_size")),
    ("--batches items --batch_size_limit 256 --batch_expansion_rate 2", ("batch_size_limit", "items")),
    ("--batch_expansion_th 0.5", ("batch_expansion_th", "batch_expansion_rate")),
    ("--optimizer SGD --adam_eps 1", ("adam_eps", "SGD")),
    ("--scheduler CosineAnnealingLR --milestones 3", ("milestones", "CosineAnnealingLR")),
    ("--distil_method nokd --cloud_lr 1", ("cloud_lr", "resnet18")),
    ("--loss none --task_logit_weight 2", ("task_logit_weight", "none")),
    ("--val_fraction 0 --eval_every 2", ("eval_every", "val_fraction")),
    ("--clusters_file c", ("clusters_file", "resnet18")),
    ("--crop_size 100", ("crop_size", "place")),
    ("--dataset cambridge --hue_aug_rate 0.4", ("hue_aug_rate", "posenet")),
    ("--test_folder t", ("test_folder", "test_dataset")),
    ("--gem_p 2", ("gem_p", "GeM has no fixed power", "GeMFC")),
    ("--distil_method nokd --pool NetVLAD --gem_p 2", ("gem_p", "NetVLAD has no fixed power")),
    ("--dataset images --frame_tolerance 0 --eval_radius 5", ("eval_radius", "frame_tolerance")),
    ("--dataset images --frame_tolerance 0 --positive_radius 5", ("positive_radius", "frame_tolerance")),
    ("--dataset images --frame_tolerance 0 --negative_radius 50", ("negative_radius", "frame_tolerance")),
    ("--dataset nordland --frame_tolerance 2 --eval_radius 5", ("eval_radius", "frame_tolerance")),
    ("--val_fraction 0 --val_min_queries 5", ("val_min_queries", "val_fraction")),
    ("--distil_method sckd --SCKL_reduction sum", ("SCKL_reduction", "--SCKL")),
    ("--distil_method sckd --SCmodule none --SCKL", ("SCKL", "SCmodule none")),
    ("--distil_method sckd --SCmodule none --sigma 5", ("sigma", "SCmodule none")),
    ("--distil_method sckd --sigma 0 --sc_pose_norm", ("sc_pose_norm", "sigma 0")),
    ("--distil_method sckd --hintmodule none --alpha 5", ("alpha", "hintmodule none")),
    ("--distil_method rkdg --SCKL_reduction sum", ("SCKL_reduction", "read by method sckd")),
    ("--loss sare_ind --soft_weight 1", ("soft_weight", "generations 1")),
    ("--loss triplet --temperatures 0.1", ("temperatures", "generations 1")),
    ("--loss sare_joint --sare_distance l2 --temperatures 0.1", ("temperatures", "generations 1")),
    ("--accelerator cpu --cuda 1", ("cuda", "accelerator cpu")),
    ("--dataset cambridge --views place --mean_image_path m", ("mean_image_path", "place")),
    ("--distil_method asht --teacher_store s", ("teacher_store", "feature maps")),
    ("--distil_method sckd --rebuild_store", ("rebuild_store", "feature maps")),
    ("--embedding_head_dim 8", ("embedding_head_dim", "embedding_head linear")),
    ("--student_model resnet18pose --distil_method nokd --embedding_head linear", ("embedding_head", "no embeddings")),
    ("--distil_method rkdg --rkdgloss_weight 1 --align_space raw", ("align_space", "--kd align")),
    ("--logit_mapping_fn centred --align_space raw", ("logit_mapping_fn centred", "omit --align_space raw")),
    ("--distil_method align --align_dim 9", ("align_dim", "a centred space", "--align_space whitened")),
    ("--distil_method nokd --align_space raw", ("align_space", "nokd")),
]


@pytest.mark.parametrize(("flags", "parts"), REFUSED, ids=[flags for flags, _ in REFUSED])
def test_a_flag_without_effect_is_refused_in_one_line(tmp_path, flags, parts):
    with pytest.raises(UserError) as caught:
        train(tmp_path, *flags.split())
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


READ = [
    "--model minklocmmcat --teacher_weights_path T --rkdgloss_weight 10 --crosslogitdistloss_weight_st2ss 0.1 "
    "--crosslogitsimloss_weight_st2ss 0.1 --crosslogitgeodistloss_weight_st2ss 0.1",
    "--model minklocmmcat --teacher_weights_path T --tryid 0 --rkdgloss_weight 1 --dataset boreas",
    "--train_mode train_teacher --dataset oxford --cloud_lr 0.1 --oxford_quantization_size 0.1",
    "--config sckd_kings_college --SCmodule 3 --hintmodule 5 --SCKL --T_model resnet34pose --T_path T "
    "--beta 500 --niter 500 --batchSize 32 --gpu 0",
    "--distil_method ours_rkdg --rkdgloss_weight 10 --kd pkt:1000 --kd hint@layer3/layer3:1 --hint_batch_norm",
    "--config wakd_pitts30k --student_model mobilenetv3_largenetvlad --model vgg16netvlad --tuple_size 2",
    "--config recipes/whiten_mtd/whiten_mtd_gldv2.yaml --strategy maxmin --student_temperature 0.05 --whiten_dim 64",
    "--dataset gldv2 --test_dataset roxford5k --test_folder R --query_crop --loss none --distil_method whiten_mtd",
    "--rkdgloss_weight 1 --kd align:1 --align_space whitened --align_dim 48",
    "--distil_method align --align_space centred",
    "--optimizer SGD --scheduler None --weight_decay 0.1 --image_lr 1",
    "--distil_method nokd --kd posekd --loss pose --dataset 7scenes --model resnet34pose --student_model resnet18pose",
    "--scheduler CosineAnnealingLR --scheduler_step step --lr_min 1e-6",
    "--distil_method nokd --student_model dsformer --pretrained none --no_query_crop --rkdgloss_weight 0",
    "--dataset cambridge --erasing_aug_rate 0 --hue_aug_rate 0",
    "--pool GeMFC --gem_p 2",
    "--distil_method nokd --student_model resnet18_gem --gem_p 2",
    "--dataset images --eval_radius 5 --positive_radius 5 --negative_radius 50",
    "--distil_method sckd --SCKL --SCKL_reduction sum --sigma 5 --alpha 5",
    "--distil_method sckd --SCmodule none --sigma 0",
    "--loss triplet --generations 2 --temperatures 0.1_0.1 --soft_weight 1",
    "--loss sare_ind --temperatures 0.1 --soft_weight 0",
    "--accelerator cpu --cuda 0",
    "--distil_method rkdg --rkdgloss_weight 1 --teacher_store s --rebuild_store",
]


@pytest.mark.parametrize("flags", READ)
def test_a_flag_that_something_reads_is_taken(root, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(root)
    train(tmp_path, *flags.split())


def test_evaluation_refuses_what_only_a_run_or_the_other_network_reads(tmp_path):
    for flags in ("--logdir l", "--resume auto", "--pretrained f.pth", "--student_model resnet34", "--crop_size 9"):
        with pytest.raises(UserError, match=flags.split()[0]):
            evaluate(tmp_path, "--role", "teacher", "--model", "resnet18", *flags.split())
    with pytest.raises(UserError, match="test_folder"):
        evaluate(tmp_path, "--student_model", "resnet18", "--dataset_folder", "d", "--test_dataset", "rparis6k")
    evaluate(tmp_path, "--model", "resnet18", "--image_size", "64", "--pool", "mean", "--seed", "3", "--cuda", "0")


def test_options_from_elsewhere_are_told_in_one_line_by_where_they_come_from(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    (tmp_path / "paths.yaml").write_text("kitti_sequence: 05\nimage_path: /i\n")
    (tmp_path / "r.yaml").write_text("dataset: oxford\nsvd_frames: 1\n")
    environment = {"DISTILPLACE_NORDLAND_QUERY": "fall", "DISTILPLACE_SVD_STRIDE": "2"}
    with caplog.at_level(logging.INFO, logger="distilplace"):
        options = train(tmp_path, "--config", str(tmp_path / "r.yaml"), environment=environment)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "svd_frames (recipe" in line
    assert "nordland_query, svd_stride (environment)" in line
    assert "kitti_sequence (paths.yaml)" in line
    assert "image_path" not in line
    assert options.svd_frames == 1
    caplog.clear()
    with pytest.raises(UserError, match="svd_frames"):  # said on the command line it is refused
        train(tmp_path, "--config", str(tmp_path / "r.yaml"), "--svd_frames", "2")


def test_tools_hand_each_run_what_it_reads_and_refuse_what_none_does(root):
    teacher = ["--config", str(root / "recipes/demo/demo_teacher.yaml")]
    alone = ["--config", str(root / "recipes/demo/demo_student.yaml"), *ALONE]
    extra = ["--cloud_lr", "0.1", "--query_crop", "--epochs=3", "--T_model", "minklocmmcat"]
    assert only_read([*alone, *extra]) == [*alone, "--epochs=3"]
    assert only_read([*teacher, *extra]) == [*teacher, "--cloud_lr", "0.1", "--epochs=3", "--T_model", "minklocmmcat"]
    assert only_read([*alone, "--seed", "1", "--niter", "2", *extra]) == [*alone, "--seed", "1", "--epochs=3"]
    refuse_in_vain(["--cloud_lr", "0.1"], [teacher, alone])
    refuse_in_vain(["--seed", "5"], [[*alone, "--seed", "1"]])  # what a tool says is overruled
    with pytest.raises(UserError, match="query_crop"):
        refuse_in_vain(extra, [teacher, alone])


@pytest.mark.parametrize(("tolerance", "buffer"), [(1, "3.9 frames"), (None, "2.0 m")])
def test_a_negative_radius_sets_the_validation_buffer_where_it_is_read(tmp_path, tolerance, buffer):
    """40 places a metre, or a frame, apart: at most a tenth of their extent is left as a buffer."""
    names = [f"{k:04d}.png" if tolerance else utm_name(500_000 + k, 5_800_000) for k in range(40)]
    for folder in (tmp_path, tmp_path / "train"):
        write_images(folder, dict.fromkeys(names, 1), dict.fromkeys(names, 1))
    radii = {"positive_radius": 1.5, "negative_radius": 2.0, "eval_radius": 3.0}
    options = TrainOptions(dataset="images", dataset_folder=str(tmp_path), frame_tolerance=tolerance, **radii)
    data = building.build_data(options)
    note = building.split_validation(options, data, data.training_set(), data.evaluation_set()).note
    assert f"(buffer {buffer})" in note
