"""Reading a network's settings off the names and shapes of its weights, to say how two networks differ."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distilplace.models.image.backbones import NETWORKS, WHOLE_FAMILIES
from distilplace.models.image.pooling import HEADS

# (blocks of stage 3, has a bottleneck / is version 2) -> name
_RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
_SWINS = {(6, False): "swin_t", (18, False): "swin_s", (6, True): "swin_v2_t", (18, True): "swin_v2_s"}
_CONVNEXTS = {9: "convnext_tiny", 27: "convnext_small"}


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings, named as ``create_model`` does, that keys and shapes of ``state`` reveal; only those known."""
    fused = any(key.startswith("image_fe.") for key in state) and any(key.startswith("cloud_fe.") for key in state)
    if fused:
        image, cloud = _image_settings(_part(state, "image_fe.")), _cloud_settings(_part(state, "cloud_fe."))
        renamed = {"network": "image_fe", "output_dim": "image_fe_dim", "pool": "image_pool"}
        renamed |= {"useallstages": "image_useallstages"}
        renamed |= {"feature_size": "cloud_fe_dim", "planes": "cloud_planes", "layers": "cloud_layers"}
        renamed |= {"num_top_down": "cloud_topdown"}
        return {"kind": "LiDAR + image"} | {renamed.get(k, f"cloud {k}"): v for k, v in (image | cloud).items()}
    if any(key.startswith("backbone.") for key in state):
        return {"kind": "LiDAR only"} | _cloud_settings(state)
    if any(key.startswith(("model.", "conv1x1.")) for key in state):
        return {"kind": "image only"} | _image_settings(state)
    if "fc.cls_fc_pose.0.weight" in state:
        found = _network({f"model.{key}": value for key, value in state.items()})
        return {"kind": "pose network"} | ({"network": found} if found else {})
    if any(key.startswith(("base_model.base.", "base_model.bneck.")) for key in state):
        return {"kind": "NetVLAD network"} | _vlad_settings(state)
    return {}


def differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """The settings in which two state dicts are known to differ: "output_dim is 256 in the file, 384 in the model"."""
    file, model = describe(theirs), describe(ours)
    return [f"{k} is {file[k]} in the file, {model[k]} in the model" for k in file if model.get(k, file[k]) != file[k]]


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered children stand behind ``prefix``."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _image_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    network = _network(state)
    if network:
        found["network"] = network
    if "conv1x1.weight" in state and state["conv1x1.weight"].ndim == 4:
        found["output_dim"], channels = state["conv1x1.weight"].shape[:2]
        if network and NETWORKS[network].family not in WHOLE_FAMILIES:
            found["useallstages"] = channels == NETWORKS[network].final_width
    heads = [name for name, head in HEADS.items() if any(key.startswith(f"{head.key}.") for key in state)]
    if len(heads) == 1:  # DistilVPR's files hold all four heads and so do not tell
        found["pool"] = heads[0]
    elif not heads and "conv1x1.weight" not in state:
        found["pool"] = "mean"
    return found


def _vlad_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of OpenIBL's keys, which number the layers of a VGG or MobileNet as torchvision's ``features`` does."""
    layers = _part(state, "base_model.base.") or _part(state, "base_model.")
    front = "model." if "conv1.weight" in layers else "model.features."
    network = _network({f"{front}{key}": value for key, value in layers.items()})
    found: dict[str, Any] = {"network": network} if network else {}
    if "net_vlad.centroids" in state:
        found["clusters"] = state["net_vlad.centroids"].shape[0]
    return found


def _network(state: Mapping[str, Tensor]) -> str | None:
    if "model.layer1.0.conv1.weight" in state:
        return _RESNETS.get((_count(state, "model.layer3."), "model.layer1.0.conv3.weight" in state))
    blocks = _count(state, "model.features.5.")
    if "model.features.1.0.layer_scale" in state:
        return _CONVNEXTS.get(blocks)
    if "model.features.1.0.attn.qkv.weight" in state:
        return _SWINS.get((blocks, "model.features.1.0.attn.logit_scale" in state))
    if "model.bneck.0.conv1.weight" in state:
        return "mobilenetv3_large_wakd"
    if "model.features.0.weight" in state:
        return "vgg19" if "model.features.34.weight" in state else "vgg16"
    if "model.features.1.conv.0.0.weight" in state:
        return "mobilenet_v2"
    if "model.features.1.block.0.0.weight" in state:
        return "mobilenetv3_large" if "model.features.13.block.0.0.weight" in state else "mobilenetv3_small"
    return None


def _cloud_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stages = _count(state, "backbone.blocks.")
    if stages:
        found["layers"] = tuple(_count(state, f"backbone.blocks.{i}.") for i in range(stages))
        kernels = [state.get(f"backbone.blocks.{i}.0.conv1.kernel") for i in range(stages)]
        if all(kernel is not None for kernel in kernels):
            found["planes"] = tuple(kernel.shape[-1] for kernel in kernels if kernel is not None)
        found["num_top_down"] = _count(state, "backbone.tconvs.")
        found["block"] = "ECABasicBlock" if any(re.search(r"\.eca\.", key) for key in state) else "BasicBlock"
    if "backbone.conv1x1s.0.kernel" in state:
        found["feature_size"] = state["backbone.conv1x1s.0.kernel"].shape[-1]
    if "backbone.conv0.kernel" in state and state["backbone.conv0.kernel"].ndim == 3:
        offsets, found["in_channels"], _ = state["backbone.conv0.kernel"].shape
        found["conv0_kernel_size"] = round(offsets ** (1 / 3))
    return found
