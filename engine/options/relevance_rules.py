"""What a run of these options does (:class:`Course`), and which run-level options follow from it to have no effect."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from distilplace import datasets, losses, models
from distilplace.datasets.transforms.views import READS
from distilplace.engine.options import EvaluateOptions, OptionGroup, TrainOptions

DISTILLING = (
    "distil_logit_weight",
    "teacher_weights_path",
    "teacher_outputs",
    "teacher_store",
    "rebuild_store",
    "whiten_dim",
    "whitening",
    "whiten_samples",
    "align_space",
    "align_dim",
    "cache_aug",
    "shuffle_teacher",
)
TUPLES = ("tuple_size", "pos_num", "pos_pool", "neg_num", "neg_pool", "cache_size")
GROWING = ("batch_size_limit", "batch_expansion_rate", "batch_expansion_th")
RATES = ("bcs_aug_rate", "hue_aug_rate", "erasing_aug_rate")
IMAGES = ("image_size", "normalisation", "views", "crop_size", "scales", "image_lidar_k", "query_image_size", *RATES)
"""Options that only a network which reads images depends on."""
CLOUDS = ("sparse_backend", "sparse_maps", "n_points_boreas", "frames_points", "bin_columns")
VOXELS = ("oxford_quantization_size", "boreas_quantization_size", "frames_quantization_size")
RUNS = ("tryid", "logdir", "exp_name", "resume", "save_every", "dry_run")
"""Options of a run that evaluation, which makes none, does without."""
STARTS = ("pretrained", "dropout", "trainable_from")
"""Options of a network that learns: none of them changes what one with given weights computes."""
RADII = ("eval_radius", "positive_radius", "negative_radius")
HEADS = ("embedding_head", "embedding_head_dim", "centre", "align_head")
OFF = (*RATES, "embedding_head", "dropout", "pretrained", "alpha", "sigma")
Reasons = dict[str, str]


@dataclass(frozen=True)
class Course:
    """What these options set going: data sets opened, networks built, whether one is distilled from the others."""

    data_sets: tuple[str, ...]
    teachers: tuple[str, ...]
    students: tuple[str, ...]
    loss: str | None = None
    distils: bool = False

    @property
    def learner(self) -> str:
        """The network that learns, or is evaluated."""
        return (*self.students, *self.teachers)[0]

    def reads(self, key: str) -> bool:
        """Whether one of the networks reads the batch key ``images`` or ``coords``."""
        return any(key in models.model_requires(name) for name in (*self.students, *self.teachers))


def course_of(options: OptionGroup) -> Course | None:
    """The course of a training or an evaluation; None where the options do not say which network is evaluated."""
    if isinstance(options, TrainOptions):
        data_sets = tuple(dict.fromkeys(filter(None, (options.dataset, options.test_dataset))))
        if options.train_mode == "train_teacher":
            return Course(data_sets, tuple(options.model[:1]), (), options.loss)
        distils = options.distil_method != "nokd" or bool(options.kd) or options.align_head
        teachers = tuple(options.model) if distils else ()
        return Course(data_sets, teachers, (options.student_model,), options.loss, distils)
    if isinstance(options, EvaluateOptions) and (role := options.network_role()) is not None:
        tested: tuple[str, ...] = (options.test_dataset or options.dataset,)
        if options.pca is not None:  # it may be fitted on the training part
            tested = tuple(dict.fromkeys((*tested, options.pca_dataset or options.dataset)))
        if role == "teacher":
            return Course(tested, tuple(options.model[:1]), ())
        if options.has_teachers:  # centred by training frames
            tested = tuple(dict.fromkeys((*tested, options.dataset)))
        teachers = tuple(options.model) if options.teacher_weights_path else ()
        return Course(tested, teachers, (options.student_model,))
    return None


def unread_by_rule(options: OptionGroup, course: Course) -> Reasons:
    """Options without effect that no part's settings show, with the reason of each."""
    found = _evaluation(options, course) if isinstance(options, EvaluateOptions) else {}
    if isinstance(options, TrainOptions):
        found |= _mode(options, course) | _batches(options) | _optimiser(options, course) | _losses(options, course)
        found |= _heads(options, course)
    return found | _inputs(options, course) | _radii(options, course) | _pooling(options, course) | _device(options)


