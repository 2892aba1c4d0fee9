"""Options of ASHT-KD, WAKD, and the baselines that ``--kd`` and ``--distil_method`` name."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distilplace.engine.options.fields import Count, FloatList, NonNegative, OptionGroup


class MethodOptions(OptionGroup):
    """Settings of the methods other than DistilVPR; each method reads its own."""

    asht_mode: Literal["S", "H", "SH"] = Field("SH", description="ASHT-KD: soft, hard or both kinds of labels")
    asht_gate: Literal["role", "entropy", "fixed"] = Field("role", description="ASHT-KD: what decides soft or hard")
    asht_lambda: float = Field(0.5, ge=0, le=1, description="ASHT-KD: share of soft labels (gate fixed)")
    asht_topx: PositiveInt = Field(10, description="ASHT-KD: similarities that the ranking head sees")
    asht_soft_weight: NonNegative = Field(1.0, description="ASHT-KD: weight of soft labels")
    asht_hard_weight: NonNegative = Field(1.0, description="ASHT-KD: weight of hard labels")
    asht_feature_weight: NonNegative = Field(1.0, description="ASHT-KD: weight of the feature-level term")
    asht_repo_loss: bool = Field(False, description="ASHT-KD: the loss of the published stub, for comparison")
    temperature: PositiveFloat = Field(3.0, description="ASHT-KD: temperature T of soft labels")
    tau_student: PositiveFloat = Field(0.07, description="ASHT-KD: temperature of similarity logits")
    tau_weight: PositiveFloat = Field(1.0, description="ASHT-KD: temperature of the teachers' weights")
    wakd_kd: Literal["attention", "vlad", "activation"] = Field("attention", description="WAKD: which relations")
    wakd_vectors: Literal["vlad", "embedding"] = Field("vlad", description="WAKD: vectors whose Gram matrix is matched")
    kd_weight: NonNegative = Field(100.0, description="WAKD: weight of its distillation loss")
    temperatures: FloatList = Field("0.07_0.07_0.06_0.05", description="tuple losses: temperature per generation")
    tuple_margin: NonNegative = Field(0.1, description="tuple losses: squared margin of the triplet loss")
    sare_distance: Literal["dot", "l2"] = Field("dot", description="tuple losses: logits are dot products or -d^2")
    soft_weight: NonNegative = Field(0.5, description="tuple losses: weight of region self-supervision")
    beta: NonNegative = Field(500.0, description="pose: weight of the orientation")
    SCmodule: list[str] = Field(
        ["3"], description="SCKD: layers of the self-cross similarity, 1 (stem) ... 5, 6 or 0 (pooled); none = off"
    )
    hintmodule: list[str] = Field(["5"], description="SCKD: layers of the hints, as for --SCmodule")
    SCKL: bool = Field(False, description="SCKD: compare self-cross similarities by KL divergence")
    SCKL_reduction: Literal["batchmean", "sum"] = Field(
        "batchmean", description="SCKD: the divergence is divided by the batch size, as published, or not"
    )
    alpha: NonNegative = Field(100.0, description="SCKD: weight of the hints")
    sigma: NonNegative = Field(100.0, description="SCKD: weight of the self-cross similarity")
    sc_pose_norm: bool = Field(False, description="SCKD: z-score positions before poses are compared")
    strategy: Literal["mean", "rand", "maxmin", "maxmean", "maxrand", "maxfix"] = Field(
        "maxmin", description="Whiten_MTD: how the teachers' similarities become one"
    )
    student_temperature: PositiveFloat = Field(0.05, description="Whiten_MTD: temperature of the student's rows")
    teacher_temperature: PositiveFloat = Field(0.05, description="Whiten_MTD: temperature of the teachers' rows")
    auto_scale: bool = Field(False, description="baselines: divide each term by the size of its first value")
    kd_temperature: PositiveFloat = Field(4.0, description="kd: temperature")
    mse_norm: Literal["l2", "none", "softmax"] = Field("l2", description="mse, epcnet: how embeddings are normalised")
    cc_dim: Count = Field(128, description="cc: width of the linear embedding; 0 = none")
    dist_temperature: PositiveFloat = Field(1.0, description="dist: temperature")
    afd_legacy: bool = Field(False, description="afd: DistilVPR's pairing of weights and distances")
    csd_loss: Literal["mse", "kl"] = Field("mse", description="csd: squared differences, or KL of softmax rows")
    aml_form: Literal["contrastive", "triplet"] = Field("contrastive", description="aml: form of the loss")
    aml_margin: PositiveFloat | None = Field(None, description="aml: margin; None = 0.7 (contrastive), 0.1 (triplet)")
    aml_negatives: Count = Field(5, description="aml: hardest negatives of the batch per anchor; 0 = all")
    aml_self: bool = Field(False, description="aml: the teacher's embedding of the anchor itself is a positive, too")
    csd_bank_neighbours: PositiveInt = Field(96, description="csd_bank: nearest training places that are compared")
    csd_bank_student_temperature: PositiveFloat = Field(1.0, description="csd_bank: temperature of the student's row")
    csd_bank_teacher_temperature: PositiveFloat = Field(0.01, description="csd_bank: temperature of the teacher's row")
    simkl_temperature: PositiveFloat = Field(0.05, description="simkl: temperature of similarity rows")
    darkrank_alpha: PositiveFloat = Field(3.0, description="darkrank: scale of the scores")
    darkrank_beta: PositiveFloat = Field(3.0, description="darkrank: power of the distance")
    darkrank_length: PositiveInt = Field(4, description="darkrank: neighbours whose order is matched")
    crd_negatives: PositiveInt = Field(16384, description="crd: negatives K")
    crd_momentum: float = Field(0.5, ge=0, lt=1, description="crd: share of the old vector kept in the memory bank")
    crd_temperature: PositiveFloat = Field(0.07, description="crd: temperature")
    crd_dim: PositiveInt = Field(128, description="crd: width of the mapped vectors")
    hint_batch_norm: bool = Field(False, description="hint: batch norm behind the 1x1 convolution")
    ail_alpha: float = Field(0.5, ge=0, le=1, description="ail: share of the ground truth")
