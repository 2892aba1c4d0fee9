"""Options of data sets."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distilplace.engine.options.fields import Count, ImageSize, OptionGroup

LARGEST_SCALE = 10


class DataOptions(OptionGroup):
    """Which places, from where, and how they are read."""

    dataset: str = Field(
        "oxford", description="data set by name (docs/guide/data-sets.md): oxford, boreas, frames, demo, ..."
    )
    dataset_folder: str | None = Field(None, description="folder of the data set (see docs/guide/data-sets.md)")
    image_path: str | None = Field(None, description="folder of the images (oxford, oxfordadafusion, boreas)")
    image_lidar_k: PositiveInt | None = Field(1, description="nearest images kept per place; None = all listed")
    n_points_boreas: PositiveInt = Field(4096, description="points of a Boreas cloud")
    oxford_quantization_size: PositiveFloat = Field(0.01, description="voxel size, normalised units (oxford, demo)")
    boreas_quantization_size: PositiveFloat = Field(1.0, description="voxel size in metres (boreas)")
    frames_quantization_size: PositiveFloat = Field(0.5, description="voxel size in metres (frames)")
    bin_columns: Annotated[int, Field(ge=3, le=64)] | None = Field(
        None, description="float32 a row of .bin clouds, x y z first (frames, kitti: 4); None = where sizes leave one"
    )
    frames_points: PositiveInt = Field(4096, description="points kept of a cloud (frames)")
    positive_radius: PositiveFloat | None = Field(
        None, description="metres within which two places are positives (frames and image sets); None = the set's own"
    )
    negative_radius: PositiveFloat | None = Field(
        None, description="metres beyond which two places are negatives (frames and image sets); None = the set's own"
    )
    eval_radius: PositiveFloat | None = Field(
        None, description="metres within which a retrieved place is right (frames and image sets); None = the set's own"
    )
    frames_map: Literal["auto", "shared", "local"] = Field("auto", description="do the runs share one map? (frames)")
    image_size: ImageSize | None = Field(
        None, description="size of images: 224 (square), 480x640 (height x width) or short640; None = as they are"
    )
    query_image_size: ImageSize | None = Field(
        None,
        description="size of tested queries where it is not --image_size: short640 (OpenIBL's Tokyo 24/7); image sets",
    )
    normalisation: Literal["imagenet", "caffe", "raw"] = Field(
        "imagenet",
        description="pixels: ImageNet's mean and deviation, 0..255 less the mean (OpenIBL's VGG16), or plain 0..1",
    )
    views: Literal["place", "posenet", "landmarks", "svd"] | None = Field(
        None, description="how images are cropped and augmented (docs/guide/data-sets.md); None = the set's own way"
    )
    crop_size: PositiveInt | None = Field(None, description="side of the crops of --views; None = the view's own")
    scales: list[Annotated[float, Field(gt=0, le=LARGEST_SCALE)]] = Field(
        [1.0],
        min_length=1,
        description="sizes at which a tested image is described, the descriptors being averaged: 1 0.7071 0.5",
    )
    test_dataset: str | None = Field(None, description="data set that is tested, where it is not the one that trains")
    test_folder: str | None = Field(None, description="folder of --test_dataset")
    mean_image_path: str | None = Field(
        None, description="mean image (.npy) of pose sets, or a folder to keep it in; None = kept in the scene's folder"
    )
    query_crop: bool = Field(False, description="cut queries to their box (roxford5k, rparis6k)")
    distractors_folder: str | None = Field(None, description="folder of the 1M distractors (roxford5k, rparis6k)")
    svd_frames: PositiveInt = Field(60, description="frames taken of a video (svd)")
    svd_stride: PositiveInt = Field(1, description="of how many frames one is taken (svd)")
    svd_similarity: Literal["fme", "fmx", "sme", "smx", "cf"] = Field("fmx", description="similarity of videos (svd)")
    split: Literal["test", "val"] = Field("test", description="which part is evaluated (pitts30k, pitts250k)")
    train_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="first share of the sequence that trains, the rest is tested (images, sequences, ...)",
    )
    frame_tolerance: Count | None = Field(
        None, description="frame numbers up to this far apart show one place (images, sequences, nordland)"
    )
    spatial_nms: bool | None = Field(None, description="one answer per panorama; None = the set's own (tokyo247: yes)")
    kitti_protocol: Literal["A", "B", "C"] = Field("A", description="kitti: revisits, map and queries, or MinkLoc3D-SI")
    kitti_sequence: str = Field("00", description="kitti: the sequence that is tested")
    kitti_train_sequences: list[str] = Field([], description="kitti: sequences to train on; none = all others")
    nordland_variant: Literal["full", "patchnetvlad", "downloader", "vprbench", "seqnet"] = Field(
        "full", description="nordland: which of the published lists"
    )
    nordland_database: str = Field("summer", description="nordland: season of the database")
    nordland_query: str = Field("winter", description="nordland: season of the queries")
    demo_seed: Count = Field(1, description="which generated world (demo)")
    num_workers: Count = Field(0, description="data-loader processes; results do not depend on it")
    val_batch_size: PositiveInt = Field(160, description="places per batch when embedding")
