"""Every option of ``train.py`` and ``evaluate.py``, once: name, type, default, help (DistilVPR's names are kept).

The classes below are the truth; ``engine.command_line`` makes flags, recipes and environment variables of them.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


def _numbers(separated: str, number: type) -> str:
    try:
        values = [number(part) for part in separated.split("_")]
    except ValueError:
        raise ValueError(f"'{separated}' is not a list of numbers joined by '_', such as 1_0.5") from None
    if any(not value >= 0 for value in values):
        raise ValueError(f"'{separated}' holds a negative or undefined number")
    return separated


FloatList = Annotated[str, AfterValidator(lambda value: _numbers(value, float))]
IntList = Annotated[str, AfterValidator(lambda value: _numbers(value, int))]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataOptions(_Group):
    """Which places, from where, and how they are read."""

    dataset: str = Field("oxford", description="data set: oxford, oxfordadafusion, boreas, frames or demo")
    dataset_folder: str | None = Field(None, description="folder of the data set (see README, Data)")
    image_path: str | None = Field(None, description="folder of the images (oxford, oxfordadafusion, boreas)")
    image_lidar_k: PositiveInt | None = Field(1, description="nearest images kept per place; None = all listed")
    n_points_boreas: PositiveInt = Field(4096, description="points of a Boreas cloud")
    oxford_quantization_size: PositiveFloat = Field(0.01, description="voxel size, normalised units (oxford, demo)")
    boreas_quantization_size: PositiveFloat = Field(1.0, description="voxel size in metres (boreas)")
    frames_quantization_size: PositiveFloat = Field(0.5, description="voxel size in metres (frames)")
    frames_points: PositiveInt = Field(4096, description="points kept of a cloud (frames)")
    positive_radius: PositiveFloat = Field(10.0, description="metres within which two places are positives (frames)")
    negative_radius: PositiveFloat = Field(50.0, description="metres beyond which two places are negatives (frames)")
    eval_radius: PositiveFloat = Field(25.0, description="metres within which a retrieved place is right (frames)")
    frames_map: Literal["auto", "shared", "local"] = Field("auto", description="do the runs share one map? (frames)")
    demo_seed: Count = Field(1, description="which generated world (demo)")
    num_workers: Count = Field(0, description="data-loader processes; results do not depend on it")
    val_batch_size: PositiveInt = Field(160, description="places per batch when embedding")


class ModelOptions(_Group):
    """Teacher and student architectures."""

    model: list[str] = Field(["minklocmmcat"], description="teacher model (several names: several teachers)")
    minklocmm_image_fe: str = Field("resnet18", description="teacher's image network")
    minklocmm_image_fe_dim: PositiveInt = Field(256, description="teacher's image embedding size")
    minklocmm_cloud_fe_dim: PositiveInt = Field(128, description="teacher's cloud embedding size")
    minklocmm_cloud_planes: IntList = Field("32_64_64", description="teacher's cloud trunk widths")
    minklocmm_cloud_layers: IntList = Field("1_1_1", description="blocks per stage of the teacher's cloud trunk")
    minklocmm_cloud_topdown: Count = Field(1, description="top-down steps of the teacher's cloud trunk")
    minklocmm_image_useallstages: bool = Field(False, description="teacher's image network up to stage 4, not 3")
    student_model: str = Field("resnet18", description="student model: an image network, or minkloconly")
    student_output_dim: PositiveInt = Field(384, description="student's embedding size")
    student_minkloconly_planes: IntList = Field("32_64_128", description="cloud-only student's trunk widths")
    student_minkloconly_layers: IntList = Field("1_1_1", description="blocks per stage of the cloud-only student")
    student_minkloconly_topdown: Count = Field(0, description="top-down steps of the cloud-only student")
    pool: Literal["GeM", "NetVLAD", "ConvAP", "CosPlace"] = Field("GeM", description="pooling head of image networks")
    useallstages: bool = Field(False, description="student's image network up to stage 4, not 3")
    sparse_backend: str = Field("auto", description="sparse engine: auto, torch, triton, spconv or minkowski")
    sparse_maps: Literal["device", "workers"] = Field(
        "device", description="where kernel maps are built: on the device, or by the data-loader processes"
    )
    pretrained: str = Field("imagenet", description="start of image networks: imagenet, none, or a weights file")

    @model_validator(mode="after")
    def _known_engine(self) -> "ModelOptions":
        if self.sparse_backend != "auto":  # a run that leaves the choice open may never need an engine
            from models.sparse.backends import require_known

            require_known(self.sparse_backend)
        return self


class LossOptions(_Group):
    """Task loss and distillation (DistilVPR, AAAI 2024)."""

    loss: str = Field("MultiBatchHardTripletMarginLoss", description="task loss")
    margin: NonNegative = Field(0.2, description="triplet margin")
    weights: FloatList = Field("0.5_0.5_0", description="task-loss weights of final, cloud, image embedding")
    normalize_embeddings: bool = Field(False, description="L2-normalise embeddings in the task loss")
    ap_tau1: PositiveFloat = Field(0.01, description="temperature of TruncatedSmoothAP")
    ap_similarity: Literal["euclidean", "cosine"] = Field("euclidean", description="similarity of TruncatedSmoothAP")
    ap_positives_per_query: PositiveInt = Field(4, description="positives per query of TruncatedSmoothAP")
    distil_method: str = Field("ours_rkdg", description="nokd, rkdg, ours, ours_rkdg or rkd")
    distil_logit_weight: NonNegative = Field(1.0, description="weight of the whole distillation loss")
    task_logit_weight: NonNegative = Field(1.0, description="weight of the task loss")
    rkdgloss_weight: NonNegative = Field(0.0, description="self-agent relations: distance, angle, geodesic")
    rkdloss_weight: NonNegative = Field(1.0, description="weight of plain RKD as a whole")
    rkdloss_distance_weight: NonNegative = Field(1.0, description="weight of plain RKD's distance part")
    rkdloss_angle_weight: NonNegative = Field(1.0, description="weight of plain RKD's angle part")
    crosslogitdistloss_type: str = Field("MSE", description="criterion of the distance term: MSE, L1, KLDiv")
    crosslogitdistloss_logit_norm_fn: str = Field("l2", description="l2, softmax, log_softmax or identity")
    crosslogitdistloss_weight_st2ss: FloatList = Field("0", description="cross to student relations, per mapping")
    crosslogitdistloss_weight_tt2st: FloatList = Field("0", description="teacher to cross relations, per mapping")
    crosslogitsimloss_type: str = Field("MSE", description="criterion of the similarity term: MSE, L1, KLDiv")
    crosslogitsimloss_logit_norm_fn: str = Field("l2", description="l2, softmax, log_softmax or identity")
    crosslogitsimloss_weight_st2ss: FloatList = Field("0", description="cross to student relations, per mapping")
    crosslogitsimloss_weight_tt2st: FloatList = Field("0", description="teacher to cross relations, per mapping")
    crosslogitsimloss_divide: bool = Field(True, description="divide by the norms: cosine similarity")
    crosslogitgeodistloss_type: str = Field("MSE", description="criterion of the geodesic term: MSE, L1, KLDiv")
    crosslogitgeodistloss_logit_norm_fn: str = Field("l2", description="l2, softmax, log_softmax or identity")
    crosslogitgeodistloss_weight_st2ss: FloatList = Field("0", description="cross to student relations")
    crosslogitgeodistloss_weight_tt2st: FloatList = Field("0", description="teacher to cross relations")
    curvature: PositiveFloat = Field(0.1, description="curvature c of the Poincare ball")
    hyperbolic_clip_radius: PositiveFloat | None = Field(None, description="shorten embeddings before the ball")
    logit_mapping_fn: Literal["identity", "topoincare", "id_topoin"] = Field(
        "identity", description="space of the distance and similarity terms: flat, ball, or both"
    )
    exclude_diagonal: bool = Field(False, description="leave i-i entries out of the cross terms")
    legacy_mean: bool = Field(False, description="upstream's mean over entries > 0, rounding noise included")


class TrainingOptions(_Group):
    """Optimiser, schedule, batches, teacher outputs."""

    train_mode: Literal["train_teacher", "train_student"] = Field("train_student", description="which network learns")
    teacher_weights_path: list[str] = Field(
        [
            "teacher_weights/oxford__T:minklocmmcat__resnet18__img256__pc128__32_64_64__1_1_1__1__allstgF__b128"
            "__trainteacher/models/r1_best_ep57_97.24.pth"
        ],
        description="weights of the teacher (one file per teacher)",
    )
    teacher_outputs: Literal["store", "live"] = Field("store", description="teacher read from disk, or run each step")
    teacher_store: str | None = Field(None, description="folder of the teacher store; None = beside the runs, by hash")
    rebuild_store: bool = Field(False, description="compute the teacher store anew")
    cache_aug: bool = Field(False, description="store the teacher's view of augmented inputs, drawn once (upstream)")
    shuffle_teacher: bool = Field(False, description="control: hand each place another place's teacher output")
    epochs: Count = Field(60, description="passes over the training places")
    train_batch_size: Annotated[int, Field(ge=4)] = Field(128, description="places per step, in groups of positives")
    train_batch_split_size: PositiveInt = Field(128, description="places per forward; below the batch: staged")
    batch_size_limit: PositiveInt | None = Field(None, description="largest batch when batches may grow")
    batch_expansion_rate: float | None = Field(None, gt=1, description="growth when few triplets are active")
    batch_expansion_th: float = Field(0.7, ge=0, le=1, description="share of active triplets below which to grow")
    optimizer: Literal["Adam", "AdamW", "SGD"] = Field("Adam", description="optimiser")
    image_lr: PositiveFloat = Field(1e-4, description="learning rate of image branches")
    cloud_lr: PositiveFloat = Field(1e-3, description="learning rate of cloud branches")
    weight_decay: NonNegative = Field(1e-4, description="weight decay")
    scheduler: Literal["MultiStepLR", "CosineAnnealingLR", "None"] = Field("MultiStepLR", description="schedule")
    milestones: IntList = Field("40", description="epochs at which learning rates fall to a tenth, such as 40_80")
    bcs_aug_rate: float = Field(0.2, ge=0, le=1, description="jitter of brightness, contrast, saturation")
    hue_aug_rate: float = Field(0.1, ge=0, le=0.5, description="jitter of hue")
    val_fraction: float = Field(0.1, ge=0, le=0.5, description="training positions held back to choose the epoch")
    eval_every: PositiveInt = Field(1, description="epochs between validations")
    skip_nonfinite: bool = Field(False, description="skip a step whose loss is not finite instead of stopping")
    upstream_compat: bool = Field(False, description="upstream's protocol: no validation, augmented store, its means")


class RunOptions(_Group):
    """Where a run lives and on what it runs."""

    seed: Count = Field(7, description="seed of everything random")
    tryid: Count = Field(0, description="number that tells repeated runs apart")
    logdir: str = Field("logs", description="folder of the runs")
    exp_name: str | None = Field(None, description="name of the run folder; None = made from the options")
    resume: str = Field("none", description="none, or auto: go on where this run stopped")
    save_every: Count = Field(0, description="steps between checkpoints besides the epochs' ends; 0 = none")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="number format of the forward pass")
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="device kind")
    cuda: Count = Field(0, description="index of the GPU")
    dry_run: bool = Field(False, description="build everything, take one step, save nothing")

    def device_kind(self) -> str:
        """The device kind, cpu or cuda: what ``--accelerator auto`` means on this machine."""
        if self.accelerator != "auto":
            return self.accelerator
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @model_validator(mode="after")
    def _known_resume(self) -> "RunOptions":
        if self.resume not in ("none", "auto"):
            raise ValueError(f"--resume: '{self.resume}' is neither none nor auto")
        return self


class TrainOptions(DataOptions, ModelOptions, LossOptions, TrainingOptions, RunOptions):
    """Options of ``train.py``."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainOptions":
        if self.upstream_compat:
            for name, value in UPSTREAM_COMPAT.items():
                if name not in self.model_fields_set:
                    object.__setattr__(self, name, value)
        if self.batch_size_limit is not None and self.batch_size_limit < self.train_batch_size:
            raise ValueError(f"--batch_size_limit {self.batch_size_limit} is below --train_batch_size")
        if (self.batch_size_limit is None) != (self.batch_expansion_rate is None):
            raise ValueError("--batch_size_limit and --batch_expansion_rate belong together: give both or none")
        if self.positive_radius >= self.negative_radius:
            raise ValueError(f"--positive_radius {self.positive_radius:g} must be below --negative_radius")
        return self

    @model_validator(mode="after")
    def _engine_runs_here(self) -> "TrainOptions":
        if self.sparse_backend != "auto":  # better now than after the data is read
            from models.sparse.backends import choose_backend

            choose_backend(self.sparse_backend, self.device_kind())
        return self


