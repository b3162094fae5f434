# SPDX-License-Identifier: Apache-2.0
"""Figures: they are written, show what they are given, and say what they are."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from spatial_core.errors import InputError
from spatial_core.viz import embed, polar, room, style, tables


def ink(path):
    """Share of pixels that are not white."""
    image = imread(path)[..., :3]
    assert min(image.shape[:2]) > 300
    return float((image.min(axis=-1) < 0.95).mean())


def test_groups_with_missing_values(tmp_path):
    values = np.array([[10.0, 8, 13], [np.nan] * 3, [4.0, 3, 5]])
    path = tables.draw_groups(
        tmp_path / "deep" / "g.png",
        ["3", "4", "5"],
        {"MAE": {"a": values, "b": values + 1}, "other": {"a": values}},
        xlabel="microphones",
        title="t",
        counts=[1, 2, 3],
        logarithmic=["other"],
    )
    assert ink(path) > 0.005


@pytest.mark.parametrize(("count", "clips"), [(1, 1000), (2, 50), (4, 600)])
def test_confusion_for_any_number_of_localizers_and_clips(tmp_path, count, clips):
    truth = np.random.default_rng(0).uniform(-180, 180, clips)
    path = tables.draw_confusion(
        tmp_path / "c.png", truth, {str(i): truth for i in range(count)}, title="t"
    )
    assert ink(path) > 0.005


def test_reliability_with_empty_bins(tmp_path):
    count = np.array([0, 4, 0, 9])
    mean = np.where(count > 0, [0, 0.3, 0, 0.9], np.nan)
    assert ink(tables.draw_reliability(tmp_path / "r.png", {"a": (mean, mean, count)}, title="t"))


def test_posterior_with_silence_and_both_ends_of_the_grid(tmp_path):
    grid = np.linspace(-180, 180, 37)
    probs = np.full((10, 37), 1 / 37)
    probs[3:5] = np.nan
    estimate = np.where(np.isfinite(probs[:, 0]), 170.0, np.nan)
    path = polar.draw_posterior(
        tmp_path / "p.png", probs, grid, estimate=estimate, confidence=np.ones(10), truth=-175.0
    )
    assert ink(path) > 0.02
    merged, unique = polar._merge_ends(probs, grid)
    assert len(unique) == 36
    np.testing.assert_allclose(merged[0].sum(), 1)
    assert np.isnan(merged[3]).all()
    assert merged[0, 0] == pytest.approx(2 / 37)


def test_posterior_of_silence_only(tmp_path):
    grid = np.arange(-180.0, 180.0, 30.0)
    assert ink(polar.draw_posterior(tmp_path / "p.png", np.full((4, 12), np.nan), grid))
    with pytest.raises(InputError, match="azimuth_grid"):
        polar.draw_posterior(tmp_path / "p.png", np.zeros((4, 11)), grid)


def test_cell_edges_close_the_circle():
    edges = polar._edges(np.array([-170.0, -90.0, 0.0, 100.0]))
    np.testing.assert_allclose(edges, [-215, -130, -45, 50, 145])
    assert edges[-1] - edges[0] == 360


def test_rays_end_at_the_distance_or_at_the_wall():
    size, centre = np.array([6.0, 4.0, 3.0]), np.array([2.0, 2.0, 1.0])
    end, located = room._ray(centre, size, 0.0, 0.0, 1.5)
    np.testing.assert_allclose(end, [3.5, 2, 1], atol=1e-12)
    assert located
    end, located = room._ray(centre, size, 180.0, 0.0, np.nan)
    np.testing.assert_allclose(end, [0, 2, 1], atol=1e-9)
    assert not located
    end, _ = room._ray(centre, size, 90.0, 45.0, 50.0)
    np.testing.assert_allclose(end, [2, 4, 3], atol=1e-9)


@pytest.mark.parametrize("size", [(6.0, 4.0, 3.0), (3.0, 10.0, 5.0)])
def test_rooms_of_any_shape(tmp_path, size):
    mics = np.array([1.0, 2.0, 1.0]) + 0.05 * np.random.default_rng(0).normal(size=(4, 3))
    path = room.draw_room(
        tmp_path / "r.png",
        np.array(size),
        mics,
        np.array([2.0, 3.0, 1.5]),
        {"a": (40.0, 5.0, 2.0), "b": (-90.0, -20.0, np.nan)},
        distractor=np.array([0.5, 0.5, 1.0]),
    )
    assert ink(path) > 0.01
    assert ink(room.draw_room(tmp_path / "n.png", np.array(size), mics, None, {})) > 0.005
    with pytest.raises(InputError, match="dimensions"):
        room.draw_room(tmp_path / "r.png", np.array(size[:2]), mics, None, {})


def test_pca_keeps_distances_in_the_plane():
    points = np.random.default_rng(1).normal(size=(40, 2))
    basis, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 2)))
    found, name = embed.project((points @ basis.T).astype(np.float32), "pca")
    assert name.startswith("PCA")
    expected = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(found[:, None] - found[None], axis=-1), expected, atol=1e-4
    )


def test_without_umap_the_map_says_that_it_is_pca(monkeypatch):
    monkeypatch.setattr(embed.importlib.util, "find_spec", lambda name: None)
    tokens = np.random.default_rng(3).normal(size=(30, 8))
    assert embed.project(tokens)[1] == "PCA: umap-learn is not installed"
    with pytest.raises(InputError, match="not installed"):
        embed.project(tokens, "umap")
    with pytest.raises(InputError, match="unknown"):
        embed.project(tokens, "tsne")


def test_token_map_is_written(tmp_path):
    rng = np.random.default_rng(4)
    path = embed.draw_tokens(
        tmp_path / "t.png", rng.normal(size=(50, 8)), rng.uniform(-180, 180, 50), method="pca"
    )
    assert ink(path) > 0.01


def test_the_cyclic_colormap_closes():
    np.testing.assert_allclose(style.CYCLIC(0.0), style.CYCLIC(1.0))


def test_figures_leave_pyplot_and_the_settings_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.figure(tmp_path / "x.png", 3, 3) as fig:
        fig.subplots().plot([1, 2])
    assert dict(matplotlib.rcParams) == before


def test_posterior_without_any_direction_is_drawn(tmp_path):
    """A recording without speech has no estimate in any window; its plot must not fail."""
    probs, nothing = np.full((6, 72), 1 / 72), np.full(6, np.nan)
    path = tmp_path / "none.png"
    grid = -180.0 + 5.0 * np.arange(72)
    polar.draw_posterior(path, probs, grid, estimate=nothing, confidence=nothing)
    assert imread(path).std() > 0