def asks_for_nothing(options: OptionGroup, name: str) -> bool:
    """Whether the option switches off what would not be there anyway: ``--erasing_aug_rate 0``, ``--no_query_crop``."""
    value = getattr(options, name)
    return value is False or (value in (0, "0", "none") and (name in OFF or "weight" in name))


def _because(reason: str, names: Iterable[str]) -> Reasons:
    return dict.fromkeys(names, reason)


def _mode(options: TrainOptions, course: Course) -> Reasons:
    if options.train_mode == "train_teacher":
        reason = "--train_mode train_teacher trains a teacher, nothing is distilled"
        return _because(reason, (*DISTILLING, "distil_method", "kd", "student_model", "align_head"))
    found: Reasons = {}
    if not course.distils:
        found = _because("--distil_method nokd without --kd needs no teacher", (*DISTILLING, "model"))
    elif options.distil_method == "nokd" and not options.kd:
        found = _because("--distil_method nokd without --kd distils nothing", ("distil_logit_weight",))
    if course.distils and options.teacher_outputs == "live":
        found |= _because("--teacher_outputs live keeps no store", ("teacher_store", "rebuild_store"))
    if options.whitening:
        found = _because("the whitenings of --whitening are not fitted here", ("whiten_samples",)) | found
    elif options.whiten_dim is None:
        found = _because("teachers are whitened with --whiten_dim alone", ("whiten_samples",)) | found
    return found


def _batches(options: TrainOptions) -> Reasons:
    layout = options.batches if options.batches != "auto" else losses.task_loss_layout(options.loss)
    found: Reasons = {}
    if layout == "tuples":
        found |= _because("batches of tuples have --tuple_size", ("train_batch_size",))
    else:
        found |= _because("batches are not made of mined tuples: --loss sare_ind or --batches tuples", TUPLES)
    if layout not in ("pairs", "any"):
        found |= _because(f"only batches of pairs grow, these are of {layout}", GROWING)
    elif options.batch_expansion_rate is None:
        found |= _because("batches grow with --batch_expansion_rate alone", ("batch_expansion_th",))
    if options.val_fraction == 0:
        found |= _because("--val_fraction 0: nothing is validated", ("eval_every", "select_by", "val_min_queries"))
    return found


def _optimiser(options: TrainOptions, course: Course) -> Reasons:
    found: Reasons = {}
    if options.optimizer == "SGD":
        found |= _because("SGD has no epsilon", ("adam_eps",))
    if options.scheduler != "MultiStepLR":
        found |= _because(f"--scheduler {options.scheduler} has no milestones", ("milestones", "lr_gamma"))
    if options.scheduler != "CosineAnnealingLR":
        found |= _because("only a cosine schedule has it", ("scheduler_step", "lr_min"))
    if options.loss == "none":
        found |= _because("--loss none has no task loss", ("task_logit_weight",))
    if "coords" not in models.model_requires(course.learner):
        found |= _because(f"{course.learner} has no cloud branch", ("cloud_lr",))
    if "images" not in models.model_requires(course.learner) and not course.distils:
        found |= _because(f"{course.learner} has no image branch", ("image_lr",))
    if not models.has_clusters(course.learner):
        found |= _because(f"{course.learner} starts without clusters", ("clusters_file",))
    return found


def _heads(options: TrainOptions, course: Course) -> Reasons:
    if not models.model_class(course.learner).compares_embeddings:
        return _because(f"{course.learner} compares no embeddings", HEADS)
    if options.embedding_head == "none":
        return _because("there is no --embedding_head linear", ("embedding_head_dim",))
    return {}


