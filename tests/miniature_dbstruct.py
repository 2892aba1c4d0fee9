"""Writes Pittsburgh, Tokyo 24/7 and Tokyo Time Machine in miniature: dbStruct files, ``@``-names, pictures of places.

Equal arguments write equal bytes. A picture shows a stretch of its panorama (blocks of colour), so that views of one
place resemble each other and nothing else.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (32, 24)
"""Width and height of every picture, pixels; blocks are 4 x 4."""

PITTSBURGH = {"train": (584100.0, 4476700.0), "val": (584900.0, 4476700.0), "test": (584825.96, 4476945.61)}
"""Easting and northing of the first panorama of each split, metres (zone 17T)."""
PANORAMAS = [(0.0, 0.0), (12.0, 3.0), (40.0, 0.0)]
QUERY_PANORAMAS = [(4.0, 3.0), (26.0, -16.0)]
"""Offsets from there: the first query panorama is 5 m from a database one, the second more than 20 m from all."""

TOKYO = (381418.23, 3946450.43)
TOKYO_STEP = 15.0
QUERY_PANORAMA, DECOY_PANORAMA = 10, 2
"""The place that is photographed, and the one whose 12 views all look like the photograph taken at night."""

TIMES = [200910, 201204, 201307]


def write_struct(
    path: Path,
    database: Sequence[str],
    queries: Sequence[str],
    utm_database: np.ndarray,
    utm_queries: np.ndarray,
    *,
    which_set: str = "test",
    positive: float = 25.0,
    nontrivial_squared: float = 100.0,
    times: tuple[np.ndarray, np.ndarray] | None = None,
    order: str = "netvlad",
    cells: str = "column",
) -> Path:
    """A dbStruct file; ``utm_*`` [n, rows] are stored as rows x n.

    ``order``: the producer whose field order is followed ("netvlad", "seqnet"); ``cells``: "column" or "row" (shape of
    the name cells), "nested" (each name wrapped once more), or "chars" (a padded character matrix).
    """
    fields: dict[str, object] = {
        "whichSet": which_set,
        "dbImageFns": _cells(database, cells),
        "utmDb": np.asarray(utm_database).T,
        "dbTimeStamp": None if times is None else np.asarray(times[0])[None],
        "qImageFns": _cells(queries, cells),
        "utmQ": np.asarray(utm_queries).T,
        "qTimeStamp": None if times is None else np.asarray(times[1])[None],
        "numImages": float(len(database)),
        "numQueries": float(len(queries)),
        "posDistThr": positive,
        "posDistSqThr": positive**2,
        "nonTrivPosDistSqThr": nontrivial_squared,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if order == "seqnet":
        late = ("nonTrivPosDistSqThr", "utmDb", "utmQ")
        fields = {name: fields[name] for name in fields if name not in late} | {
            "dataset": "miniature",
            **{name: fields[name] for name in late},
            "gpsDb": np.zeros((2, len(database))),
        }
    return save_struct(path, fields)


def save_struct(path: Path, fields: dict[str, object]) -> Path:
    """``fields`` as the struct dbStruct of a MATLAB v5 file, whose header does not say when it was written."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"dbStruct": fields})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"MATLAB 5.0 MAT-file, miniature".ljust(116) + buffer.getvalue()[116:])
    return path


def _cells(names: Sequence[str], shape: str) -> np.ndarray:
    if shape == "chars":
        return np.array(names)
    cells = np.empty((len(names), 1), dtype=object)
    for index, name in enumerate(names):
        cells[index, 0] = name
        if shape == "nested":
            cells[index, 0] = np.empty((1, 1), dtype=object)
            cells[index, 0][0, 0] = name
    return cells.T if shape == "row" else cells


def view(seed: Sequence[int], yaw: int, noise: float = 0.0, light: float = 1.0, salt: int = 0) -> np.ndarray:
    """Uint8 [6, 8, 3]: the view at ``yaw`` (steps of 30 degrees) of the panorama that ``seed`` draws."""
    panorama = np.random.default_rng([11, *seed]).uniform(40, 215, (6, 48, 3))
    part = np.roll(panorama, -4 * yaw, axis=1)[:, :8]
    shift = np.random.default_rng([12, *seed, yaw, salt]).normal(0, noise, part.shape) if noise else 0.0
    return np.clip(light * part + shift, 0, 255).astype(np.uint8)


