"""The start of a NetVLAD head: sampled descriptors, cluster centres and the sharpness of assignment, by loops."""

import copy
import math

import pytest
import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.models import create_model
from distilplace.models.image.clustering import assignment_scale, initialise_netvlad, sample_descriptors
from distilplace.models.image.pooling import NetVLAD


def unit(vector):
    length = math.sqrt(sum(float(v) ** 2 for v in vector))
    return [float(v) / length for v in vector]


def clusterable(count=60, channels=6, clusters=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, channels, generator=draw)
    points = centres.repeat(count // clusters, 1) + 0.1 * torch.randn(count, channels, generator=draw)
    return nn.functional.normalize(points, dim=1)


def test_the_start_of_the_clusters_by_loops():
    from sklearn.cluster import KMeans

    descriptors = clusterable()
    head = NetVLAD(6, clusters=4)
    alpha = initialise_netvlad(head, descriptors)
    fit = KMeans(4, n_init=1, max_iter=100, random_state=43).fit(descriptors.numpy())
    torch.testing.assert_close(head.centroids.detach(), torch.from_numpy(fit.cluster_centers_))
    members = [[x for x, label in zip(descriptors, fit.labels_, strict=True) if label == k] for k in range(4)]
    for k in range(4):
        torch.testing.assert_close(head.centroids[k].detach(), torch.stack(members[k]).mean(dim=0))
    directions = [unit(centre) for centre in head.centroids.tolist()]
    gaps = []
    for x in descriptors:
        cosines = sorted((sum(a * float(b) for a, b in zip(d, x, strict=True)) for d in directions), reverse=True)
        gaps.append(cosines[0] - cosines[1])
    assert alpha == pytest.approx(-math.log(0.01) / (sum(gaps) / len(gaps)), rel=1e-5)
    expected = alpha * torch.tensor(directions)
    torch.testing.assert_close(head.conv.weight[:, :, 0, 0].detach(), expected, rtol=1e-5, atol=1e-5)


def test_a_descriptor_of_mean_gap_is_assigned_a_hundred_to_one():
    torch.manual_seed(0)
    centres = 0.7 * torch.linalg.qr(torch.randn(5, 5)).Q  # at right angles: every gap is 1
    descriptors = nn.functional.normalize(centres, dim=1).repeat(3, 1)
    assert assignment_scale(descriptors, centres) == pytest.approx(math.log(100), rel=1e-5)
    head = NetVLAD(5, clusters=5)
    initialise_netvlad(head, descriptors)
    _, assignment = head.assign(descriptors[:5, :, None, None])
    shares = assignment[:, :, 0, 0].detach().sort(dim=1, descending=True).values
    torch.testing.assert_close(shares[:, 0] / shares[:, 1], torch.full((5,), 100.0), rtol=1e-3, atol=0)


def test_a_network_starts_from_its_own_maps():
    torch.manual_seed(0)
    network = create_model("mobilenetv3_smallnetvlad", clusters=4).eval()
    batches = [torch.randn(2, 3, 96, 96) for _ in range(3)]
    with torch.no_grad():
        maps = [network({"images": batch}, feature_maps=("map",))["maps.map"] for batch in batches]
    descriptors = sample_descriptors(maps, images=5, locations=4)
    assert descriptors.shape == (20, 512)
    assert network.initialise_clusters(descriptors) > 0
    assert not network.net_vlad.centroids.norm(dim=1).isclose(torch.ones(4)).any()  # means of unit vectors, kept raw
    weight = network.net_vlad.conv.weight[:, :, 0, 0]
    cosines = nn.functional.cosine_similarity(weight, network.net_vlad.centroids)
    torch.testing.assert_close(cosines, torch.ones(4))
    assert network.net_vlad.centroids.requires_grad


def test_locations_are_drawn_from_each_image():
    maps = torch.arange(4 * 3 * 4 * 5, dtype=torch.float32).reshape(4, 3, 4, 5) + 1
    state = torch.get_rng_state()
    found = sample_descriptors([maps], images=3, locations=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == (21, 3)
    for image in range(3):
        places = [unit(maps[image, :, i, j]) for i in range(4) for j in range(5)]
        rows = found[7 * image : 7 * image + 7].tolist()
        nearest = [min(range(20), key=lambda p, row=row: math.dist(row, places[p])) for row in rows]
        assert len(set(nearest)) == 7
        assert all(math.dist(row, places[p]) < 1e-5 for row, p in zip(rows, nearest, strict=True))
    assert torch.equal(sample_descriptors(iter(maps[:, None]), images=3, locations=7), found)  # batches of one
    assert not torch.equal(sample_descriptors([maps], images=3, locations=7, seed=44), found)
    assert sample_descriptors([maps], images=9, locations=99).shape == (4 * 20, 3)
    maps[0, :, 0, 0] = 0
    assert sample_descriptors([maps], images=1, locations=20).shape == (19, 3)


def test_no_more_maps_are_made_than_needed():
    def endless():
        for count in range(10):
            assert count < 2
            yield torch.ones(2, 3, 2, 2)

    assert len(sample_descriptors(endless(), images=4, locations=2)) == 8
    with pytest.raises(UserError, match="no images to take local descriptors from"):
        sample_descriptors([])


def test_descriptors_that_do_not_do():
    head = NetVLAD(6, clusters=4)
    before = copy.deepcopy(head.state_dict())
    with pytest.raises(UserError, match=r"3 local descriptors .* do not make 4 NetVLAD clusters"):
        initialise_netvlad(head, clusterable()[:3])
    with pytest.raises(UserError, match=r"8 local descriptors .* do not make 4 NetVLAD clusters"):
        initialise_netvlad(head, clusterable()[:2].repeat(4, 1))
    with pytest.raises(ValueError, match="of length 1"):
        initialise_netvlad(head, 2 * clusterable())
    with pytest.raises(ValueError, match="of length 1"):
        initialise_netvlad(head, clusterable() * float("nan"))
    with pytest.raises(ValueError, match=r"must be \[n, 6\]"):
        initialise_netvlad(head, clusterable(channels=5))
    with pytest.raises(UserError, match="2 clusters at least"):
        initialise_netvlad(NetVLAD(6, clusters=1), clusterable())
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())
