"""Every option of ``train.py`` and ``evaluate.py``, once: name, type, default, help (DistilVPR's names are kept).

The classes in this package are the truth, one file per group; ``distilplace.engine.options.command_line`` makes flags,
recipes and environment variables of them.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distilplace.engine.options.data import DataOptions
from distilplace.engine.options.fields import OptionGroup
from distilplace.engine.options.losses import LossOptions
from distilplace.engine.options.methods import MethodOptions
from distilplace.engine.options.model import ModelOptions
from distilplace.engine.options.reduction import ReductionOptions
from distilplace.engine.options.run import RunOptions
from distilplace.engine.options.training import TrainingOptions

__all__ = [
    "RETIRED",
    "DataOptions",
    "EvaluateOptions",
    "LossOptions",
    "MethodOptions",
    "ModelOptions",
    "OptionGroup",
    "ReductionOptions",
    "RunOptions",
    "TrainOptions",
    "TrainingOptions",
]


class TrainOptions(DataOptions, ModelOptions, LossOptions, MethodOptions, TrainingOptions, RunOptions):
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
        if self.train_mode == "train_teacher" and len(self.model) > 1:
            raise ValueError(f"--train_mode train_teacher trains one network, --model names {len(self.model)}")
        if self.logit_mapping_fn == "centred" and self.align_space != "centred":
            raise ValueError(
                f"--logit_mapping_fn centred compares in a centred space: omit --align_space {self.align_space}"
            )
        near, far = self.positive_radius, self.negative_radius
        if near is not None and far is not None and near >= far:
            raise ValueError(f"--positive_radius {near:g} must be below --negative_radius")
        return self

    @model_validator(mode="after")
    def _engine_runs_here(self) -> "TrainOptions":
        if self.sparse_backend != "auto":  # better now than after the data is read
            from distilplace.models.sparse.backends import choose_backend

            choose_backend(self.sparse_backend, self.device_kind())
        return self


class EvaluateOptions(DataOptions, ModelOptions, RunOptions, ReductionOptions):
    """Options of ``evaluate.py``: a run's loss and training options are ignored."""

    weights: str = Field(description="checkpoint to evaluate (.safetensors of a run, or a published .pth)")
    role: Literal["auto", "teacher", "student"] = Field(
        "auto", description="which network the checkpoint holds; auto: the run's, else the one that --model names"
    )
    compare: list[str] = Field([], description="further checkpoints for the same table and report")
    sequence: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [], description="also R@1 from the last so many images of a query's run, such as 1 5 10"
    )
    teacher_store: str | None = Field(
        None, description="a student: store of its teacher's outputs, in whose map it is measured too"
    )
    teacher_weights_path: list[str] = Field(
        [], description="the same with the weights of the teachers that --model names, which are run here"
    )
    report: str | None = Field(
        None,
        description="folder of the report; None = <weights' run>/evaluation-<data set>, or below logs for other files",
    )

    @property
    def has_teachers(self) -> bool:
        """Is a student measured in the map of its teachers too?"""
        return self.teacher_store is not None or bool(self.teacher_weights_path)

    @model_validator(mode="after")
    def _one_source_of_teachers(self) -> "EvaluateOptions":
        if self.teacher_store is not None and self.teacher_weights_path:
            raise ValueError("--teacher_store holds what --teacher_weights_path would compute: give one of them")
        return self

    def network_role(self) -> Literal["teacher", "student"] | None:
        """Which network the weights are of: what was said, or the one that is named; None where neither was."""
        if self.role != "auto":
            return self.role
        if "model" in self.model_fields_set and not self.has_teachers:
            return "teacher"
        return "student" if "student_model" in self.model_fields_set else None


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
