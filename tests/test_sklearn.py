"""The estimators of scikit-learn: its own checks, pipelines, searches, and what the numbers mean."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import fastssm
from bench.outliers_table import OUT

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastssm.sklearn import OutlierDetector, ScoreMatchingDensity

QUICK: dict[str, Any] = {"steps": 8, "hidden": (8,), "random_state": 0}


def rows(count: int = 300) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.tanh(generator.normal(size=(count, 3))) @ generator.normal(size=(3, 3)) * [1.0, 50.0, 1e-3] + [5, -900, 1]


@pytest.mark.parametrize("estimator", [ScoreMatchingDensity(**QUICK), OutlierDetector(**QUICK)])
def test_the_checks_of_scikit_learn(estimator: Any) -> None:
    found = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = [f"{check['check_name']}: {check['exception']}" for check in found if check["status"] == "failed"]
    assert failed == []
    passed = {check["check_name"] for check in found if check["status"] == "passed"}
    assert len(passed) > 30
    if isinstance(estimator, OutlierDetector):
        assert {"check_outliers_train", "check_outliers_fit_predict"} <= passed


def test_in_a_pipeline_and_a_search() -> None:
    data = load_wine().data
    pipeline = make_pipeline(StandardScaler(), ScoreMatchingDensity(**{**QUICK, "steps": 300}))
    search = GridSearchCV(pipeline, {"scorematchingdensity__noise": [0.1, 1.0, 30.0]}, cv=3, error_score="raise")
    search.fit(data)
    assert search.best_params_ != {"scorematchingdensity__noise": 30.0}
    assert search.score_samples(data).shape == (178,)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_the_density_is_the_model_s() -> None:
    density = ScoreMatchingDensity(**QUICK).fit(rows())
    assert isinstance(density.model_, fastssm.Model)
    np.testing.assert_array_equal(density.score_samples(rows()), -density.model_.energy(rows()))
    assert density.sample(5, steps=5).shape == (5, 3)
    np.testing.assert_array_equal(density.sample(5, 1, steps=5), density.sample(5, 1, steps=5))
    again = clone(density).fit(rows())
    np.testing.assert_array_equal(again.score_samples(rows()), density.score_samples(rows()))
    loaded = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(loaded.score_samples(rows()), density.score_samples(rows()))


@pytest.mark.parametrize("scale", ["standardise", "whiten", "none"])
def test_the_score_is_minus_the_loss_in_standard_deviations(scale: str) -> None:
    """Against autograd through everything, in float64."""
    data = rows() / [1, 50, 1e-3]
    density = ScoreMatchingDensity(**QUICK, scale=scale).fit(data)
    model, deviation = density.model_, torch.tensor(data.std(0))
    u = (torch.tensor(data) / deviation).requires_grad_(True)
    energy = model.evaluated((u * deviation - model.scaler.mean) @ model.scaler.matrix).sum()
    score = -torch.autograd.grad(energy, u, create_graph=True)[0]
    trace = sum(torch.autograd.grad(score[:, d].sum(), u, retain_graph=True)[0][:, d] for d in range(3))
    expected = -(trace + score.square().sum(1) / 2).mean()
    assert density.score(data) == pytest.approx(expected.item(), rel=1e-8)


def test_the_score_of_a_normalised_model_is_its_log_density() -> None:
    density = ScoreMatchingDensity(**QUICK, loss="composite").fit(rows())
    assert density.score(rows()) == pytest.approx(density.model_.log_prob(rows()).mean())


def test_more_training_scores_better() -> None:
    scores = [ScoreMatchingDensity(**{**QUICK, "steps": steps}).fit(rows()).score(rows()) for steps in (2, 400)]
    assert scores[1] > scores[0] + 0.1


def test_outliers_are_found() -> None:
    generator = np.random.default_rng(1)
    data = np.concatenate([rows(300), rows(30) + 8 * rows().std(0) * generator.choice([-1, 1], (30, 3))])
    truth = np.r_[np.ones(300), -np.ones(30)]
    detector = OutlierDetector(contamination=30 / 330, steps=400, hidden=(16,), random_state=0)
    found = detector.fit_predict(data)
    assert (found == truth).mean() > 0.97
    np.testing.assert_array_equal(found, np.where(detector.decision_function(data) >= 0, 1, -1))
    np.testing.assert_allclose(detector.decision_function(data), detector.score_samples(data) - detector.offset_)


def test_tables_of_pandas_keep_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(), columns=["a", "b", "c"])
    density = ScoreMatchingDensity(**QUICK).fit(frame)
    assert density.model_.columns == ("a", "b", "c")
    assert list(density.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(frame[["b", "a", "c"]])


def test_columns_that_vary_in_one_row_are_kept() -> None:
    """Wherever that row falls in the split."""
    for place in range(0, 100, 9):
        rare = np.zeros(100)
        rare[place] = 1.0
        detector = OutlierDetector(**QUICK).fit(np.c_[rows(100), rare])
        assert np.isfinite(detector.score_samples(np.c_[rows(100), rare])).all()


def test_the_page_says_what_the_file_of_the_comparison_says() -> None:
    with OUT.open(newline="") as file:
        measured = list(csv.DictReader(file))
    auc: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        auc.setdefault(row["method"], {}).setdefault(row["data"], []).append(float(row["auc"]))
    means = {method: {data: np.mean(values) for data, values in found.items()} for method, found in auc.items()}
    best = {data: max(found[data] for found in means.values()) for data in means["fastssm"]}
    behind = {method: max(best[data] - found[data] for data in best) for method, found in means.items()}
    assert len(best) >= 4
    assert all(means["fastssm"][data] < value for data, value in best.items())
    assert behind.pop("fastssm") < 0.015 < min(behind.values())


def test_bad_parameters_are_refused() -> None:
    for options, message in (
        ({"loss": "magic"}, "loss must be one of"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"noise": -1.0}, "noise must be"),
        ({"scale": "x"}, "scale must be one of"),
        ({"device": "x"}, "device must be"),
        ({"backend": "x"}, "backend"),
    ):
        with pytest.raises(ValueError, match=message):
            ScoreMatchingDensity(**{**QUICK, **options}).fit(rows())
    for contamination in (0.0, 0.6):
        with pytest.raises(ValueError, match="contamination must be above 0 and at most"):
            OutlierDetector(contamination=contamination).fit(rows())
    with pytest.raises(ValueError, match="minimum of 10 is required"):
        ScoreMatchingDensity(**QUICK).fit(rows()[:9])
    with pytest.raises(ValueError, match="every column must vary, but 'x1' is constant, one of 1; remove"):
        ScoreMatchingDensity(**QUICK).fit(np.c_[rows()[:, 0], np.ones(300)])


def test_without_scikit_learn_a_sentence_says_so() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import fastssm.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: fastssm.sklearn needs scikit-learn 1.6 or later; pip install 'scikit-learn>=1.6'"
    )
