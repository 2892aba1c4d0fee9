"""A small town for tests of reports: places on a line, seen in several runs, as one-coloured pictures."""

from html.parser import HTMLParser

import numpy as np
from PIL import Image

from distilplace.datasets.records import EvaluationSet, PlaceRecord
from distilplace.evaluation.retrieval.runs import evaluate_runs

RUNS = ["<b>sunny</b> & $mild$", "snow", "night"]


def colour_of(path):
    return tuple(int(path.stem[i : i + 2], 16) for i in (0, 2, 4))


def place(folder, run, side, index, images=True):
    picture = folder / f"{(index * 12) % 256:02x}{(run * 90) % 256:02x}{'d0' if side == 'd' else '30'}.png"
    if images and not picture.exists():
        Image.new("RGB", (64, 40), colour_of(picture)).save(picture)
    key = f"{RUNS[run]}/{side}{index}"
    cloud = folder / "no_such_cloud.bin"  # never opened
    return PlaceRecord(key, RUNS[run], cloud, (picture,) if images else (), 10.0 * index, 3.0 * run)


def world(folder, runs=3, size=12, images=True, single=False):
    """Places every 10 m along ``runs`` runs; within 12 m is true. ``single``: run 0 only answers, run 1 only asks."""
    database = [[place(folder, r, "d", i, images) for i in range(size)] for r in range(runs)]
    queries = [[place(folder, r, "q", i, images) for i in range(size)] for r in range(runs)]
    if single:
        database[1], queries[0] = [], []
    sets = []
    for n, asking in enumerate(queries):
        sets.append({})
        for index, asked in enumerate(asking):
            near = {
                m: [j for j, there in enumerate(database[m]) if abs(there.northing - asked.northing) <= 12]
                for m in range(runs)
                if m != n and (m, n) != (2, 1)
            }
            sets[n][index] = {"query": asked.key, "northing": asked.northing, "easting": asked.easting, **near}
    return EvaluationSet("<i>town</i>", RUNS[:runs], database, queries, sets, 12.0)


def result_of(evaluation_set, noise, seed=0):
    random = np.random.default_rng(seed)

    def embed(records):
        angles = np.array([record.northing / 40 for record in records]) + noise * random.standard_normal(len(records))
        return np.column_stack([np.cos(angles), np.sin(angles)])

    database = [embed(run) for run in evaluation_set.database]
    queries = [embed(run) for run in evaluation_set.queries]
    return evaluate_runs(database, queries, evaluation_set.query_sets, runs=evaluation_set.runs)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.words = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data
        self.words += data.split()
