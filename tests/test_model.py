"""A trained model in data units: values, densities, kinds of rows and samples."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastssm
from fastssm import training
from fastssm.data import Dataset, Scaler, prepare
from fastssm.training import Model, TrainConfig
from fastssm.training.facts import Facts
from fastssm.training.trainer import build_net
from tests.test_training import ALONE, Recorder

COLUMNS = ("a", "b", "c")
SMALL = TrainConfig("table.csv", hidden=(16, 16), steps=60, batch=64, evaluate_every=30, lr=1e-2, noise=0.1)
PAIRS = [(loss, kind) for loss, row in training.OBJECTIVES.items() for kind in row.kinds]
NORMALISED = [("composite", "energy"), ("likelihood", "energy"), ("likelihood", "score")]


def table(path: Path, rows: int = 300) -> Path:
    generator = np.random.default_rng(0)
    mixed = np.tanh(generator.normal(size=(rows, 3))) @ generator.normal(size=(3, 3)) * [1.0, 50.0, 1e-3] + [5, -900, 1]
    np.savetxt(path, mixed, delimiter=",", header=",".join(COLUMNS), comments="")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from loss and kind to a finished run."""
    folder = tmp_path_factory.mktemp("runs")
    path = table(folder / "table.csv")
    found: dict[tuple[str, str], training.Outcome] = {}

    def get(loss: str = "sliced", kind: Any = "energy") -> training.Outcome:
        if (loss, kind) not in found:
            config = replace(SMALL, data=str(path), loss=loss, kind=kind)
            out = folder / f"{loss}-{kind}"
            found[loss, kind] = training.train(config, out, ranks=ALONE, reporter=Recorder())
        return found[loss, kind]

    return get


def some_rows(outcome: training.Outcome, count: int = 12) -> np.ndarray:
    return outcome.prepared.dataset.rows[:count].clone().numpy()


