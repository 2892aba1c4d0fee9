"""Options of networks."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from distilplace.engine.options.fields import Count, IntList, OptionGroup

Pooling = Literal["GeM", "GeMFC", "NetVLAD", "ConvAP", "CosPlace", "mean"]


class ModelOptions(OptionGroup):
    """Teacher and student architectures."""

    model: list[str] = Field(["minklocmmcat"], description="teacher model (several names: several teachers)")
    minklocmm_image_fe: str = Field("resnet18", description="teacher's image network")
    minklocmm_image_fe_dim: PositiveInt = Field(256, description="teacher's image embedding size")
    minklocmm_cloud_fe_dim: PositiveInt = Field(128, description="teacher's cloud embedding size")
    minklocmm_cloud_planes: IntList = Field("32_64_64", description="teacher's cloud trunk widths")
    minklocmm_cloud_layers: IntList = Field("1_1_1", description="blocks per stage of the teacher's cloud trunk")
    minklocmm_cloud_topdown: Count = Field(1, description="top-down steps of the teacher's cloud trunk")
    minklocmm_image_useallstages: bool = Field(False, description="teacher's image network up to stage 4, not 3")
    teacher_output_dim: PositiveInt | None = Field(None, description="image teacher's embedding size; None = student's")
    teacher_pool: Pooling | None = Field(None, description="pooling head of the teacher; None = as --pool")
    student_model: str = Field("resnet18", description="student model: an image network, or minkloconly")
    student_output_dim: PositiveInt = Field(384, description="student's embedding size")
    student_minkloconly_planes: IntList = Field("32_64_128", description="cloud-only student's trunk widths")
    student_minkloconly_layers: IntList = Field("1_1_1", description="blocks per stage of the cloud-only student")
    student_minkloconly_topdown: Count = Field(0, description="top-down steps of the cloud-only student")
    pool: Pooling = Field("GeM", description="head of image networks: GeM, GeMFC, NetVLAD, ConvAP, CosPlace or mean")
    gem_p: PositiveFloat | None = Field(
        None, description="fixed power p of GeMFC and of the landmark networks; None = each one's own (3; mocov3 ... 1)"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of pose networks")
    clusters: PositiveInt = Field(64, description="clusters of ...netvlad networks")
    trainable_from: Literal["all", "conv5"] = Field("all", description="...netvlad networks: layers that learn")
    useallstages: bool = Field(False, description="student's image network up to stage 4, not 3")
    sparse_backend: str = Field("auto", description="sparse engine: auto, torch, triton, spconv or minkowski")
    sparse_maps: Literal["device", "workers"] = Field(
        "device", description="where kernel maps are built: on the device, or by the data-loader processes"
    )
    pretrained: str = Field(
        "imagenet", description="start of image networks: imagenet, none, or a file: a trunk's, or a run's weights"
    )

    @model_validator(mode="after")
    def _known_engine(self) -> "ModelOptions":
        if self.sparse_backend != "auto":  # a run that leaves the choice open may never need an engine
            from distilplace.models.sparse.backends import require_known

            require_known(self.sparse_backend)
        return self
