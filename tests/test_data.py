"""Built-in data sets, files of every kind, every bad file, and the statistics of what a training sees."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastssm import data
from fastssm.data.builtin import WINE_COLUMNS, _drop_correlated

REPOSITORY = Path(__file__).parents[1]
SHAPES = {
    **dict.fromkeys(data.TOYS, (20_000, 2)),
    "digits": (1797, 64),
    "patches": (8480, 64),
    "white-wine": (4898, 11),
    "red-wine": (1599, 11),
    "parkinsons": (5875, 15),
}


@pytest.fixture
def random_rows() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(200, 4)) @ generator.normal(size=(4, 4)) + 3.0


def write_csv(path: Path, rows: np.ndarray, header: str = "") -> Path:
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.17g")
    return path


def test_builtin_names_load_and_scale(subtests: pytest.Subtests) -> None:
    for name in data.NAMES:
        with subtests.test(name):
            check_loading(name)


def check_loading(name: str) -> None:
    if name in ("digits", "patches"):
        pytest.importorskip("sklearn")
    dataset = data.load(name)
    assert tuple(dataset.rows.shape) == SHAPES[name]
    assert len(dataset.columns) == SHAPES[name][1]
    assert torch.equal(dataset.rows, data.load(name).rows)
    prepared = data.prepare(dataset)
    held_out = min(1000, SHAPES[name][0] // 10)
    assert len(prepared.test) == len(prepared.validation) == held_out
    assert len(prepared.train) == SHAPES[name][0] - 2 * held_out
    assert prepared.train.isfinite().all()


def test_every_name_has_an_expected_shape() -> None:
    assert set(SHAPES) == set(data.NAMES)


@pytest.mark.parametrize(
    ("file", "digest"),
    [
        ("winequality-red.csv", "c9614512e980f1cb"),
        ("winequality-white.csv", "659d419fff887f22"),
        ("parkinsons_updrs.data", "f2c7d5025dec4e92"),
    ],
)
def test_repository_files_are_the_published_ones(file: str, digest: str) -> None:
    assert hashlib.sha256((REPOSITORY / "data" / file).read_bytes()).hexdigest().startswith(digest)


def test_wine_is_dequantised_within_half_a_gap() -> None:
    raw = np.loadtxt(REPOSITORY / "data" / "winequality-red.csv", delimiter=",")[:, : len(WINE_COLUMNS)]
    gaps = np.array([np.median(np.diff(np.unique(column))) for column in raw.T])
    noise = data.load("red-wine").rows.numpy() - raw
    assert (np.abs(noise) <= gaps / 2 * (1 + 1e-9)).all()
    np.testing.assert_allclose(noise.std(0), gaps / 12**0.5, rtol=0.05)


def test_parkinsons_drops_identifiers_and_twins() -> None:
    columns = data.load("parkinsons").columns
    assert not {"subject#", "age", "sex"} & set(columns)
    correlation = torch.corrcoef(data.load("parkinsons").rows.T).abs().fill_diagonal_(0)
    assert correlation.max() <= 0.98


def test_the_first_of_each_correlated_pair_is_dropped() -> None:
    a, b, noise = torch.randn(3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.stack([a, b, noise, -a + 0.01 * noise, b + 0.01 * noise, a + 0.01 * noise], 1)
    assert _drop_correlated(rows, [0, 1, 2, 3, 4, 5]) == [2, 4, 5]
    assert _drop_correlated(rows, [0, 1, 2]) == [0, 1, 2]


def test_toys_depend_on_the_generator_alone(subtests: pytest.Subtests) -> None:
    for name in data.TOYS:
        with subtests.test(name):
            check_toy(name)


def check_toy(name: str) -> None:
    state = torch.random.get_rng_state()
    first, second = (data.TOYS[name](50, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())


def test_checkerboard_fills_half_the_squares() -> None:
    rows = data.load("checkerboard").rows
    squares = (rows / 2).floor().long().sum(1).remainder(2)
    assert squares.unique().numel() == 1
    assert (rows.abs() <= 4).all()


def test_formats_agree(tmp_path: Path, random_rows: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    np.save(tmp_path / "a.npy", random_rows)
    np.savez(tmp_path / "a.npz", random_rows)
    np.savez(tmp_path / "b.npz", x=random_rows, other=np.zeros(3))
    write_csv(tmp_path / "a.csv", random_rows)
    write_csv(tmp_path / "b.csv", random_rows, header="a,b,c,d")
    (tmp_path / "c.tsv").write_text((tmp_path / "a.csv").read_text().replace(",", "\t"))
    (tmp_path / "d.txt").write_text("\ufeff" + (tmp_path / "b.csv").read_text().replace(",", ";") + "\n\n")
    pandas.DataFrame(random_rows, columns=list("abcd")).to_parquet(tmp_path / "a.parquet")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        np.testing.assert_array_equal(data.load(file).rows.numpy(), random_rows, err_msg=file.name)
    assert data.load(tmp_path / "b.csv").columns == ("a", "b", "c", "d")
    assert data.load(tmp_path / "a.parquet").columns == ("a", "b", "c", "d")


def test_stack_of_pictures_is_flattened(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(size=(30, 3, 5)).astype(np.float32)
    np.save(tmp_path / "pictures.npy", pictures)
    dataset = data.load(tmp_path / "pictures.npy")
    assert dataset.rows.shape == (30, 15)
    assert dataset.image == (3, 5)


GOOD_LINES = "".join(f"{i},{i * i}\n" for i in range(20))
BAD_TEXT = {
    "nan": (GOOD_LINES + "nan,1\n", "column 'column 1' has 1 missing value, first 'nan' in row 21"),
    "infinite": ("a,b\n" + GOOD_LINES + "1,-inf\n", "column 'b' has 1 infinite or too large value, first in row 21"),
    "text cell": (
        "a,grade\n" + GOOD_LINES + "3,good\n",
        "'grade' has text in 1 cell among its numbers, first 'good' in row 21",
    ),
    "text in the first column": (
        "1,2\nx,3\n" + GOOD_LINES,
        "'column 1' has text in 1 cell among its numbers, first 'x' in row 2",
    ),
    "empty cell": ("a,b\n1,\n" + GOOD_LINES, "'b' has 1 missing value, first the empty cell in row 1"),
    "ragged": (GOOD_LINES + "1,2,3\n", "row 21 has 3 cells instead of 2"),
    "short row": ("a,b\n" + GOOD_LINES + "1\n", "row 21 has 1 cell instead of 2"),
    "one row": ("1,2\n", "at least 10 rows are required for the split, got 1"),
    "header alone": ("a,b\n", "expected rows of numbers, but it has none"),
    "empty": ("", "the file is empty"),
    "blank": ("\n \n", "the file is empty"),
}


def test_bad_text_files_name_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    for case, (text, message) in BAD_TEXT.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=r"bad\.csv") as error:
            data.load(path)
        assert message in str(error.value), case


BAD_ARRAYS = {
    "nan": (np.where(np.eye(20, 3) > 0, np.nan, 1.0), "column 'column 1' has 1 missing value, first 'nan' in row 1"),
    "objects": (np.array([["a", "b"]] * 20), "expected a real numeric array, got dtype"),
    "complex": (np.ones((20, 2), dtype=complex), "expected a real numeric array, got dtype"),
    "a number": (np.array(3.0), "expected an array of rows, got a single number"),
    "no rows": (np.empty((0, 3)), "expected rows of numbers, but it has none"),
    "one row": (np.ones((1, 3)), "at least 10 rows are required for the split, got 1"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    array, message = BAD_ARRAYS[case]
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "bad.npy")


def test_bad_archives_and_parquet(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    with pytest.raises(ValueError, match=r"expected one array, or one named 'x' or 'data', got \['a', 'b'\]"):
        data.load(tmp_path / "two.npz")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.csv: its first bytes say utf-16, but it is damaged"):
        data.load(tmp_path / "binary.csv")
    for name, content in {"bad.npy": b"not numpy", "bad.npz": b"PK\x03\x04 cut short"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="not a numeric NumPy file"):
            data.load(tmp_path / name)
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        data.load(tmp_path / "bad.parquet")
    pandas.DataFrame({"a": range(20), "colour": ["red"] * 20}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="column 'colour' holds text, 1 different value, first 'red' in row 1"):
        data.load(tmp_path / "text.parquet")
    pandas.DataFrame({"a": [1.0, None] * 10}).to_parquet(tmp_path / "missing.parquet")
    with pytest.raises(ValueError, match="column 'a' has 10 missing values, first 'nan' in row 2"):
        data.load(tmp_path / "missing.parquet")


def test_unknown_names_files_and_extensions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'moon': choose from moons, 8gaussians"):
        data.load("moon")
    with pytest.raises(ValueError, match="no such file"):
        data.load(tmp_path / "absent.csv")
    (tmp_path / "table.ods").write_bytes(b"")
    with pytest.raises(ValueError, match=r"unknown extension '.ods'; a data file is one of .csv"):
        data.load(tmp_path / "table.ods")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="no table is in this folder"):
        data.load(tmp_path / "folder.csv")


def test_missing_repository_data_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SOURCE_DATA", "PACKAGED_DATA"):
        monkeypatch.setattr(f"fastssm.data.builtin.{name}", tmp_path / "data")
    with pytest.raises(ValueError, match="Set FASTSSM_DATA to that folder"):
        data.load("white-wine")
    monkeypatch.setenv("FASTSSM_DATA", str(REPOSITORY / "data"))
    assert len(data.load("white-wine").rows) == 4898


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_a_data_set_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    packages = "scikit-learn and pillow" if name == "patches" else "scikit-learn"
    with pytest.raises(ValueError, match=rf"'{name}' needs {packages} \(.*\); pip install scikit-learn") as error:
        data.load(name)
    assert "\n" not in str(error.value)


def test_pictures_without_pillow_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("no PIL")

    monkeypatch.setattr("sklearn.datasets.load_sample_images", absent)
    with pytest.raises(ValueError, match=r"needs scikit-learn and pillow \(no PIL\); pip install scikit-learn pillow"):
        data.load("patches")


@pytest.mark.parametrize("scale", ["standardise", "whiten", "none"])
def test_constant_and_dependent_columns(tmp_path: Path, random_rows: np.ndarray, scale: str) -> None:
    constant = random_rows.copy()
    constant[:, 2] = 0.1
    with pytest.raises(ValueError, match="column 'c' is constant"):
        data.prepare(data.load(write_csv(tmp_path / "constant.csv", constant, "a,b,c,d")), scale=scale)
    twins = np.concatenate([random_rows, random_rows[:, :1] * 2], 1)
    dataset = data.load(write_csv(tmp_path / "twins.csv", twins))
    with pytest.raises(ValueError, match="linearly dependent"):
        data.prepare(dataset, scale=scale, noise=0.0)
    if scale == "whiten":
        with pytest.raises(ValueError, match="linearly dependent"):
            data.prepare(dataset, scale=scale, noise=0.1)
    else:
        assert data.prepare(dataset, scale=scale, noise=0.1).train.shape == (160, 5)


def test_statistics_of_the_training_rows(tmp_path: Path, random_rows: np.ndarray) -> None:
    dataset = data.load(write_csv(tmp_path / "rows.csv", random_rows))
    white = data.prepare(dataset, scale="whiten").train.double()
    torch.testing.assert_close(white.mean(0), torch.zeros(4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(4).double(), atol=1e-5, rtol=0)
    standard = data.prepare(dataset, scale="standardise").train.double()
    torch.testing.assert_close(standard.std(0), torch.ones(4).double(), atol=1e-6, rtol=0)
    correlation = torch.corrcoef(standard.T)
    assert correlation.fill_diagonal_(0).abs().max() > 0.1
    plain = data.prepare(dataset, scale="none", noise=0.0)
    everything = torch.cat([plain.test, plain.validation, plain.train])
    torch.testing.assert_close(everything.sum(0), dataset.rows.float().sum(0))
    assert not set(map(tuple, plain.test.tolist())) & set(map(tuple, plain.train.tolist()))


@pytest.mark.parametrize("scale", ["standardise", "whiten", "none"])
def test_unscale_inverts_scale(random_rows: np.ndarray, tmp_path: Path, scale: str) -> None:
    dataset = data.load(write_csv(tmp_path / "rows.csv", random_rows))
    scaler = data.prepare(dataset, scale=scale).scaler
    torch.testing.assert_close(scaler.unscale(scaler.scale(dataset.rows)), dataset.rows)


def test_noise_blurs_held_out_rows_alone() -> None:
    dataset = data.load("moons")
    clean, noisy = data.prepare(dataset, noise=0.0), data.prepare(dataset, noise=0.3)
    assert torch.equal(clean.train, noisy.train)
    for part in ("validation", "test"):
        difference = getattr(noisy, part) - getattr(clean, part)
        assert abs(difference.std().item() - 0.3) < 0.02
    again = data.prepare(dataset, noise=0.3)
    assert torch.equal(again.test, noisy.test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "robust"}, "scale must be one of standardise, whiten, none"),
        ({"noise": -0.1}, "noise must be finite and at least 0"),
        ({"noise": float("nan")}, "noise must be finite and at least 0"),
        ({"noise": float("inf")}, "noise must be finite and at least 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.prepare(data.load("moons"), **options)
