"""Which losses and miners of pytorch-metric-learning work on pair masks, and why the others do not.

Names only: the library itself is loaded when one of them is made (:mod:`distilplace.losses.tasks.pml`).
"""

PREFIX = "pml:"

LOSSES = (
    "MultiSimilarityLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
)
"""Losses of pairs or triplets: all that ``indices_tuple`` can tell them."""

MINERS = (
    "MultiSimilarityMiner",
    "AngularMiner",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "DistanceWeightedMiner",
    "HDCMiner",
    "PairMarginMiner",
    "TripletMarginMiner",
)
"""Miners that look at one anchor's pairs at a time, or that take pairs from outside."""

_LABELS = "it reads a class label of every place; batches say which pairs are positive and negative"
_PROXIES = "it learns a proxy of every class; places have no classes"
_WRAPPER = "it wraps another loss: name that one"

REFUSED = {
    **dict.fromkeys(("AngularLoss", "FastAPLoss", "InstanceLoss", "NCALoss", "NPairsLoss", "PNPLoss"), _LABELS),
    **dict.fromkeys(("RankedListLoss", "SmoothAPLoss"), _LABELS),
    **dict.fromkeys(("ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss", "SphereFaceLoss"), _PROXIES),
    **dict.fromkeys(("NormalizedSoftmaxLoss", "P2SGradLoss", "ProxyAnchorLoss", "ProxyNCALoss"), _PROXIES),
    **dict.fromkeys(("SoftTripleLoss", "SubCenterArcFaceLoss", "ManifoldLoss"), _PROXIES),
    **dict.fromkeys(("BaseLossWrapper", "MultipleLosses", "SelfSupervisedLoss"), _WRAPPER),
    **dict.fromkeys(("BaseMetricLossFunction", "GenericPairLoss"), "it is a base class, not a loss"),
    "CrossBatchMemory": "it remembers embeddings with class labels, which places do not have",
    "DynamicSoftMarginLoss": "its histogram of earlier batches is in no checkpoint: a resumed run would differ",
    "HistogramLoss": "its indexing is deprecated in torch and will mean something else",
    "VICRegLoss": "it compares two views of the same items; batches have one",
    "UniformHistogramMiner": "its histogram is over pairs of class labels; places have no classes",
    "EmbeddingsAlreadyPackagedAsTriplets": "batches are not made of triplets in a row",
    "BaseMiner": "it is a base class, not a miner",
}
"""The library's other losses and miners, each with its reason."""

DRAWS = ("DistanceWeightedMiner",)
"""Miners that draw at random."""

DISTANCES = ("CosineSimilarity", "DotProductSimilarity", "LpDistance", "SNRDistance")

STRATEGIES = ("hard", "semihard", "easy", "all")
CHOICES = {"type_of_triplets": STRATEGIES, "pos_strategy": STRATEGIES, "neg_strategy": STRATEGIES}
"""Settings that are one of a few words."""

FIXED = {"BatchHardMiner": ("pos_strategy", "neg_strategy")}
"""Settings of a base class that a loss or miner has decided."""

NOT_SETTINGS = (
    "collect_stats",
    "distance",
    "embedding_reg_weight",
    "embedding_regularizer",
    "learn_beta",
    "mat_based_loss",
    "num_classes",
    "nu",
    "reducer",
    "triplets_per_anchor",
)
"""Constructor arguments that are objects, that speak of classes, or that pair masks leave without effect."""