def _losses(options: TrainOptions, course: Course) -> Reasons:
    """Settings of a loss that others of its settings switch off."""
    found: Reasons = {}
    if options.generations == 1 and "soft_weight" in losses.task_loss_settings(options.loss):
        found |= _because("--generations 1: regions are taught from the second generation on", ("soft_weight",))
        if options.loss == "triplet" or options.sare_distance == "l2":
            found |= _because("--generations 1 of a loss of distances has no temperature", ("temperatures",))
    if not course.distils or options.distil_method != "sckd":
        return found
    if options.hintmodule == ["none"]:
        found |= _because("--hintmodule none: there are no hints", ("alpha",))
    if not options.SCKL:
        found |= _because("without --SCKL similarities are compared by squares", ("SCKL_reduction",))
    if options.SCmodule == ["none"] or options.sigma == 0:
        off = "--sigma 0" if options.sigma == 0 else "--SCmodule none"
        names = ("SCKL", "SCKL_reduction", "sc_pose_norm", *(("sigma",) if options.sigma else ()))
        found |= _because(f"{off}: self-cross similarities are not compared", names)
    return found


def _radii(options: OptionGroup, course: Course) -> Reasons:
    assert isinstance(options, TrainOptions | EvaluateOptions)
    if options.frame_tolerance is None:
        return {}
    found: Reasons = {}
    for radius in RADII:
        readers = [name for name in course.data_sets if radius in datasets.dataset_settings(name)]
        if readers and all("frame_tolerance" in datasets.dataset_settings(name) for name in readers):
            found |= _because("with --frame_tolerance frame numbers say what is one place, not metres", (radius,))
    return found


def _pooling(options: OptionGroup, course: Course) -> Reasons:
    """The fixed power is read by one head, and by networks that have no choice of heads."""
    assert isinstance(options, TrainOptions | EvaluateOptions)
    heads = [(name, options.teacher_pool or options.pool) for name in course.teachers]
    heads += [(name, options.pool) for name in course.students]
    heads = [(name, head) for name, head in heads if "gem_p" in models.model_settings(name)]
    if not heads or any(head == "GeMFC" or "pool" not in models.model_settings(name) for name, head in heads):
        return {}
    told = ", ".join(dict.fromkeys(head for _, head in heads))
    return _because(f"{told} has no fixed power: --pool GeMFC and the landmark networks have", ("gem_p",))


def _device(options: OptionGroup) -> Reasons:
    assert isinstance(options, TrainOptions | EvaluateOptions)
    if options.cuda == 0 or options.device_kind() == "cuda":  # 0 is what published commands say
        return {}
    why = "--accelerator cpu" if options.accelerator == "cpu" else "this machine shows no GPU"
    return _because(f"{why}: there is none to number", ("cuda",))


def _inputs(options: OptionGroup, course: Course) -> Reasons:
    assert isinstance(options, TrainOptions | EvaluateOptions)
    found: Reasons = {}
    if options.test_dataset is None:
        found |= _because("there is no --test_dataset", ("test_folder",))
    if not course.reads("coords"):
        found |= _because("no network of this run reads clouds", (*CLOUDS, *VOXELS))
    if not course.reads("images"):
        return found | _because("no network of this run reads images", IMAGES)
    views = {options.views or datasets.dataset_views(name) for name in course.data_sets}
    if "posenet" not in views and any("mean_image_path" in datasets.dataset_settings(x) for x in course.data_sets):
        found |= _because(f"--views {', '.join(sorted(views))} subtracts no mean image", ("mean_image_path",))
    for setting, names in (("crop_size", ("crop_size",)), ("normalisation", ("normalisation",)), ("rates", RATES)):
        if not any(setting in _reads(view, options) for view in views):
            found |= _because(f"images are taken as --views {', '.join(sorted(views))}, which does not read it", names)
    return found


def _reads(view: str, options: OptionGroup) -> Collection[str]:
    training = isinstance(options, TrainOptions)
    return {each for each in READS.get(view, ()) if training or (view, each) != ("landmarks", "crop_size")}


def _evaluation(options: EvaluateOptions, course: Course) -> Reasons:
    found = _because("evaluation makes no run", RUNS) | _because("the weights are --weights", STARTS)
    if options.test_dataset is not None and options.pca is None and not options.has_teachers:
        found |= _because("the data set is --test_dataset: give --test_folder", ("dataset_folder",))
    if not course.students:
        return found | _because("--weights are a teacher's", ("student_model", "teacher_store", "teacher_weights_path"))
    return found if course.teachers else found | _because("--weights are a student's", ("model",))
