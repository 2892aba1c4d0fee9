"""A record's box is cut out before the image is resized."""

import numpy as np
import pytest

from distilplace.common.errors import UserError
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.loading import PlaceItems
from distilplace.datasets.readers.landmarks.revisited import ROxford5kData
from tests.miniature_landmarks import write_revisited


def test_queries_are_cut_to_their_boxes(tmp_path):
    write_revisited(tmp_path)
    data = ROxford5kData(tmp_path, query_crop=True)
    (query, *_) = data.evaluation_set().queries
    assert query.crop == (4, 3.5, 40, 30.25)
    whole, cut = data.image(query.images[0]), data.image(query.images[0], query.crop)
    assert cut.size == (36, 28)  # whole pixels, outwards
    assert np.array_equal(np.asarray(cut), np.asarray(whole)[3:31, 4:40])
    data.resize = ImageSize(14, 18)
    assert data.image(query.images[0], query.crop).size == (18, 14)
    items = PlaceItems(data, [query], wants={"images"}, quantize=None, augment=False, seed=0)
    assert items[0]["images"].shape == (3, 14, 18)
    with pytest.raises(UserError, match="outside"):
        data.image(query.images[0], (500.0, 2.0, 600.0, 9.0))
