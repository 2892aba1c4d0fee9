"""Tested queries may have a size of their own, as in OpenIBL's Tokyo 24/7; a batch never mixes sizes."""

import pytest
import torch
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.datasets.io.images import parse_image_size
from distilplace.datasets.loading import evaluation_loader
from distilplace.datasets.readers.frames.image_folder import ImagesData
from distilplace.datasets.readers.landmarks.revisited import ROxford5kData
from distilplace.datasets.readers.vpr.pittsburgh import Pitts30kData
from distilplace.datasets.readers.vpr.tokyo import Tokyo247Data
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.building import build_test_data
from distilplace.engine.options import DataOptions
from tests.miniature_dbstruct import write_pittsburgh, write_tokyo247
from tests.miniature_images import numbered, write_images
from tests.miniature_landmarks import write_revisited


def test_queries_are_resized_apart_and_batches_are_cut_between_sizes(tmp_path):
    folder = write_tokyo247(tmp_path / "tokyo")
    options = DataOptions(
        dataset="tokyo247", dataset_folder=str(folder), image_size="48x64", query_image_size="short40"
    )
    data = build_test_data(options)
    test = data.evaluation_set()
    queries = {query.key for query in test.queries[1]}
    for index, query in enumerate(test.queries[1]):  # photographs differ in size
        Image.new("RGB", (60 + 10 * (index % 2), 50)).save(query.images[0], format="PNG")
    records = test.distinct_records()
    loader = evaluation_loader(data, records, wants={"images"}, quantize=None, batch_size=16, num_workers=0)
    seen: list[str] = []
    for batch in loader:
        seen += batch["keys"]
        for key, image in zip(batch["keys"], batch["images"], strict=True):
            shape = tuple(image.shape[1:])
            assert shape in ((40, 48), (40, 56)) if key in queries else shape == (48, 64)
    assert seen == [record.key for record in records]  # in order, none lost


def test_a_batch_of_mixed_sizes_is_each_image_for_itself(tmp_path):
    records = []
    for index, size in enumerate([(40, 32), (40, 32), (32, 40), (40, 32)]):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", size, (index * 40, 0, 0)).save(path)
        records.append(PlaceRecord(str(index), "r", None, (path,), 0.0, 0.0))
    data = ImagesData.__new__(ImagesData)

    def batches(batch_size: int, workers: int = 0, **given) -> list[dict]:
        return list(
            evaluation_loader(
                data, records, wants={"images"}, quantize=None, batch_size=batch_size, num_workers=workers, **given
            )
        )

    single = torch.cat([batch["images"].mean(dim=(2, 3)) for batch in batches(1)])
    for workers in (0, 2):
        mixed = batches(3, workers)
        assert [batch["keys"] for batch in mixed] == [["0", "1"], ["2"], ["3"]]
        torch.testing.assert_close(torch.cat([batch["images"].mean(dim=(2, 3)) for batch in mixed]), single)
    with pytest.raises(UserError, match="must have one size"):
        batches(4, one_size=True)


def test_every_set_that_takes_the_option_marks_its_queries_and_nothing_else(tmp_path):
    write_images(tmp_path / "images", numbered(range(4)), numbered(range(4)))
    write_revisited(tmp_path / "revisited")
    sets = [
        ImagesData(tmp_path / "images", frame_tolerance=0),
        Pitts30kData(write_pittsburgh(tmp_path / "pitts")),
        Tokyo247Data(write_tokyo247(tmp_path / "tokyo")),
        ROxford5kData(tmp_path / "revisited"),
        ROxford5kData(tmp_path / "revisited", query_crop=True),
    ]
    for data in sets:
        assert data.sized_queries
        test = data.evaluation_set()
        database = test.database if isinstance(test.database[0], PlaceRecord) else test.database[0]
        queries = test.queries if isinstance(test.queries[0], PlaceRecord) else test.queries[1]
        assert not any(record.as_query for record in database)
        assert all(record.as_query for record in queries)
        data.resize, data.query_resize = parse_image_size("20x30"), parse_image_size("short14")
        query = queries[0]
        assert min(data.image(query.images[0], query.crop, as_query=query.as_query).size) == 14
        assert data.image(database[0].images[0]).size == (30, 20)


def test_sets_whose_queries_are_retrieved_too_refuse_it(oxford_written):
    options = DataOptions(
        dataset="oxford",
        dataset_folder=str(oxford_written.dataset_folder),
        image_path=str(oxford_written.image_path),
        query_image_size="short64",
    )
    with pytest.raises(UserError, match="--query_image_size: in data set oxford"):
        build_test_data(options)