def by_autograd(model: Model, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return energies and scores in data units, differentiated through the scaling in float64."""
    x = torch.tensor(rows, requires_grad=True)
    z = (x - model.scaler.mean) @ model.scaler.matrix
    energy = model.evaluated.double()(z).flatten() - torch.linalg.det(model.scaler.matrix).abs().log()
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    model.evaluated.float()
    return energy.detach(), -gradient


@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_energy_and_score_are_those_of_autograd_in_data_units(trained: Any, loss: str, kind: str) -> None:
    outcome = trained(loss, kind)
    model, rows = training.load(outcome.folder), some_rows(outcome)
    if kind == "energy":
        energy, score = by_autograd(model, rows)
        np.testing.assert_allclose(model.energy(rows), energy, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(model.log_density_unnormalised(rows), -model.energy(rows))
    else:
        scaled = model.scaler.scale(torch.tensor(rows))
        score = model.evaluated(scaled.float()).double() @ model.scaler.matrix.T
        with pytest.raises(fastssm.UnsupportedError, match="a score network has no energy"):
            model.energy(rows)
    np.testing.assert_allclose(model.score(rows), score, rtol=2e-3, atol=2e-3 * score.abs().max())


def gaussian(scale: str) -> tuple[Model, Tensor, Tensor]:
    """Return a model whose network is exactly the energy of a Gaussian, and that Gaussian."""
    generator = torch.Generator().manual_seed(1)
    mean, root = torch.tensor([3.0, -70.0]).double(), torch.tensor([[2.0, 0.0], [30.0, 40.0]]).double()
    rows = mean + torch.randn(4000, 2, generator=generator, dtype=torch.float64) @ root.T
    prepared = prepare(Dataset("rows", rows, ("u", "v"), scale=scale, noise=0.0))
    config = TrainConfig("rows", hidden=(4,))
    model = Model(build_net(config, 2), config, Facts.of(prepared), prepared.scaler, ("u", "v"))
    to_mean, precision = prepared.scaler.scale(mean[None])[0], torch.linalg.inv(root @ root.T)
    inverse = torch.linalg.inv(prepared.scaler.matrix)
    in_z = inverse @ precision @ inverse.T
    constant = -0.5 * torch.linalg.slogdet(in_z / (2 * math.pi)).logabsdet

    class Exact(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            centred = z - to_mean.to(z)
            return 0.5 * ((centred @ in_z.to(z)) * centred).sum(1, keepdim=True) + constant.to(z)

    model.evaluated = Exact()
    return model, mean, root @ root.T


@pytest.mark.parametrize("scale", ["none", "standardise", "whiten"])
def test_a_density_of_scaled_rows_becomes_one_of_rows(scale: str) -> None:
    model, mean, covariance = gaussian(scale)
    truth = torch.distributions.MultivariateNormal(mean, covariance)
    rows = truth.sample((50,))
    torch.testing.assert_close(-model.energy(rows), truth.log_prob(rows), rtol=1e-4, atol=1e-3)
    score = -(rows - mean) @ torch.linalg.inv(covariance)
    torch.testing.assert_close(model.score(rows), score, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", ["standardise", "whiten"])
def test_samples_of_a_gaussian_have_its_moments(scale: str) -> None:
    model, mean, covariance = gaussian(scale)
    found = model.sample(4000, steps=400, output="torch")
    deviation = covariance.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() / deviation < 0.08).all()
    assert ((torch.cov(found.T) / covariance - 1).abs() < 0.1).all()
    np.testing.assert_array_equal(found, model.sample(4000, steps=400))
    assert not np.array_equal(found, model.sample(4000, steps=400, seed=1))


@pytest.mark.parametrize(("loss", "kind"), NORMALISED)
def test_log_prob_integrates_to_one(loss: str, kind: Any) -> None:
    """On two columns, by a grid in data units."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 0.2]) + 7
    prepared = prepare(Dataset("rows", rows, ("u", "v"), noise=0.3))
    run = training.Training(replace(SMALL, loss=loss, kind=kind, hidden=(8,)), prepared, ALONE)
    for _ in range(40):
        run.advance()
    model = Model(run.mean_net, run.config, run.facts, prepared.scaler, ("u", "v"))
    span = torch.tensor([3.0, 0.2]) * (5.5 if loss == "composite" else 14)
    axes = [7 + span[d] * torch.linspace(-1, 1, 121, dtype=torch.float64) for d in range(2)]
    grid = torch.cartesian_prod(*axes)
    mass = model.log_prob(grid).exp().sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    if loss == "composite":  # normalised between its bounds, beyond which the formula goes on
        low, high = model.net.bounds.double()
        z = model.scaler.scale(grid)
        inside = ((z >= low) & (z <= high)).all(1)
        mass = mass * (model.log_prob(grid[inside]).exp().sum() / model.log_prob(grid).exp().sum())
        torch.testing.assert_close(model.log_prob(grid), -model.energy(grid))
    assert mass.item() == pytest.approx(1, abs=0.03)


def test_other_models_say_that_they_have_no_log_prob(trained: Any) -> None:
    model = trained().model
    with pytest.raises(fastssm.UnsupportedError, match='normalised model, of loss "composite" or "likelihood"'):
        model.log_prob(some_rows(trained()))
    with pytest.raises(fastssm.UnsupportedError, match="a score network knows no density"):
        trained("sliced", "score").model.anomaly(some_rows(trained()))
    with pytest.raises(fastssm.UnsupportedError, match='elbo needs a model of loss "likelihood"'):
        model.elbo(some_rows(trained()))


def test_the_bound_of_a_diffusion_is_below_its_log_prob(trained: Any) -> None:
    outcome = trained("likelihood", "score")
    rows = outcome.prepared.dataset.rows
    bound, log_prob = outcome.model.elbo(rows, n_times=20), outcome.model.log_prob(rows)
    assert bound.mean() < log_prob.mean() + 0.1
    torch.testing.assert_close(bound, outcome.model.elbo(rows, n_times=20))


@pytest.mark.parametrize(("loss", "kind"), PAIRS)
def test_samples_resemble_the_rows(trained: Any, loss: str, kind: str) -> None:
    outcome = trained(loss, kind)
    rows, found = outcome.prepared.dataset.rows.numpy(), outcome.model.sample(200, steps=100)
    assert found.shape == (200, 3)
    assert np.isfinite(found).all()
    if loss != "finite-difference-denoising":  # after 60 steps it has no mode yet
        assert (np.abs(np.median(found, 0) - np.median(rows, 0)) < 1.5 * rows.std(0)).all()


def test_samples_of_a_domain_stay_in_it(trained: Any) -> None:
    for kind in ("energy", "score"):
        outcome = trained("domain", kind)
        scaled = outcome.model.scaler.scale(outcome.model.sample(300, steps=100, output="torch"))
        low, high = outcome.model.facts.low.double(), outcome.model.facts.high.double()
        assert ((scaled > low - 1e-6) & (scaled < high + 1e-6)).all()


def test_anomaly_is_the_percentage_of_held_out_rows_that_are_more_likely(trained: Any) -> None:
    outcome = trained()
    model, rows = outcome.model, some_rows(outcome, 300)
    held_out = model.held_out.numpy()
    assert len(held_out) == len(outcome.prepared.test)
    expected = [50.0 * ((held_out < e).sum() + (held_out <= e).sum()) / len(held_out) for e in model.energy(rows)]
    np.testing.assert_allclose(model.anomaly(rows), expected)
    far = rows[:1] + 1e3 * rows.std(0)
    assert model.anomaly(far) == [100.0]
    assert 30 < model.anomaly(rows).mean() < 70


def test_rows_come_back_in_the_kind_that_went_in(trained: Any) -> None:
    pandas = pytest.importorskip("pandas")
    model, rows = trained().model, some_rows(trained())
    energy, score = model.energy(rows), model.score(rows)
    assert energy.dtype == score.dtype == np.float64
    assert model.energy(rows.astype(np.float32)).dtype == np.float32
    for dtype, same in ((torch.float32, torch.float32), (torch.float64, torch.float64), (torch.int64, torch.float64)):
        found = model.score(torch.tensor(rows).to(dtype))
        assert isinstance(found, Tensor)
        assert found.dtype == same
    np.testing.assert_array_equal(model.energy(rows.tolist()), energy)
    frame = pandas.DataFrame(rows, columns=COLUMNS, index=[f"r{i}" for i in range(len(rows))])
    shuffled = frame[["c", "a", "b"]].assign(other="text")
    series, scores = model.energy(shuffled), model.score(shuffled)
    assert isinstance(series, pandas.Series)
    assert (series.index == frame.index).all()
    assert tuple(scores.columns) == COLUMNS
    np.testing.assert_array_equal(series, energy)
    np.testing.assert_array_equal(scores, score)
    assert tuple(model.sample(5, steps=5, output="pandas").columns) == COLUMNS
    assert isinstance(model.sample(5, steps=5, output="torch"), Tensor)


def test_batches_and_no_rows(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for loss in ("sliced", "composite"):
        model, rows = trained(loss).model, some_rows(trained(loss))
        whole = model.energy(rows), model.score(rows)
        monkeypatch.setattr("fastssm.training.model.BATCH_ROWS", 5)
        monkeypatch.setattr("fastssm.training.model.QUADRATURE_ROWS", 5)
        np.testing.assert_allclose(model.energy(rows), whole[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.score(rows), whole[1], rtol=1e-3, atol=1e-3 * np.abs(whole[1]).max())
        assert model.energy(rows[:0]).shape == (0,)
        assert model.score(rows[:0]).shape == (0, 3)


BAD_ROWS = [
    (np.zeros((4, 2)), ValueError, r"shape \(n, 3\), one column for each of 'a', 'b', 'c', got \(4, 2\)"),
    (np.zeros(3), ValueError, r"got \(3,\); pass one row as rows\[None\]"),
    (np.array([[0.0, 1, 2], [3, math.nan, 5]]), ValueError, "row 1, column 'b' is nan; 1 value"),
    (np.array([["x", "y", "z"]]), TypeError, "rows must be numbers"),
    ([[1.0, 2.0], [3.0]], TypeError, "rows must be numbers"),
    ("table.csv", TypeError, "rows must be numbers"),
    (torch.zeros(2, 3, dtype=torch.complex64), TypeError, "rows must be real numbers"),
]


def test_bad_rows_are_refused(trained: Any) -> None:
    model = trained().model
    for rows, error, message in BAD_ROWS:
        for method in (model.energy, model.score, model.anomaly, model.log_density_unnormalised):
            with pytest.raises(error, match=message):
                method(rows)


def test_bad_tables_are_refused(trained: Any) -> None:
    pandas = pytest.importorskip("pandas")
    model = trained().model
    frame = pandas.DataFrame(np.zeros((2, 3)), columns=["a", "b", "d"])
    with pytest.raises(ValueError, match="the model was trained on a, b, c, but c is not in this file"):
        model.energy(frame)
    with pytest.raises(ValueError, match="lacks 1 of the 2 columns that the model was trained on, 'u'; it has 'v'"):
        gaussian("none")[0].energy(pandas.DataFrame({"v": [1.0]}))
    with pytest.raises(ValueError, match="each column once, but has 'a' 2 times"):
        model.energy(pandas.DataFrame(np.zeros((2, 4)), columns=["a", "a", "b", "c"]))
    with pytest.raises(TypeError, match="rows must be numbers"):
        model.energy(pandas.DataFrame({"a": ["x"], "b": [1.0], "c": [2.0]}))


def test_a_row_whose_energy_is_no_number_is_named(trained: Any) -> None:
    rows = some_rows(trained())
    rows[3] = 1e300
    with pytest.raises(ValueError, match=r"NaN in 1 row.*first in row 3"):
        trained().model.score(rows) + trained().model.energy(rows)


def test_bad_requests_for_samples_are_refused(trained: Any) -> None:
    for options, message in (
        ({"n": 0}, "n must"),
        ({"n": 2, "steps": 0}, "steps"),
        ({"n": 2, "output": "x"}, "output"),
    ):
        with pytest.raises(ValueError, match=message):
            trained().model.sample(**options)


def test_chains_that_do_not_move_are_reported() -> None:
    model, _, _ = gaussian("whiten")

    class Rough(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return 1e3 * (1e3 * z).sin().sum(1, keepdim=True)

    model.evaluated = Rough()
    with pytest.warns(fastssm.FastSSMWarning, match="the chains moved 0.0%"):
        model.sample(50, steps=40)


def test_the_model_of_another_process_is_the_same(trained: Any) -> None:
    outcome = trained()
    rows = some_rows(outcome)
    code = f"import fastssm, torch; print(fastssm.load({str(outcome.folder)!r}).energy({rows.tolist()!r}).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(eval(done.stdout), outcome.model.energy(rows), rtol=1e-6, atol=1e-6)


def test_a_model_moves_to_a_device(trained: Any) -> None:
    model = trained().model.to("cpu")
    assert model is not trained().model
    np.testing.assert_array_equal(model.energy(some_rows(trained())), trained().model.energy(some_rows(trained())))
    assert isinstance(model.scaler, Scaler)
    if torch.cuda.is_available():
        moved = model.to("cuda")
        assert moved.device.type == "cuda"
        np.testing.assert_allclose(moved.energy(some_rows(trained())), model.energy(some_rows(trained())), rtol=1e-4)
    else:
        with pytest.raises(ValueError, match="finds no CUDA device"):
            model.to("cuda")
