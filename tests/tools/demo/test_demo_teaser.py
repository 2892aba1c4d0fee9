"""The README's picture: drawn from a cloud and an image, small enough for a repository."""

import numpy as np
from PIL import Image

from distilplace.tools.demo.teaser import draw, main
from tests.miniature import write_oxford


def test_the_picture_is_small_and_shows_cloud_and_image(tmp_path):
    cloud = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    draw(cloud, Image.new("RGB", (160, 120), (200, 30, 30)), tmp_path / "teaser.png")
    with Image.open(tmp_path / "teaser.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert pixels.shape == (300, 960, 3)
    red = (abs(pixels - (200, 30, 30)).max(axis=2) < 12).any(axis=0).nonzero()[0]
    assert red.min() < 480 < red.max()  # both with the teacher and with the student
    assert len(np.unique(pixels[60:240, 20:220].reshape(-1, 3), axis=0)) > 20
    assert (tmp_path / "teaser.png").stat().st_size < 300_000


def test_a_frame_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    from distilplace.datasets.readers.oxford.data import OxfordData
    from distilplace.tools.demo import teaser

    data, images = write_oxford(tmp_path / "world", runs=3, submaps=12, image_size=(80, 60))
    monkeypatch.setattr(teaser, "DemoData", lambda folder: OxfordData(data, images))
    assert main(["--frame", "9999", "--output", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.startswith("error: --frame 9999: the world has training frames 0 to ")
    assert main(["--frame", "0", "--output", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").is_file()
