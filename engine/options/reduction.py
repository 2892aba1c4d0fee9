"""Options of the whitening that embeddings are reduced by when they are tested."""

from pydantic import Field, PositiveInt, model_validator

from distilplace.engine.options.fields import ImageSize, OptionGroup


class ReductionOptions(OptionGroup):
    """``evaluate.py --pca``: to how many numbers, fitted on which images, kept where. ``--whitening``: a file."""

    pca: PositiveInt | None = Field(None, description="reduce embeddings to this many numbers by PCA whitening")
    pca_dataset: str | None = Field(
        None, description="data set on whose training part the PCA is fitted; None = the run's own, else --dataset"
    )
    pca_folder: str | None = Field(None, description="folder of --pca_dataset; None = the run's own")
    pca_image_size: ImageSize | None = Field(
        None, description="size of the images that the PCA is fitted on; None = as --image_size"
    )
    pca_file: str | None = Field(
        None, description="file that the fitted PCA is read from, or kept in; None = beside the weights"
    )

    whitening: list[str] = Field(
        [], description="whitening of the embeddings (Whiten_MTD's pca_weights/*.pt); with --compare one each, or none"
    )

    @model_validator(mode="after")
    def _pca_is_asked_for(self) -> "ReductionOptions":
        if self.pca is None:
            for name in ("pca_dataset", "pca_folder", "pca_image_size", "pca_file"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is about the PCA of --pca: give --pca 4096, or omit it")
        elif self.whitening:
            raise ValueError("--pca and --whitening both whiten the embeddings: omit one")
        return self
