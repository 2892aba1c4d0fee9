"""Make tests/data/goldens from the full set of recorded numbers: ``python -m tests.data.make_subset FULL [OUT]``.

FULL is the folder with the published programs' recorded outputs (``*.pt``, see tests/data/README.md). No number is
computed here: files are cut to fewer cases, layers and fields. Running it again gives the same bytes.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.goldens import SUBSET, Elsewhere, write_subset

LARGEST_GRADIENT = 2_500  # numbers of a parameter; the norms of all gradients stay
STAGE_CHANNELS = 8
FIRST_POINTS = 1024
FIRST_ROWS = 512
CLOUD, IMAGE = ("a_minkloc_odd_batches", "two_points_cloud"), ("e_student_resnet18",)


def without(*names: str) -> Callable[[dict], dict]:
    """All cases but these."""
    return lambda content: {name: case for name, case in content.items() if name not in names}


def lean(value: Any, *fields: str) -> Any:
    """``value`` without these fields, at any depth."""
    if isinstance(value, dict):
        return {key: lean(each, *fields) for key, each in value.items() if key not in fields}
    return [lean(each, *fields) for each in value] if isinstance(value, list) else value


def small(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of small parameters."""
    return {name: each for name, each in gradients.items() if each.numel() <= LARGEST_GRADIENT}


def sparse_layers(content: dict) -> dict:
    """All layers but kernels of 5 and 1, which MinkLoc has."""
    return {**content, "cases": without("conv_k5_1_32", "conv_k1_16_24")(content["cases"])}


def quantisation(content: dict) -> dict:
    """Every case cut to its first points: voxels stand in the order of their first point, so theirs come first."""
    cut = {}
    for name, case in content.items():
        if name == "batched":
            numbers = range(len(case["coord_list"]))
            kept = [case["batched"][case["batched"][:, 0] == number][:FIRST_ROWS] for number in numbers]
            cut[name] = {"coord_list": [rows[:FIRST_ROWS] for rows in case["coord_list"]], "batched": torch.cat(kept)}
            continue
        voxels = int((case["unique_index"] < FIRST_ROWS).sum())
        by_point = {key: case[key][:FIRST_ROWS] for key in ("points", "inverse")}
        fields = ("coords", "unique_index", "coords_with_features", "features_kept")
        cut[name] = {**case, **by_point, **{key: case[key][:voxels] for key in fields}}
    return cut


def minkloc(content: dict) -> dict:
    """The whole network on the smallest batch: every weight, the first channels of its last map, small gradients."""
    case = content["two_points_cloud"]
    stages = {
        name: {**stage, "feats": stage["feats"][:, :STAGE_CHANNELS].contiguous()}
        for name, stage in case["stages"].items()
    }
    return {"two_points_cloud": {**lean(case, "clouds"), "stages": stages, "grads": small(case["grads"])}}


def teacher(content: dict, branches: tuple[dict, dict]) -> dict:
    """The published key list, and a teacher put together from the published cloud network and image student.

    Its own 12 million weights are too large. In the published program the teacher's embedding is its two branches'
    one after the other (asserted), and a branch's is that of the network alone.
    """
    outputs = content["outputs"]
    joined = torch.cat([outputs["cloud_embedding"], outputs["image_embedding"]], dim=1)
    if not torch.equal(joined, outputs["embedding"]):
        raise ValueError("d_teacher_minklocmmcat.pt: the embedding is not the cloud's followed by the image's")
    cloud, image = branches
    states = (("cloud_fe.", CLOUD, cloud["state_dict"], "state_dict"),)
    states += (("image_fe.", IMAGE, image["state_dict_used"], "state_dict_used"),)
    wanted = {
        f"{prefix}{key}": Elsewhere(*place, field, key) for prefix, place, state, field in states for key in state
    }
    if set(wanted) != set(content["state_dict_used"]):
        raise ValueError("d_teacher_minklocmmcat.pt: its keys are not those of the two networks")
    pools = {name: Elsewhere(*IMAGE, "eval_layer_avgpools", name) for name in image["eval_layer_avgpools"]}
    return {
        "images_u8": Elsewhere(*IMAGE, "images_u8"),
        "coords": Elsewhere(*CLOUD, "coords"),
        "state_dict_keys": content["state_dict_keys"],
        "state_dict_used": {key: wanted[key] for key in content["state_dict_used"]},
        "outputs": {
            "cloud_embedding": Elsewhere(*CLOUD, "eval_embedding"),
            "image_embedding": Elsewhere(*IMAGE, "eval_embedding"),
            "embedding_f64": torch.cat([cloud["eval_embedding_f64"], image["eval_embedding_f64"]], dim=1),
            **pools,
        },
    }


