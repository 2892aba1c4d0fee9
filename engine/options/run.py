"""Options of a run: where it lives and on what it runs."""

from typing import Literal

from pydantic import Field, model_validator

from distilplace.engine.options.fields import Count, OptionGroup


class RunOptions(OptionGroup):
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
    predictions: Literal["parquet", "csv", "none"] = Field(
        "parquet", description="what was retrieved for every test query, in the run folder; csv: as text too"
    )
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
