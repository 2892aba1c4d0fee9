"""Options of task losses and of DistilVPR."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distilplace.engine.options.fields import FloatList, NamedSettings, NonNegative, OptionGroup


class LossOptions(OptionGroup):
    """Task loss and distillation (DistilVPR, AAAI 2024)."""

    loss: str = Field("MultiBatchHardTripletMarginLoss", description="task loss; pml:NAME is pytorch-metric-learning's")
    loss_settings: NamedSettings = Field({}, description="settings of a loss pml:NAME, such as 'alpha=2 beta=50'")
    miner: str | None = Field(
        None, description="miner for a loss pml:NAME: MultiSimilarityMiner, ...; None = all pairs"
    )
    miner_settings: NamedSettings = Field({}, description="settings of --miner, such as 'epsilon=0.1'")
    margin: NonNegative = Field(0.2, description="triplet margin")
    weights: FloatList = Field("0.5_0.5_0", description="task-loss weights of final, cloud, image embedding")
    normalize_embeddings: bool = Field(False, description="L2-normalise embeddings in the task loss")
    ap_tau1: PositiveFloat = Field(0.01, description="temperature of TruncatedSmoothAP")
    ap_similarity: Literal["euclidean", "cosine"] = Field("euclidean", description="similarity of TruncatedSmoothAP")
    ap_positives_per_query: PositiveInt = Field(4, description="positives per query of TruncatedSmoothAP")
    distil_method: str = Field(
        "ours_rkdg", description="method by name (docs/guide/methods.md): nokd, ours_rkdg, asht, ..."
    )
    kd: list[str] = Field([], description="added term NAME[@LAYERS][:WEIGHT]; may be given several times")
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
    logit_mapping_fn: Literal["identity", "topoincare", "id_topoin", "centred"] = Field(
        "identity", description="space of the cross terms: flat, ball, both, or flat with a centred teacher"
    )
    exclude_diagonal: bool = Field(False, description="leave i-i entries out of the cross terms")
    legacy_mean: bool = Field(False, description="upstream's mean over entries > 0, rounding noise included")
