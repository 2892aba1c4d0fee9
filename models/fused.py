"""LiDAR + image teachers: MinkLoc++ (Komorowski et al., IJCNN 2021) as DistilVPR (AAAI 2024) trains it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from distilplace.common.errors import UserError, unknown_name
from distilplace.models.base import PlaceNetwork, learning_parameters
from distilplace.models.image.network import ImageNetwork

FUSIONS = ("cat", "add")


class MinkLocMultimodal(PlaceNetwork):
    """A MinkLoc cloud branch and an image branch, their descriptors concatenated (cloud first) or added.

    State-dict keys are DistilVPR's: ``cloud_fe.*`` and ``image_fe.*``.

    Args:
        fusion: "cat" (descriptor of cloud_fe_dim + image width) or "add" (both branches must be equally wide).
        image_fe: the image network (:data:`distilplace.models.image.backbones.NETWORKS`).
        image_fe_dim: channels behind the image branch's 1x1 convolution.
        cloud_fe_dim: width of the cloud descriptor.
        cloud_planes: channels of MinkLoc's stages.
        cloud_layers: residual blocks of each stage.
        cloud_topdown: transposed convolutions on the way back up.
        image_useallstages: cut the image network behind stage 4 instead of stage 3.
        image_pool: head of the image branch (:data:`distilplace.models.image.pooling.HEADS`).
        pretrained: start of the image branch: "none", "imagenet" or a file.
        sparse_backend: the cloud branch's sparse engine, or "auto" (:mod:`distilplace.models.sparse.backends`).

    """

    requires = ("images", "coords", "features")
    trunk_keys = ("", "image_fe.model.")

    def __init__(
        self,
        fusion: str,
        image_fe: str = "resnet18",
        image_fe_dim: int = 256,
        cloud_fe_dim: int = 128,
        cloud_planes: Sequence[int] = (32, 64, 64),
        cloud_layers: Sequence[int] = (1, 1, 1),
        cloud_topdown: int = 1,
        image_useallstages: bool = False,
        image_pool: str = "GeM",
        pretrained: str = "none",
        sparse_backend: str = "auto",
    ) -> None:
        super().__init__()
        from distilplace.models.cloud.minkloc import MinkLoc

        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        self.fusion = fusion
        self.cloud_fe = MinkLoc(
            feature_size=cloud_fe_dim,
            planes=tuple(cloud_planes),
            layers=tuple(cloud_layers),
            num_top_down=cloud_topdown,
            sparse_backend=sparse_backend,
        )
        self.image_fe = ImageNetwork(image_fe, image_fe_dim, image_pool, image_useallstages, pretrained)
        cloud_dim, image_dim = self.cloud_fe.output_dim, self.image_fe.output_dim
        if fusion == "add" and cloud_dim != image_dim:
            raise UserError(
                f"minklocmmadd adds the two descriptors, but the cloud's has {cloud_dim} numbers and the image's"
                f" {image_dim}: make cloud_fe_dim and image_fe_dim equal (with GeM or CosPlace), or use minklocmmcat"
            )
        self.output_dim = cloud_dim + image_dim if fusion == "cat" else cloud_dim
        self.level_maps = self.image_fe.level_maps
        self.unused_checkpoint_prefixes = tuple(f"image_fe.{name}" for name in self.image_fe.unused_checkpoint_prefixes)

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """Also reads ``coords`` int32 [N, 4] (batch, x, y, z) and ``features`` [N, C] of the voxels.

        Gives ``embedding`` [B, output_dim], ``cloud_embedding`` and ``image_embedding``; feature maps are the image
        branch's (:meth:`ImageNetwork.forward`).
        """
        image = self.image_fe(batch, feature_maps=feature_maps)
        cloud_embedding, image_embedding = self.cloud_fe(batch)["embedding"], image["embedding"]
        if len(cloud_embedding) != len(image_embedding):
            raise ValueError(f"a batch of {len(image_embedding)} images came with {len(cloud_embedding)} clouds")
        if self.fusion == "cat":
            embedding = torch.cat((cloud_embedding, image_embedding), dim=1)
        else:
            embedding = cloud_embedding + image_embedding
        output = {"embedding": embedding, "cloud_embedding": cloud_embedding, "image_embedding": image_embedding}
        return output | {name: value for name, value in image.items() if name != "embedding"}

    def branch_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn by branch, for learning rates of their own."""
        head = [] if self.embedding_head is None else learning_parameters(self.embedding_head)
        return {"image": [*learning_parameters(self.image_fe), *head], "cloud": learning_parameters(self.cloud_fe)}