def student(content: dict) -> dict:
    """Every weight in use, outputs and norms; only the small gradients."""
    return {**content, "grads": small(content["grads"])}


def distilvpr(content: dict) -> dict:
    """Seven of ten pairs, all their values and gradient norms; of pair b4 a gradient for each term and direction."""
    dropped = ("b64", "b16_dup", "b16_student_equals_teacher")
    cases, seen = [], set()
    for case in content["cases"]:
        if case["pair"] in dropped:
            continue
        kept = lean(case, "value", "grad_norm", *(["grad"] if "grad_f64_diag_zeroed" in case else []))
        kind = case["fn"], case.get("direction")
        if case["pair"] != "b4" or kind in seen:
            kept = {name: value for name, value in kept.items() if not isinstance(value, torch.Tensor)}
        else:
            seen.add(kind)
        cases.append(kept)
    return {"pairs": without(*dropped)(content["pairs"]), "cases": cases}


def augmentations(content: dict) -> dict:
    """One of two clouds, one of two images; what moves each point for itself, on the first points."""
    cloud = lean(content["clouds"][1], "pc_array_to_voxel")
    for name, case in cloud.items():
        if name.startswith(("RandomRotation", "JitterPoints", "RandomTranslation")):
            rows = {key: case[key][:FIRST_POINTS].clone() for key in ("jitter", "result") if key in case}
            cloud[name] = {**case, **rows}
    return {**content, "clouds": {1: cloud}, "images": {1: content["images"][1]}}


def whiten_mtd(content: dict) -> dict:
    """All but the largest whitening, and no gradients of the two strategies that draw."""
    losses = {
        name: lean(case, "grad_view1", "grad_view2") if name in ("rand", "maxrand") else case
        for name, case in content["loss"].items()
    }
    content = {**content, "loss": losses, "pca": without("n300_d64_to_16_whit1")(content["pca"])}
    return lean(content, "projected_of_training", "similarity_db_by_query")


def evaluation(content: dict) -> dict:
    """All but one of the two databases whose one percent is a half."""
    return {name: case for name, case in content.items() if not name.startswith("database_of_350")}


CUTS: dict[str, Callable[[Any], Any]] = {
    "a0_sparse_layers": sparse_layers,
    "a_minkloc_odd_batches": minkloc,
    "c_quantisation": quantisation,
    "e_student_resnet18": student,
    "f_distil_losses": distilvpr,
    "g_task_losses": without("student_b64"),
    "h_hyptorch": without("d384_c0.1"),
    "i_evaluation": evaluation,
    "j_sampler": without(),
    "k_augmentations": augmentations,
    "l_whiten_mtd": whiten_mtd,
    "m_sckd": without(),
    "n_asht_kd": without(),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Cut the recorded numbers down to what the repository holds.")
    parser.add_argument("full", type=Path, help="folder with the full set (*.pt)")
    parser.add_argument("out", type=Path, nargs="?", default=SUBSET, help="default: tests/data/goldens")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cut = {}
    for name, function in CUTS.items():
        cut[name] = function(torch.load(args.full / f"{name}.pt", weights_only=True))
    whole = torch.load(args.full / "d_teacher_minklocmmcat.pt", weights_only=True)
    cut["d_teacher_minklocmmcat"] = teacher(whole, (cut[CLOUD[0]][CLOUD[1]], cut[IMAGE[0]]))
    for name, content in cut.items():
        write_subset(args.out / f"{name}.npz", content)
    keys = json.loads((args.full / "state_dict_keys.json").read_text())
    (args.out / "state_dict_keys.json").write_text(json.dumps(keys, separators=(",", ":")) + "\n")
    sizes = {path.name: path.stat().st_size for path in sorted(args.out.iterdir())}
    print("\n".join(f"{size:9,}  {name}" for name, size in sizes.items()))
    print(f"{sum(sizes.values()):9,}  in all")


if __name__ == "__main__":
    main()
