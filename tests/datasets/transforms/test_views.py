"""Views: what is subtracted, cropped and drawn, recomputed pixel by pixel; what does not fit is said in one line."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilplace.common.errors import UserError
from distilplace.common.randomness import forked_random_state
from distilplace.datasets.io.images import evaluation_transform, parse_image_size, training_transform
from distilplace.datasets.transforms import views
from distilplace.datasets.transforms.views import VIEWS, make_view


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mean_image(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 255, (height, width, 3)).astype(np.float32)


def pixel_less_mean(image: Image.Image, mean: np.ndarray, x: int, y: int) -> list[float]:
    return [np.float32(value) - mean[y, x, channel] for channel, value in enumerate(image.getpixel((x, y)))]


def drawn(view, image: Image.Image, *seed: int) -> torch.Tensor:
    with forked_random_state(*seed):
        return view(image)


@settings(deadline=None, max_examples=20)
@given(width=st.integers(5, 12), height=st.integers(5, 12), side=st.integers(1, 5), dtype=st.sampled_from(["f4", "f8"]))
def test_posenet_evaluation_is_the_middle_less_its_mean(width, height, side, dtype):
    image, mean = picture(width, height), mean_image(width, height)
    result = make_view("posenet", augment=False, crop_size=side, mean_image=mean.astype(dtype))(image)
    assert result.shape == (3, side, side)
    assert result.dtype == torch.float32
    left, top = round((width - side) / 2), round((height - side) / 2)
    for row in range(side):
        for column in range(side):
            expected = pixel_less_mean(image, mean, left + column, top + row)
            assert result[:, row, column].tolist() == expected


def test_posenet_crops_224_of_sckds_frames():
    image, mean = picture(455, 256), mean_image(455, 256)
    result = make_view("posenet", augment=False, mean_image=mean)(image)
    assert result.shape == (3, 224, 224)
    assert result[:, 0, 0].tolist() == pixel_less_mean(image, mean, 116, 16)
    assert result.min() < -100  # neither divided by 255 nor by a deviation


def test_posenet_training_crops_reach_every_corner_and_nothing_else():
    image, mean = picture(6, 5), mean_image(6, 5)
    view = make_view("posenet", augment=True, crop_size=4, mean_image=mean)
    possible = {
        (x, y): torch.tensor(
            [[pixel_less_mean(image, mean, x + i, y + j) for i in range(4)] for j in range(4)]
        ).permute(2, 0, 1)
        for x in range(3)
        for y in range(2)
    }
    found = set()
    for seed in range(60):
        result = drawn(view, image, seed)
        found.update(corner for corner, crop in possible.items() if torch.equal(crop, result))
        assert any(torch.equal(crop, result) for crop in possible.values())
    assert found == set(possible)


def test_posenet_images_of_the_crops_own_size_are_taken_whole():
    image, mean = picture(7, 7), mean_image(7, 7)
    views = [make_view("posenet", augment=augment, crop_size=7, mean_image=mean)(image) for augment in (True, False)]
    assert torch.equal(views[0], views[1])
    assert views[0].shape == (3, 7, 7)


@pytest.mark.parametrize(
    ("size", "mean_size", "crop", "message"),
    [
        ((341, 256), (455, 256), 224, "341x256 .* mean image of 455x256: set --image_size 256x455"),
        ((30, 20), (30, 20), 21, "30x20 pixels are smaller than the crop of 21x21.*--image_size"),
    ],
)
def test_posenet_images_that_do_not_fit(size, mean_size, crop, message):
    for augment in (True, False):
        with pytest.raises(UserError, match=message) as caught:
            make_view("posenet", augment=augment, crop_size=crop, mean_image=mean_image(*mean_size))(picture(*size))
        assert "\n" not in str(caught.value)


def test_posenet_without_a_mean_image_and_unknown_views_are_refused():
    with pytest.raises(UserError, match="mean image"):
        make_view("posenet", augment=False)
    with pytest.raises(UserError, match=re.escape("landmarks")):
        make_view("landmark", augment=False)


def test_place_views_are_the_transforms_of_places():
    image = picture(20, 10)
    assert torch.equal(make_view("place", augment=False)(image), evaluation_transform()(image))
    expected = drawn(training_transform(0.3, 0.2, 0.7), image, 4)
    assert torch.equal(drawn(make_view("place", augment=True, rates=(0.3, 0.2, 0.7)), image, 4), expected)


def test_landmark_crops_are_parts_of_the_image_flipped_half_the_time():
    """Red grows to the right, green downwards: the order of columns tells flips, the spans the share cut out."""
    ramp = np.full((90, 90, 3), 80, dtype=np.uint8)
    ramp[..., 0] += np.arange(90, dtype=np.uint8)[None]
    ramp[..., 1] += np.arange(90, dtype=np.uint8)[:, None]
    view = make_view("landmarks", augment=True, crop_size=16, normalisation="raw")
    flips, shares = 0, []
    for seed in range(120):
        result = drawn(view, Image.fromarray(ramp), seed) * 255
        assert result.shape == (3, 16, 16)
        red, green = result[0].mean(0), result[1].mean(1)
        assert green[-1] > green[0]  # never upside down
        flips += bool(red[0] > red[-1])
        shares.append(float(abs(red[-1] - red[0]) * (green[-1] - green[0]) / 90**2 * (16 / 15) ** 2))
    assert 35 < flips < 85
    assert 0.33 < min(shares) < 0.55
    assert 0.85 < max(shares) <= 1.05


def test_landmarks_are_evaluated_whole_and_crops_default_to_512():
    image = picture(41, 30)
    assert torch.equal(make_view("landmarks", augment=False, crop_size=8)(image), evaluation_transform()(image))
    assert drawn(make_view("landmarks", augment=True), image, 1).shape == (3, 512, 512)
    assert drawn(make_view("svd", augment=True), image, 1).shape == (3, 224, 224)


def test_training_pixels_are_normalised():
    image = Image.new("RGB", (20, 20), (255, 0, 104))
    expected = evaluation_transform()(image)[:, :1, :1].expand(3, 9, 9)
    assert torch.allclose(drawn(make_view("landmarks", augment=True, crop_size=9), image, 1), expected, atol=1e-6)


def test_videos_are_evaluated_in_the_middle_of_the_shorter_sides_256():
    image = picture(320, 280)
    for normalisation in ("imagenet", "raw"):
        result = make_view("svd", augment=False, normalisation=normalisation)(image)
        small = image.resize((int(256 * 320 / 280), 256), Image.Resampling.BILINEAR)  # 292 x 256
        middle = small.crop((34, 16, 258, 240))
        expected = evaluation_transform(normalisation)(middle)
        assert torch.allclose(result, expected, atol=1e-6)
    assert (result.min() >= 0) & (result.max() <= 1)
    assert make_view("svd", augment=False, crop_size=112)(picture(40, 60)).shape == (3, 112, 112)


def test_the_first_view_of_a_frame_is_always_blurred_the_second_seldom_but_solarised():
    """On a chessboard: blur takes the contrast between neighbours away, solarising turns white black."""
    board = np.indices((32, 32)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    white = Image.new("RGB", (32, 32), (250, 250, 250))
    contrast: dict[int, list[float]] = {0: [], 1: []}
    dark = {0: 0, 1: 0}
    for view in (0, 1):
        transform = make_view("svd", augment=True, crop_size=32, normalisation="raw", view=view)
        for seed in range(100):
            result = drawn(transform, image, seed)
            contrast[view].append(float((result[:, :, 1:] - result[:, :, :-1]).abs().mean()))
            dark[view] += bool(drawn(transform, white, seed).mean() < 0.3)
    assert np.mean(contrast[0]) < 0.6 * np.mean(contrast[1])
    assert dark[0] == 0
    assert 8 <= dark[1] <= 35


def test_frames_lose_their_colour_or_change_it_as_often_as_stated():
    image = Image.new("RGB", (16, 16), (200, 90, 40))
    transform = make_view("svd", augment=True, crop_size=8, normalisation="raw")
    results = [drawn(transform, image, seed)[:, 4, 4] * 255 for seed in range(200)]
    grey = sum(bool(r.max() - r.min() < 1.5) for r in results)
    unchanged = sum(bool((r - torch.tensor([200.0, 90, 40])).abs().max() < 1.5) for r in results)
    assert 20 <= grey <= 62  # a fifth
    assert 16 <= unchanged <= 52  # a fifth without jitter, of which a fifth is grey


@pytest.mark.parametrize("kind", VIEWS)
def test_draws_repeat_for_a_seed_differ_between_seeds_and_leave_the_state_alone(kind):
    image, settings_ = picture(40, 30), {"crop_size": 16, "mean_image": mean_image(40, 30)}
    view = make_view(kind, augment=True, **settings_)
    before = torch.random.get_rng_state()
    first, again, other = (drawn(view, image, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    still = make_view(kind, augment=False, **settings_)
    assert torch.equal(drawn(still, image, 1), drawn(still, image, 2))


def test_an_image_has_two_training_views_and_one_for_whitening():
    with pytest.raises(ValueError, match="views 0, 1 and 2"):
        make_view("svd", augment=True, view=3)


def test_images_that_a_whitening_is_fitted_on_are_blurred_by_half_and_solarised_as_the_second_view(monkeypatch):
    """Whiten_MTD's svd_pca_learn.py has a recipe of its own, neither of the two views'."""
    from torchvision.transforms import v2

    found = {}
    monkeypatch.setattr(v2, "RandomApply", lambda parts, p: found.setdefault("blur" if p != 0.8 else "jitter", p))
    monkeypatch.setattr(v2, "RandomSolarize", lambda threshold, p: found.setdefault("solarise", p))
    monkeypatch.setattr(v2, "Compose", lambda parts: parts)
    views.video_view.__wrapped__(True, 32, "imagenet", views.WHITENING_VIEW["svd"])
    assert found == {"jitter": 0.8, "blur": 0.5, "solarise": 0.2}


@settings(deadline=None, max_examples=25)
@given(width=st.integers(1, 90), height=st.integers(1, 90), most=st.integers(1, 80))
def test_sizes_at_most_are_pillows_thumbnails(width, height, most):
    image = picture(width, height)
    kept = image.copy()
    expected = image.copy()
    expected.thumbnail((most, most))
    result = parse_image_size(f"max{most}").apply(image)
    assert result.size == expected.size
    assert result.tobytes() == expected.tobytes()
    assert max(result.size) <= max(most, 1)
    assert image.tobytes() == kept.tobytes()  # the caller's image is left as it was
    if max(width, height) <= most:
        assert result is image


def test_sizes_at_most_keep_the_aspect():
    assert parse_image_size("max20").apply(picture(80, 40)).size == (20, 10)
    assert parse_image_size("max20").apply(picture(10, 40)).size == (5, 20)
    assert parse_image_size("max99").apply(picture(80, 40)).size == (80, 40)
    with pytest.raises(ValueError, match="max1024"):
        parse_image_size("max20x30")
