"""Angles between normals against float64 arc cosines and NumPy's median; raw ones against RGB files written here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slimtask.tasks import TaskSpec

from .conftest import Score

RNG = np.random.default_rng(0)
TASK = TaskSpec(name="n", kind="normals", channels=3)


def normals(noise: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    target = RNG.normal(size=(5, 3, size, size))
    target[:, 2] = np.abs(target[:, 2])
    prediction = target + noise * RNG.normal(size=target.shape)
    maps = [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (prediction, target)]
    maps[1][0, :, 0] = 0
    return maps[0], maps[1]


def known(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of the valid pixels [n, 3] in float64."""
    valid = np.abs(target).sum(1) > 0
    p, t = (np.moveaxis(v.astype(np.float64), 1, -1)[valid] for v in (prediction, target))
    return p, t


def expected(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    cosine = (p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    angle = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
    shares = {f"within_{limit}": np.mean(angle < float(limit)) for limit in ("11.25", "22.5", "30", "45")}
    return {"mean_angle": angle.mean(), "median_angle": np.median(angle), "rmse_angle": np.sqrt((angle**2).mean()),
            **shares, "cosine": cosine.mean()}  # fmt: skip


@pytest.mark.parametrize("size", [7, 8])  # an odd and an even number of valid pixels
def test_every_angle_score_over_the_whole_set(size: int, score: Score) -> None:
    prediction, target = normals(0.6, size)
    truth = expected(*known(prediction, target))
    result = score(TASK, prediction, target, extra=("within_45", "cosine"))
    assert abs(result.pop("median_angle") - truth.pop("median_angle")) <= 0.005 + 1e-4
    assert result == pytest.approx(truth, abs=1e-3)
    assert 0 < result["within_11.25"] < result["within_45"] < 1


def test_raw_angles_are_those_between_the_colours_of_adashare_files(score: Score) -> None:
    prediction, target = normals(0.6, 8)

    def colours(v: np.ndarray) -> np.ndarray:
        """Return what the loader of nyu_v2 decodes to ``v``: channels right, away from the camera, up; 0 to 255."""
        x, y, z = v.T
        return np.stack([(x + 1) / 2 * 255, (-z + 1) / 2 * 255, (y + 1) / 2 * 255], axis=1)

    p, t = known(prediction, target)
    truth = {f"raw_{name}": value for name, value in expected(colours(p), colours(t)).items()}
    result = score(TASK, prediction, target, extra=tuple(truth))
    assert abs(result["raw_median_angle"] - truth.pop("raw_median_angle")) <= 0.005 + 1e-4
    assert {name: result[name] for name in truth} == pytest.approx(truth, abs=1e-3)
    assert result["raw_mean_angle"] < result["mean_angle"]


def test_normal_angles_also_where_the_arc_cosine_fails(score: Score) -> None:
    angles = np.deg2rad([0.01, 5, 20, 25, 90, 179.99])
    target = np.zeros((6, 3, 1, 1), np.float32)
    target[:, 0] = 1
    prediction = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)[..., None, None]
    result = score(TASK, prediction, target)
    degrees = np.rad2deg(angles)
    assert result["mean_angle"] == pytest.approx(degrees.mean(), abs=1e-3)
    assert result["median_angle"] == pytest.approx(22.5, abs=0.006)
    assert result["rmse_angle"] == pytest.approx(np.sqrt((degrees**2).mean()), abs=1e-3)
    assert result["within_11.25"] == pytest.approx(2 / 6)
    assert result["within_22.5"] == pytest.approx(3 / 6)
    assert result["within_30"] == pytest.approx(4 / 6)


def test_nan_predictions_and_empty_sets_have_no_angle(score: Score) -> None:
    prediction, target = normals(0.1, 3)
    prediction[1] = np.nan
    result = score(TASK, prediction, target)
    assert math.isnan(result["mean_angle"])
    assert math.isnan(result["median_angle"])
    empty = score(TASK, np.ones_like(target), np.zeros_like(target), extra="all")
    assert len(empty) == 16
    assert all(math.isnan(value) for value in empty.values())
