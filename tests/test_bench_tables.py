"""The benchmark of reading tables writes files that both readers read."""

from pathlib import Path

import pytest

from bench import tables
from fastssm.data import read_table


def test_files_and_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    shapes = {about: read_table(path, missing="drop").values.shape for about, path, _, _ in tables.files(tmp_path, 40)}
    assert shapes == {
        "plain numbers": (40, 12),
        "one missing value in the middle": (39, 12),
        "semicolons and decimal commas": (40, 12),
        "gzip": (40, 12),
        "Parquet": (40, 12),
    }
    monkeypatch.setattr(tables, "REPEATS", 1)
    path = tmp_path / "numbers.csv"
    seconds, peak, status = tables.measure(tables.READERS["fastssm"], path, path)
    assert (len(seconds), status) == (1, "ok")
    assert seconds[0] > 0
    assert peak >= 0
    assert "No such file" in tables.measure("def read(path):\n    open('absent')", path, path)[2]
