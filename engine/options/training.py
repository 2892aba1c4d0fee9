"""Options of optimiser, schedule, batches and teacher outputs."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distilplace.engine.options.fields import Count, Milestones, NonNegative
from distilplace.engine.options.heads import HeadOptions


class TrainingOptions(HeadOptions):
    """Optimiser, schedule, batches, teacher outputs."""

    train_mode: Literal["train_teacher", "train_student"] = Field("train_student", description="which network learns")
    teacher_weights_path: list[str] = Field(
        [
            "teacher_weights/oxford__T:minklocmmcat__resnet18__img256__pc128__32_64_64__1_1_1__1__allstgF__b128"
            "__trainteacher/models/r1_best_ep57_97.24.pth"
        ],
        description="weights of the teacher (one file per teacher)",
    )
    teacher_outputs: Literal["auto", "store", "live"] = Field(
        "auto", description="teacher read from disk, or run each step; auto = live where feature maps are distilled"
    )
    teacher_store: str | None = Field(None, description="folder of the teacher store; None = beside the runs, by hash")
    rebuild_store: bool = Field(False, description="compute the teacher store again")
    whiten_dim: PositiveInt | None = Field(
        None, description="whiten every teacher's embedding to this width, fitted on training images (Whiten_MTD)"
    )
    whitening: list[str] = Field(
        [], description="published whitening of each teacher (Whiten_MTD's pca_weights/*.pt, or none), not fitted here"
    )
    whiten_samples: Count = Field(
        10_000, description="training images that a whitening is fitted on; 0 = all (svd: 60 frames of every video)"
    )
    align_space: Literal["raw", "centred", "whitened"] = Field(
        "centred", description="align, aml, csd_bank: teacher's embeddings as they are, less their mean, or whitened"
    )
    align_dim: PositiveInt | None = Field(
        None, description="width of --align_space whitened; None = the teacher's (fewer training places: one less)"
    )
    cache_aug: bool = Field(False, description="store the teacher's view of augmented inputs, drawn once (upstream)")
    shuffle_teacher: bool = Field(False, description="control: hand each place another place's teacher output")
    epochs: Count = Field(60, description="passes over the training places")
    train_batch_size: Annotated[int, Field(ge=4)] = Field(128, description="places per step, in groups of positives")
    batches: Literal["auto", "pairs", "items", "views", "groups", "tuples"] = Field(
        "auto", description="what batches are made of (docs/guide/data-sets.md); auto = what loss and data set call for"
    )
    train_batch_split_size: PositiveInt = Field(128, description="places per forward; below the batch: staged")
    batch_size_limit: PositiveInt | None = Field(None, description="largest batch when batches may grow")
    batch_expansion_rate: float | None = Field(None, gt=1, description="growth when few triplets are active")
    batch_expansion_th: float = Field(0.7, ge=0, le=1, description="share of active triplets below which to grow")
    optimizer: Literal["Adam", "AdamW", "SGD"] = Field("Adam", description="optimiser")
    adam_eps: PositiveFloat = Field(1e-8, description="epsilon of Adam and AdamW (SCKD: 1)")
    image_lr: PositiveFloat = Field(1e-4, description="learning rate of image branches")
    cloud_lr: PositiveFloat = Field(1e-3, description="learning rate of cloud branches")
    weight_decay: NonNegative = Field(1e-4, description="weight decay")
    scheduler: Literal["MultiStepLR", "CosineAnnealingLR", "None"] = Field("MultiStepLR", description="schedule")
    scheduler_step: Literal["epoch", "step"] = Field(
        "epoch", description="a cosine schedule moves after every epoch or after every step (Whiten_MTD)"
    )
    lr_min: NonNegative = Field(0.0, description="learning rate at which a cosine schedule ends (Whiten_MTD: 1e-6)")
    milestones: Milestones = Field("40", description="epochs at which learning rates fall, such as 40_80")
    lr_gamma: float = Field(0.1, gt=0, le=1, description="factor by which learning rates fall at a milestone")
    bcs_aug_rate: float = Field(0.2, ge=0, le=1, description="jitter of brightness, contrast, saturation")
    hue_aug_rate: float = Field(0.1, ge=0, le=0.5, description="jitter of hue")
    erasing_aug_rate: float = Field(0.5, ge=0, le=1, description="share of training images with a rectangle erased")
    generations: PositiveInt = Field(1, description="restarts, each distilled from the generation before (SFRS)")
    tuple_size: PositiveInt = Field(1, description="tuples per step (tuple losses)")
    pos_num: PositiveInt = Field(3, description="difficult positives per tuple")
    pos_pool: PositiveInt = Field(20, description="nearest positives from which difficult ones are taken")
    neg_num: PositiveInt = Field(3, description="negatives per tuple")
    neg_pool: PositiveInt = Field(1000, description="random candidates from which negatives are mined")
    cache_size: PositiveInt = Field(1000, description="queries between two minings of tuples")
    clusters_file: str | None = Field(
        None, description="cluster centres (python -m tools.cluster); None = computed here"
    )
    val_fraction: float = Field(0.1, ge=0, le=0.5, description="training positions held back to choose the epoch")
    eval_every: PositiveInt = Field(1, description="epochs between validations")
    val_min_queries: Count = Field(
        30, description="queries that a validation split must have to choose the epoch; with fewer the last one is kept"
    )
    select_by: Literal["auto", "R@1", "R@5", "R@10"] = Field(
        "auto", description="what the epoch is chosen by; auto: the benchmark's own (places R@1); WAKD, OpenIBL: R@5"
    )
    save_epoch_freq: Count = Field(0, description="epochs between weights kept as models/epoch_N.safetensors; 0 = none")
    skip_nonfinite: bool = Field(False, description="skip a step whose loss is not finite instead of stopping")
    upstream_compat: bool = Field(False, description="upstream's protocol: no validation, augmented store, its means")
