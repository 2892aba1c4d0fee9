"""``svd``: near-duplicate retrieval of short videos (Jiang et al., ICCV 2019).

``metadata-release/`` with its lists, and frames at one a second in ``frames/<id>/0000.jpg`` on, as whiten_mtd has them.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.randomness import generator
from distilplace.datasets.base import existing_folder
from distilplace.datasets.benchmarks import VideoSet, VideoSimilarity
from distilplace.datasets.image_sets import ImageSet, record
from distilplace.datasets.readers.landmarks.svd_lists import (
    Truth,
    count_file,
    list_file,
    read_frame_counts,
    read_ground_truth,
    read_video_ids,
    required_list,
)
from distilplace.datasets.records import PlaceRecord, TrainingSet

WHITENING_FRAMES = 60
FRAME = re.compile(r"(\d{4,})\.jpg")
PUBLISHED = {"train": "1000 queries", "test": "206 queries, 6355 pairs, 1759 near-duplicates"}
PUBLISHED_UNLABELLED = 526_787
Relations = tuple[list[np.ndarray], list[np.ndarray]]


class FrameFolders:
    """Which videos have frames under ``root``, and how many: by the counts file, or by listing each folder."""

    def __init__(self, root: Path, counts: Path | None) -> None:
        self.root = root
        self._counts = read_frame_counts(counts) if counts is not None else None

    def counts(self, videos: Iterable[str]) -> dict[str, int]:
        """Video -> number of frames, for those of ``videos`` that have a folder and a frame; in their order."""
        with os.scandir(self.root) as entries:
            present = {entry.name for entry in entries}
        wanted = [video for video in dict.fromkeys(videos) if video in present]
        if self._counts is not None:
            found = {video: self._counts.get(video, 0) for video in wanted}
        else:
            bar = tqdm(wanted, desc="counting frames", leave=False, disable=None)
            found = {video: self._listed(video) for video in bar}
        return {video: count for video, count in found.items() if count > 0}

    def _listed(self, video: str) -> int:
        folder = self.root / video
        if not folder.is_dir():
            return 0
        names = map(FRAME.fullmatch, os.listdir(folder))
        numbers = sorted(int(name[1]) for name in names if name is not None)
        if numbers != list(range(len(numbers))):
            raise UserError(f"frames of {folder} are not numbered 0000.jpg, 0001.jpg, ...: extract them again")
        return len(numbers)

    def path(self, video: str, frame: int) -> Path:
        """Where a frame lies."""
        return self.root / video / f"{frame:04d}.jpg"


class SampledVideos(Mapping[str, Sequence[PlaceRecord]]):
    """Video -> the records of its sampled frames, made on demand: half a million videos have millions of frames."""

    def __init__(self, folders: FrameFolders, counts: Mapping[str, int], frames: int, stride: int) -> None:
        self._folders, self._counts = folders, counts
        self._frames, self._stride = frames, stride

    def __getitem__(self, video: str) -> Sequence[PlaceRecord]:
        chosen = range(0, min(self._counts[video], self._frames), self._stride)
        return [record("videos", self._folders.path(video, frame), f"{video}/{frame:04d}") for frame in chosen]

    def __contains__(self, video: object) -> bool:
        return video in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


class SVDData(ImageSet):
    """Videos under ``dataset_folder``: frames, lists, and ``num_frames``, the frame counts (without it, folders tell).

    ``svd_frames``: of each video this many frames at most are compared, from its start, every ``svd_stride``-th of
    them. ``svd_similarity``: how two videos' frames are compared, one of
    ``distilplace.datasets.benchmarks.VideoSimilarity``.
    """

    name = "svd"
    views = "svd"
    metric_positions = False

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        svd_frames: int = 60,
        svd_stride: int = 1,
        svd_similarity: VideoSimilarity = "fmx",
    ) -> None:
        super().__init__()
        for flag, value in (("--svd_frames", svd_frames), ("--svd_stride", svd_stride)):
            if value < 1:
                raise UserError(f"{flag} must be a number of frames from 1 on, not {value}")
        if svd_similarity not in get_args(VideoSimilarity):
            raise unknown_name("--svd_similarity", svd_similarity, get_args(VideoSimilarity))
        self._folder = existing_folder(dataset_folder, "--dataset_folder", "SVD folder")
        self._frame_root = existing_folder(self._folder / "frames", "--dataset_folder", "frame folder")
        self._sampling = (svd_frames, svd_stride)
        self._similarity: VideoSimilarity = svd_similarity

    def training_set(self) -> TrainingSet:
        """A place for every video of the training truth, its images being all frames: an epoch draws one of them.

        Positives are labelled near-duplicates; never negatives are those that share a query, too.
        """
        truth = self._truth("train")
        named = dict.fromkeys(video for query, row in truth.items() for video in (query, *row))
        folders = self._folders()
        counts = folders.counts(named)
        if not counts:
            raise UserError(f"{folders.root} has no frame of any of the {len(named)} training videos")
        self._absent("training videos", len(named) - len(counts), len(named))
        records = [
            PlaceRecord(f"training/{video}", "training", None, images, 0.0, 0.0)
            for video, images in (
                (video, tuple(folders.path(video, frame) for frame in range(count))) for video, count in counts.items()
            )
        ]
        return TrainingSet(records, *_relations(truth, list(counts)), layout="views")

    def whitening_records(self, records: Sequence[PlaceRecord], seed: int) -> list[PlaceRecord]:
        """Of every training video 60 random frames at most, each alone: what Whiten_MTD's svd_pca_learn.py takes."""
        found = []
        for video in records:
            order = generator(seed, "whitening frames", video.key).permutation(len(video.images))[:WHITENING_FRAMES]
            frames = [video.images[number] for number in sorted(order.tolist())]
            found += [replace(video, key=f"{video.key}/{path.stem}", images=(path,)) for path in frames]
        return found

    def evaluation_set(self) -> VideoSet:
        """The test queries with their labelled candidates and all unlabelled videos, as far as frames are there."""
        truth = self._truth("test")
        listed = read_video_ids(required_list(self._folder, "unlabeled-data-id"))
        labelled = {video for query, row in truth.items() for video in (query, *row)}
        unlabelled = [video for video in listed if video not in labelled]
        if len(unlabelled) < len(listed):
            self.note(f"{len(listed) - len(unlabelled)} unlabelled videos are labelled in the test truth: left out")
        self.note(f"{len(unlabelled)} unlabelled videos (published: {PUBLISHED_UNLABELLED})")
        folders = self._folders()
        counts = folders.counts([*truth, *(video for row in truth.values() for video in row), *unlabelled])
        if not any(query in counts for query in truth):
            raise UserError(f"{folders.root} has no frame of any of the {len(truth)} test queries")
        there = [video for video in unlabelled if video in counts]
        self._absent("unlabelled videos", len(unlabelled) - len(there), len(unlabelled))
        queries, labels = self._answerable(truth, counts)
        videos = SampledVideos(folders, counts, *self._sampling)
        return VideoSet(self.name, videos, queries, labels, there, self._similarity)

    def _answerable(self, truth: Truth, counts: Mapping[str, int]) -> tuple[list[str], list[Mapping[str, int]]]:
        """Queries with frames and their candidates with frames; a query whose near-duplicates lack them is dropped."""
        queries: list[str] = []
        labels: list[Mapping[str, int]] = []
        candidates = kept = cut = 0
        for query, row in truth.items():
            if query not in counts:
                continue
            there = {video: label for video, label in row.items() if video in counts}
            candidates, kept = candidates + len(row), kept + len(there)
            if any(row.values()) and not any(there.values()):
                cut += 1
                continue
            queries.append(query)
            labels.append(there)
        self._absent("queries", sum(query not in counts for query in truth), len(truth))
        self._absent("labelled candidates", candidates - kept, candidates)
        if cut:
            self.note(f"{cut} queries are left out: none of their near-duplicates has frames")
        return queries, labels

    def _truth(self, part: str) -> Truth:
        """``train_groundtruth`` or ``test_groundtruth``; notes its totals, and videos that the id lists lack."""
        path = required_list(self._folder, f"{part}_groundtruth")
        truth = read_ground_truth(path)
        labels = [label for row in truth.values() for label in row.values()]
        totals = f"{len(truth)} queries, {len(labels)} pairs, {sum(labels)} near-duplicates"
        self.note(f"{path.name}: {totals} (published: {PUBLISHED[part]})")
        candidates = {video for row in truth.values() for video in row}
        for name, used in (("query-id", set(truth)), ("labeled-data-id", candidates), ("all-video-id", candidates)):
            ids = list_file(self._folder, name)
            unknown = len(used.difference(read_video_ids(ids))) if ids is not None else 0
            if unknown:
                self.note(f"{path.name}: {unknown} of {len(used)} videos are not in {name}")
        return truth

    def _folders(self) -> FrameFolders:
        counts = count_file(self._folder)
        self.note(f"numbers of frames: {counts or f'files in {self._frame_root}'}")
        return FrameFolders(self._frame_root, counts)

    def _absent(self, what: str, missing: int, listed: int) -> None:
        if missing:
            self.note(f"{missing} of {listed} {what} have no frames in {self._frame_root}: left out")


def _relations(truth: Truth, videos: Sequence[str]) -> Relations:
    """Positives (labelled near-duplicates, either way) and non-negatives of ``videos``.

    Near-duplicates of one query may be so of each other, which nobody labelled: neither positive nor negative.
    """
    numbers = {video: number for number, video in enumerate(videos)}
    near: list[set[int]] = [set() for _ in videos]
    related: list[set[int]] = [{number} for number in range(len(videos))]
    for query, row in truth.items():
        duplicates = [numbers[video] for video, label in row.items() if label and video in numbers]
        asked = [numbers[query]] if query in numbers else []
        for one in asked:
            near[one].update(duplicates)
            for other in duplicates:
                near[other].add(one)
        for one in (*asked, *duplicates):
            related[one].update(asked, duplicates)
    return _sorted(near), _sorted(related)


def _sorted(rows: Sequence[set[int]]) -> list[np.ndarray]:
    return [np.array(sorted(row), dtype=np.int64) for row in rows]
