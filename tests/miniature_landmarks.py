"""Writes miniature landmark and video sets, the smallest that are real ones. Equal arguments, equal bytes."""

import pickle
from pathlib import Path

from tests.miniature_images import write_picture

SIZE = (48, 36)
LANDMARKS = {17: 3, 4: 2, 250: 4, 9: 2, 33: 3, 81: 1}
"""Google landmark -> number of its images; the last has too few for a pair."""
GRADES = (
    {"easy": [0, 1], "hard": [2], "junk": [3]},
    {"easy": [], "hard": [4, 5], "junk": []},
    {"easy": [6], "hard": [7], "junk": [8, 3]},
)
"""The truth of three queries among ten database images; image 9 is wrong for all, query 1 has no easy item."""
SHOWN = (0, 0, 0, 0, 1, 1, 2, 2, 2, 3)
"""The place that each database image shows."""
DISTRACTORS = 4
FRAMES = 8
TEST = {"701": {"801": 1, "802": 1, "803": 0}, "702": {"804": 1, "805": 0, "806": 0}, "703": {"807": 1, "808": 1}}
TEST["703"] |= {"809": 0, "810": 0}
"""Test query -> candidate -> label: three queries, ten candidates."""
TRAIN = {"601": {"651": 1, "652": 1, "653": 0}, "602": {"654": 1, "655": 0, "656": 0}}
UNLABELLED = [str(number) for number in range(901, 921)]


def image_id(landmark: int, number: int) -> str:
    """Sixteen hexadecimal digits, spread over folders as Google's are."""
    return f"{(1000 * landmark + number + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}"


def image_file(folder: Path, name: str) -> Path:
    """Where the image ``name`` of Google Landmarks lies."""
    return folder / "train" / name[0] / name[1] / name[2] / f"{name}.jpg"


def write_gldv2(folder: Path, landmarks: dict[int, int] | None = None) -> Path:
    """Google Landmarks v2: ``landmarks`` and their images (:data:`LANDMARKS`), listed in ``meta/train_clean.csv``."""
    lines = ["landmark_id,images"]
    for landmark, count in (LANDMARKS if landmarks is None else landmarks).items():
        names = [image_id(landmark, number) for number in range(count)]
        lines.append(f"{landmark},{' '.join(names)}")
        for tint, name in enumerate(names):
            write_picture(image_file(folder, name), landmark, tint, SIZE)
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "train_clean.csv").write_text("\n".join(lines) + "\n")
    return folder


def revisited_truth(places: tuple[int, ...] = SHOWN) -> dict:
    """The content of a ground-truth pickle."""
    boxes = ([4, 3.5, 40, 30.25], [0, 0, 47.5, 35], [10, 2, 30, 34])
    return {
        "gnd": [{"bbx": box, **{k: list(v) for k, v in row.items()}} for box, row in zip(boxes, GRADES, strict=True)],
        "imlist": [f"street_{place}_{index:06d}" for index, place in enumerate(places)],
        "qimlist": [f"query_{place:06d}" for place in range(len(GRADES))],
    }


def write_truth(path: Path, content: object) -> None:
    """A ground-truth pickle as the benchmark's authors wrote theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        pickle.dump(content, stream, protocol=2)


def write_revisited(folder: Path, name: str = "roxford5k", distractors: bool = False) -> Path:
    """Revisited Oxford or Paris in ``folder``/``name``; with ``distractors``, those in ``folder``/revisitop1m."""
    content = revisited_truth()
    for index, (image, place) in enumerate(zip(content["imlist"], SHOWN, strict=True)):
        write_picture(folder / name / "jpg" / f"{image}.jpg", place, index % 3, SIZE)
    for place, image in enumerate(content["qimlist"]):
        write_picture(folder / name / "jpg" / f"{image}.jpg", place, 1, SIZE)
    write_truth(folder / name / f"gnd_{name}.pkl", content)
    if distractors:
        names = [f"{number % 2}/other_{number}.jpg" for number in range(DISTRACTORS)]
        for number, image in enumerate(names):
            write_picture(folder / "revisitop1m" / "jpg" / image, 500 + number, 0, SIZE)
        (folder / "revisitop1m" / "revisitop1m.txt").write_text("\n".join(names) + "\n")
    return folder


def write_svd(folder: Path, *, counts: bool = True, frames: int = FRAMES) -> Path:
    """SVD: lists, frames of every video, and their numbers in ``num_frames``; near-duplicates differ in colour."""
    shown: dict[str, int] = {}
    for truth in (TEST, TRAIN):
        for query, row in truth.items():
            shown |= {query: int(query), **{video: int(query if label else video) for video, label in row.items()}}
    candidates = [video for truth in (TEST, TRAIN) for row in truth.values() for video in row]
    shown |= {video: int(video) for video in UNLABELLED}
    for video, scene in shown.items():
        for frame in range(frames):
            tint = 0 if scene == int(video) else 1
            write_picture(folder / "frames" / video / f"{frame:04d}.jpg", 1000 * scene + frame, tint, (24, 18))
    lists = {
        "all-video-id": list(shown),
        "labeled-data-id": candidates,
        "unlabeled-data-id": UNLABELLED,
        "query-id": [*TRAIN, *TEST],
    }
    home = folder / "metadata-release"
    home.mkdir(parents=True)
    for name, videos in lists.items():
        (home / name).write_text("".join(f"{video}.mp4\n" for video in videos))
    for name, truth in (("train_groundtruth", TRAIN), ("test_groundtruth", TEST), ("groundtruth", TRAIN | TEST)):
        rows = ((query, video, label) for query, row in truth.items() for video, label in row.items())
        (home / name).write_text("".join(f"{query}.mp4 {video}.mp4 {label}\n" for query, video, label in rows))
    if counts:
        (folder / "num_frames").write_text("".join(f"{video} {frames}\n" for video in shown))
    return folder