class EvaluateOptions(DataOptions, ModelOptions, RunOptions):
    """Options of ``evaluate.py``: a run's loss and training options are ignored."""

    weights: str = Field(description="checkpoint to evaluate (.safetensors of a run, or a published .pth)")
    role: Literal["auto", "teacher", "student"] = Field("auto", description="which network the checkpoint holds")
    compare: list[str] = Field([], description="further checkpoints for the same table and report")
    report: str | None = Field(None, description="folder of the report; None = <weights' run>/evaluation-<data set>")


UPSTREAM_COMPAT = {"val_fraction": 0.0, "cache_aug": True, "legacy_mean": True}

# DistilVPR's flags that did nothing there, with the value that means nothing and why.
RETIRED = {
    "save_weights": (None, "weights are always saved"),
    "save_epoch": (None, "best and last weights are always saved"),
    "resume_epoch": (None, "use --resume auto"),
    "models_dir": (None, "weights go to <run folder>/models"),
    "model_config": (None, "models are described by flags"),
    "train_step_type": ("single", "use --train_batch_split_size for staged steps"),
    "teacher_adaptor_dim": ("None", "embedding sizes of teacher and student must be equal"),
    **{
        f"{kind}_layer{layer}_weight": ("0", "only embeddings are distilled")
        for kind in ("distil", "task", "cdistil")
        for layer in (1, 2, 3)
    },
    "cdistil_logitsimloss_weight": ("0", "use --crosslogitsimloss_weight_st2ss"),
}
