"""Embeddings seen from above: their first two principal components, coloured by place and by run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.randomness import generator
from distilplace.datasets.records import EvaluationSet, distinct, positions
from distilplace.evaluation.report import figures
from distilplace.evaluation.report.parts import Pictures, Section, Tile
from distilplace.evaluation.report.sections.places import Places
from distilplace.evaluation.retrieval.ranking import unit_rows
from distilplace.evaluation.retrieval.results import RetrievalResult

POINTS = 600
"""Frames shown at most, so that the section takes below a second an entry."""
FEW = 3
"""Frames below which a plane says nothing."""


def projections(material: Places) -> Section | None:
    """Two plots an entry, of the same frames for every entry; None for fewer than three frames."""
    benchmark = material.benchmark
    owners = np.array([run for run, records in enumerate(_frames(benchmark)) for _ in records], dtype=np.int64)
    shown = np.sort(generator(material.seed, "projection").permutation(len(owners))[:POINTS])
    if len(shown) < FEW:
        return None
    where = positions([record for records in _frames(benchmark) for record in records])[shown]
    reference = max(range(len(benchmark.database)), key=lambda run: len(benchmark.database[run]))
    along = route_coordinate(positions(benchmark.database[reference]), where)
    tiles = []
    for entry in material.entries:
        plane, variance = principal_plane(_embeddings(entry.result, benchmark)[shown])
        link = material.images.add(draw_projection(plane, along, owners[shown], benchmark), "png")
        tiles.append(Tile(link, f"{entry.name}, {variance:.0%} of the variance"))
    text = (
        f"First two principal components of the embeddings of {len(shown)} frames (PCA). Above: colour is the place "
        f"along {benchmark.runs[reference]}; a model that recognises places keeps the colours in order. Below: colour "
        "is the run; a model that ignores season and light mixes them."
    )
    return Section("Projection of the embeddings", [text, Pictures(tiles, "columns")])


def _frames(test: EvaluationSet) -> list[list[Any]]:
    """The distinct records of every run, those of its database first."""
    return [distinct([*database, *queries]) for database, queries in zip(test.database, test.queries, strict=True)]


def _embeddings(result: RetrievalResult, test: EvaluationSet) -> NDArray[np.floating]:
    """The embeddings of :func:`_frames`, one run after the other, at unit length where cosines are compared."""
    rows = []
    for run, records in enumerate(_frames(test)):
        table = {}
        for side, matrix in (
            (test.queries[run], result.space.queries[run]),
            (test.database[run], result.space.database[run]),
        ):
            table.update({record.key: row for record, row in zip(side, matrix, strict=True)})
        rows += [table[record.key] for record in records]
    found = np.stack(rows)
    return unit_rows(found.astype(np.float64)) if result.metric == "cosine" else found


def principal_plane(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """Embeddings ``[n, D]`` in the plane of largest variance, ``[n, 2]``, and its share of the whole (0 to 1)."""
    from sklearn.decomposition import PCA

    count = min(2, *embeddings.shape)
    with np.errstate(invalid="ignore"):  # embeddings that are all the same have no variance to share
        pca = PCA(count, svd_solver="randomized", random_state=0).fit(embeddings.astype(np.float64))
    plane = np.zeros((len(embeddings), 2))
    plane[:, :count] = pca.transform(embeddings.astype(np.float64))
    return plane, float(np.nan_to_num(pca.explained_variance_ratio_.sum()))


def route_coordinate(route: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per point ``[n, 2]``, how far along a ``route`` ``[m, 2]``, driven in this order, its nearest frame lies."""
    from scipy.spatial import cKDTree

    driven = np.append(0.0, np.cumsum(np.hypot(*np.diff(route, axis=0).T)))
    _, nearest = cKDTree(route).query(points)
    return driven[nearest]


def draw_projection(
    plane: NDArray[np.float64], along: NDArray[np.float64], owners: NDArray[np.int64], test: EvaluationSet
) -> bytes:
    """Points ``[n, 2]``: coloured by place (``along`` [n]) above, by run (``owners`` [n]) below."""
    from matplotlib.ticker import NullLocator

    figure, panels = figures.panels(2, figures.COLUMN, 5.9, grid=None, stacked=True)
    size = 14 if len(plane) <= 300 else 8
    points = panels[0].scatter(plane[:, 0], plane[:, 1], c=along, cmap="viridis", s=size, linewidths=0)
    bar = figure.colorbar(points, ax=panels[0], fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("metres along the run" if test.unit == "m" else test.unit, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    runs = np.unique(owners)
    for run in runs:
        mine = plane[owners == run]
        colour = figures.colour_of(int(run)) if len(runs) <= len(figures.PALETTE) else _shade(run / max(runs.max(), 1))
        name = figures.literal(figures.short_name(test.runs[run], 19))
        panels[1].scatter(mine[:, 0], mine[:, 1], color=colour, s=size, linewidths=0, alpha=0.8, label=name)
    if len(runs) <= len(figures.PALETTE):
        figure.legend(
            loc="outside lower center", ncols=2, frameon=False, fontsize=8, handletextpad=0.1, markerscale=1.5
        )
    for axes in panels:
        axes.xaxis.set_major_locator(NullLocator())
        axes.yaxis.set_major_locator(NullLocator())
        axes.set(xlabel="component 1", ylabel="component 2")
    return figures.png(figure)


def _shade(share: float) -> Any:
    """A colour of viridis: more runs than there are distinct colours, the later the lighter."""
    from matplotlib import colormaps

    return colormaps["viridis"](share)