def save_view(path: Path, blocks: np.ndarray, size: tuple[int, int] = SIZE) -> None:
    """The blocks as a picture, by the suffix of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
    picture.save(path, **({"compress_level": 1} if path.suffix == ".png" else {"quality": 95, "subsampling": 0}))


def at_name(
    east: float, north: float, pano_id: str = "", tile: str = "", zone: str = "17@T", suffix: str = "jpg"
) -> str:
    """A name of the @-convention: fifteen '@', position with two decimals, latitude and longitude left empty."""
    return f"@{east:010.2f}@{north:010.2f}@{zone}@@@{pano_id}@{tile}@@@@@@@.{suffix}"


def write_pittsburgh(
    folder: Path,
    flavour: str = "pytorch",
    *,
    size: str = "30k",
    splits: Sequence[str] = ("train", "val", "test"),
    seed: int = 0,
    views: int = 24,
) -> Path:
    """Per split 3 database and 2 query panoramas of 24 ``views``.

    ``flavour``: "matlab" (struct files in datasets/), "pytorch" (the same), "openibl" (in raw/) or "at" (no struct).
    """
    roots = {
        "matlab": ("Pittsburgh/images", "Pittsburgh/queries", "."),
        "pytorch": (".", "queries_real", "datasets"),
        "openibl": ("raw/Pittsburgh/images", "raw/Pittsburgh/queries", "raw"),
    }
    for number, split in enumerate(splits):
        origin = np.array(PITTSBURGH[split])
        sides = []
        for side, offsets in enumerate((PANORAMAS, QUERY_PANORAMAS)):
            names, places = [], []
            for index, offset in enumerate(offsets):
                pano = 829 + 100 * number + 1000 * index + 17 * side
                place = origin + offset
                shown = index if side == 0 else (0, 2)[index]  # a query shows the panorama nearest to it
                for tile in range(views):
                    blocks = view([seed, number, shown], tile % 12, noise=3 + 12 * side, salt=24 * side + tile)
                    name = f"{pano // 1000:03d}/{pano:06d}_pitch{1 + tile // 12}_yaw{1 + tile % 12}.jpg"
                    if flavour == "at":
                        root = folder / "images" / split / ("database", "queries")[side]
                        save_view(root / at_name(*place, f"{pano:06d}", str(tile)), blocks)
                    else:
                        save_view(folder / roots[flavour][side] / name, blocks)
                    names.append(name)
                    places.append(place)
            sides.append((names, np.array(places)))
        if flavour != "at":
            (database, utm_database), (queries, utm_queries) = sides
            path = folder / roots[flavour][2] / f"pitts{size}_{split}.mat"
            write_struct(path, database, queries, utm_database, utm_queries, which_set=split)
    return folder


def write_tokyo247(folder: Path, flavour: str = "mat", *, panoramas: int = 20, seed: int = 0) -> Path:
    """``panoramas`` of 12 views, and three photographs of one place: by day, at sunset, at night.

    The first twelve answers to the night photograph are the views of one wrong panorama; the right one comes next.
    ``flavour``: "mat" (names end in .jpg, files in .png, photographs in 247query_subset_v2) or "at".
    """
    places = np.array(TOKYO) + TOKYO_STEP * np.column_stack([np.arange(panoramas), np.zeros(panoramas)])
    lights = [(1.0, 12.0), (0.8, 12.0), (0.35, 12.0)]
    photographs = [view([seed, QUERY_PANORAMA], 4, noise, light, salt=9) for light, noise in lights]
    names, at_root = [], folder / "images" / "test"
    for index, (east, north) in enumerate(places.tolist()):
        pano_id = f"PanoramaOfTokyo{index:07d}"
        for yaw in range(12):
            blocks = view([seed, index], yaw, noise=3.0)
            if index == DECOY_PANORAMA:
                blocks = np.clip(photographs[2].astype(int) + yaw % 3, 0, 255).astype(np.uint8)
            name = f"{3814 + index // 10:05d}/{east:.2f}_{north:.2f}/{pano_id}_012_{30 * yaw}"
            names.append(f"{name}.jpg")
            if flavour == "at":
                save_view(at_root / "database" / at_name(east, north, pano_id, str(yaw), "54@S", "png"), blocks)
            else:
                save_view(folder / f"{name}.png", blocks)
    place = places[QUERY_PANORAMA] + (3.0, 4.0)
    for number, blocks, size in zip((10, 11, 12), photographs, ((40, 32), (32, 40), SIZE), strict=True):
        if flavour == "at":
            save_view(at_root / "queries" / at_name(*place, f"{number:05d}", zone="54@S"), blocks, size)
        else:
            save_view(folder / "247query_subset_v2" / f"{number:05d}.jpg", blocks, size)
            (folder / "247query_subset_v2" / f"{number:05d}.csv").write_text(f"{number:05d}.jpg,35.66,139.70,\n")
    if flavour != "at":
        queries = [f"{number:05d}.jpg" for number in (10, 11, 12)]
        write_struct(folder / "tokyo247.mat", names, queries, np.repeat(places, 12, axis=0), np.array([place] * 3))
    return folder


def write_tokyotm(folder: Path, *, splits: Sequence[str] = ("train", "val"), places: int = 5, seed: int = 0) -> Path:
    """Places 6 m apart, each seen at three times, 4 views each; every place's views of one time are queries as well.

    The panoramas of one place at different times lie 0.4 m apart. The last place is 100 m from all others.
    """
    for number, split in enumerate(splits):
        names, utm, times, asking = [], [], [], []
        for place in range(places):
            east = TOKYO[0] + 1000.0 * number + 6.0 * place + 100.0 * (place == places - 1)
            for when, time in enumerate(TIMES):
                for yaw in range(4):
                    name = f"{3814 + number:05d}/{east:.2f}_{TOKYO[1]:.2f}/{time}/{yaw:02d}.jpg"
                    blocks = view([seed, number, place], yaw, noise=10.0, salt=when)
                    save_view(folder / "tokyoTM" / "images" / name, blocks)
                    if when == place % len(TIMES):
                        asking.append(len(names))
                    names.append(name)
                    utm.append((east, TOKYO[1] + 0.4 * when))
                    times.append(float(time))
        positions, stamps = np.array(utm), np.array(times)
        write_struct(
            folder / f"tokyoTM_{split}.mat",
            names,
            [names[index] for index in asking],
            positions,
            positions[asking],
            which_set=split,
            times=(stamps, stamps[asking]),
        )
    return folder
