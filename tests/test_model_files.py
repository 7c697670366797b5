"""The folder of a model: what it holds, that a killed process leaves none or a whole one, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import fastssm
from fastssm import training
from fastssm.training import Model
from fastssm.training.model import _numbers
from tests.test_model import SMALL, table
from tests.test_training import ALONE, Recorder, replace

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> training.Outcome:
    folder = tmp_path_factory.mktemp("run")
    config = replace(SMALL, data=str(table(folder / "table.csv")), steps=10, evaluate_every=5)
    return training.train(config, folder / "out", ranks=ALONE, reporter=Recorder())


@pytest.fixture
def folder(finished: training.Outcome, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def test_the_folder_describes_the_model(finished: training.Outcome) -> None:
    saved = json.loads((finished.folder / DESCRIPTION).read_text())
    assert saved["format"] == 1
    assert saved["versions"]["fastssm"] == fastssm.__version__
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["device"] == "cpu"
    assert saved["columns"] == ["a", "b", "c"]
    assert saved["data"]["rows"] == 300
    assert len(saved["data"]["fingerprint"]) == 64
    assert saved["config"] == json.loads(json.dumps(vars(finished.config)))
    assert saved["noise"] == 0.1
    assert saved["result"]["test_loss"] == finished.test.value
    assert str(finished.folder.parent) not in (finished.folder / WEIGHTS).read_bytes().decode("latin-1")


def test_loading_gives_the_model_back(finished: training.Outcome) -> None:
    loaded, model = training.load(finished.folder), finished.model
    assert loaded.config == finished.config
    assert loaded.columns == model.columns
    for name, value in model.net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], value)
    for ours, theirs in ((loaded.scaler, model.scaler), (loaded.facts, model.facts)):
        for name, value in vars(theirs).items():
            assert torch.equal(torch.as_tensor(vars(ours)[name]), torch.as_tensor(value)), name
    assert loaded.held_out is not None
    assert torch.equal(loaded.held_out, model.held_out)


def test_a_model_can_be_saved_again(finished: training.Outcome, tmp_path: Path) -> None:
    training.save(training.load(finished.folder), tmp_path)
    rows = finished.prepared.dataset.rows
    assert torch.equal(training.load(tmp_path).energy(rows), finished.model.energy(rows))
    for name in (DESCRIPTION, WEIGHTS):
        assert (tmp_path / name).read_bytes() == (finished.folder / name).read_bytes()


def packed(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


BAD_BYTES = [
    b"",
    b"1234567",
    struct.pack("<Q", 2**63) + b"{}",
    struct.pack("<Q", 10) + b"{}",
    packed(b"{"),
    packed(b"\xff\xfe"),
    packed(b"[" * 100_000),
    packed([]),
    packed({"a": 1}),
    packed(entry(dtype="F8"), bytes(8)),
    packed(entry(dtype=["F32"]), bytes(8)),
    packed(entry(shape=[3]), bytes(8)),
    packed(entry(shape=[-2]), bytes(8)),
    packed(entry(shape=[True, 2]), bytes(8)),
    packed(entry(shape=[2**40, 2**40]), bytes(8)),
    packed(entry(shape=None), bytes(8)),
    packed(entry(data_offsets=[0, 9]), bytes(8)),
    packed(entry(data_offsets=[0, 8, 8]), bytes(8)),
    packed(entry(data_offsets=[8, 0]), bytes(8)),
    packed(entry(data_offsets=[1, 9]), bytes(9)),
    packed(entry(data_offsets=[0.0, 8.0]), bytes(8)),
    packed(entry(), bytes(9)),
    packed(entry(), bytes(7)),
    packed({**entry(), "b": entry()["a"]}, bytes(8)),
]


def put_weights(folder: Path, data: bytes) -> None:
    """Replace the weights, and mend the hash."""
    (folder / WEIGHTS).write_bytes(data)
    rewrite(folder, change=put("weights", {"sha256": hashlib.sha256(data).hexdigest()}))


def test_bad_files_of_tensors_are_refused(folder: Path, subtests: Any) -> None:
    for index, data in enumerate(BAD_BYTES):
        with subtests.test(index=index):
            put_weights(folder, data)
            assert_refused(folder, "is not a file of safetensors")


def test_truncated_files_of_tensors_are_refused(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(data), 501)]:
        put_weights(folder, data[:length])
        assert_refused(folder, "is not a file of safetensors")


def rewrite(folder: Path, change: Any = None, tensors: Any = None) -> None:
    """Change the description or the weights, and mend the hash."""
    saved = json.loads((folder / DESCRIPTION).read_text())
    if tensors is not None:
        found = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        tensors(found)
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(found))
        saved["weights"]["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if change is not None:
        change(saved)
    (folder / DESCRIPTION).write_text(json.dumps(saved))


def fill(name: str, value: float) -> Any:
    return lambda found: found[name].view(-1)[0].fill_(value)


def put(name: str, value: Any) -> Any:
    return lambda found: found.__setitem__(name, value)


def drop(name: str) -> Any:
    return lambda found: found.pop(name)


def setting(name: str, value: Any) -> Any:
    return lambda saved: saved["config"].__setitem__(name, value)


FIRST = "net.hidden.0.weight"
BAD_TENSORS = [
    (fill(FIRST, float("nan")), f"{FIRST} holds values that are NaN"),
    (fill("scaler.mean", float("inf")), "scaler.mean holds values that are NaN or infinite"),
    (fill("held_out", float("nan")), "held_out holds values that are NaN"),
    (drop(FIRST), f"{FIRST} must be torch.float32 (16, 3), got nothing"),
    (drop("scaler.matrix"), f"{WEIGHTS} lacks scaler.matrix"),
    (drop("facts.low"), f"{WEIGHTS} lacks facts.low"),
    (put(FIRST, torch.zeros(16, 4)), "got torch.float32 (16, 4)"),
    (put(FIRST, torch.zeros(16, 3).double()), "got torch.float64 (16, 3)"),
    (put("net.more", torch.zeros(1)), "no weights of the name 'more'"),
    (put("scaler.matrix", torch.zeros(3, 3).double()), "the matrix of the scaler is singular"),
    (put("scaler.mean", torch.zeros(3, dtype=torch.int64)), "scaler.mean must be numbers of shape (3,)"),
    (put("held_out", torch.zeros(0).double()), "held_out must hold the energies"),
]
BAD_DESCRIPTIONS = [
    (put("format", 2), "must have format 1, which fastssm"),
    (drop("format"), "got None"),
    (drop("config"), "has other settings than this version"),
    (setting("more", 1), "other settings than this version (more)"),
    (lambda saved: saved["config"].pop("steps"), "(steps)"),
    (setting("loss", "unknown"), "loss must be one of"),
    (setting("loss", ["sliced"]), "a setting of model.json is wrong"),
    (setting("steps", "many"), "a setting of model.json is wrong"),
    (setting("hidden", 5), "a setting of model.json is wrong"),
    (setting("hidden", [16, "16"]), "a setting of model.json is wrong"),
    (setting("hidden", [10**12]), "must be torch.float32 (1000000000000, 3), got torch.float32 (16, 3)"),
    (setting("hidden", [10**12, 10**12]), "its settings make no network"),
    (setting("hidden", [10**30]), "its settings make no network"),
    (setting("activation", "system"), "its settings make no network"),
    (put("columns", ["a", "b"]), "facts.low must be numbers of shape (2,)"),
    (put("columns", "abc"), "needs a list of column names"),
    (put("columns", []), "needs a list of column names"),
    (put("noise", -1), "noise must be a number from 0 on"),
    (put("noise", "1"), "noise must be a number from 0 on"),
    (put("noise", float("nan")), "noise must be a number from 0 on"),
    (put("reading", {"version": 1}), "how its file was read is not told rightly"),
    (put("reading", [1]), "how its file was read is not told rightly"),
    (lambda saved: saved["reading"]["columns"][0].__setitem__("name", "z"), "reading a file gives columns ['z', 'b'"),
    (drop("weights"), "is not the file that model.json beside it describes"),
    (put("weights", {"file": "../../etc/passwd", "sha256": "0"}), "is not the file that model.json"),
]


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) or str(folder)) as error:
        training.load(folder)
    assert "\n" not in str(error.value)


def test_bad_weights_are_refused_in_a_sentence(folder: Path, subtests: Any) -> None:
    for index, (change, message) in enumerate(BAD_TENSORS):
        with subtests.test(message):
            copy = Path(shutil.copytree(folder, folder.with_name(f"t{index}")))
            rewrite(copy, tensors=change)
            assert_refused(copy, message)


def test_bad_descriptions_are_refused_in_a_sentence(folder: Path, subtests: Any) -> None:
    for index, (change, message) in enumerate(BAD_DESCRIPTIONS):
        with subtests.test(message):
            copy = Path(shutil.copytree(folder, folder.with_name(f"d{index}")))
            rewrite(copy, change=change)
            assert_refused(copy, message)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", '{"format": 1}', "[" * 100_000, '{"format": NaN}'])
def test_broken_descriptions_are_refused(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text)
    assert_refused(folder, "")


def test_no_other_file_is_read_than_the_two(folder: Path, tmp_path: Path) -> None:
    """A path in the description is a note, never followed."""
    elsewhere = tmp_path / "weights"
    shutil.copy(folder / WEIGHTS, elsewhere)
    rewrite(folder, change=lambda saved: saved["weights"].__setitem__("file", str(elsewhere)))
    assert isinstance(training.load(folder), Model)
    (folder / WEIGHTS).unlink()
    assert_refused(folder, f"{WEIGHTS} cannot be read (FileNotFoundError)")


def test_nothing_is_executed(folder: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(folder / "exploded"),))

    for content in (pickle.dumps(Bomb()), b"PK\x03\x04" + pickle.dumps(Bomb())):
        put_weights(folder, content)
        assert_refused(folder, "is not a file of safetensors")
    torch.save({"a": Bomb()}, folder / "checkpoint.pt")
    assert not (folder / "exploded").exists()


def test_a_model_of_another_version_takes_the_defaults_of_new_settings(folder: Path) -> None:
    def older(saved: dict[str, Any]) -> None:
        saved["versions"]["fastssm"] = "0.0.9"
        del saved["config"]["clip"]

    rewrite(folder, change=older)
    assert training.load(folder).config.clip == training.TrainConfig("x").clip
    rewrite(folder, change=setting("more", 1))
    assert_refused(folder, "other settings than this version (more)")


def test_weights_of_another_run_are_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))
    assert_refused(folder, f"is not the file that {DESCRIPTION} beside it describes")


def test_folders_without_a_model_are_told_apart(folder: Path, tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent", "is not a folder; pass the --out folder")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", f"must contain {DESCRIPTION}")
    (folder / DESCRIPTION).unlink()
    assert_refused(folder, "holds a run that has not finished; continue it with fastssm train --resume")


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fastssm import training
from tests.test_model import SMALL
from tests.test_training import ALONE, Recorder, replace

folder, table, done = Path(sys.argv[1]), sys.argv[2], 0


def dying(operation, last):
    def run(*args, **kwargs):
        global done
        if isinstance(args[0], Path) and folder in args[0].parents:
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
        return operation(*args, **kwargs)
    return run


def train(out=folder, **options):
    config = replace(SMALL, data=table, steps=6, evaluate_every=3, hidden=(8,))
    return training.train(config, out, ranks=ALONE, reporter=Recorder(), **options)


train(folder.with_name("other"))  # so that no child imports or compiles anything
for last in range(1000):
    child = os.fork()
    if child == 0:
        for name in ("open", "unlink", "replace"):
            setattr(Path, name, dying(getattr(Path, name), last))
        train(overwrite=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    try:
        training.load(folder)
        found = "whole"
    except ValueError as error:
        found = str(error)
    child = os.fork()
    if child == 0:
        train(resume=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    model = training.load(folder)
    print(os.WIFSIGNALED(status), model.net.state_dict()["readout.weight"].double().sum().item(), found, sep="|")
    if not os.WIFSIGNALED(status):
        break
"""


@pytest.mark.slow  # dozens of trainings
def test_a_process_killed_between_any_two_writes_leaves_none_or_a_whole_model(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(table(tmp_path / "table.csv"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) > 12
    assert [killed for killed, _, _ in rows] == ["True"] * (len(rows) - 1) + ["False"]
    assert len({weight for _, weight, _ in rows}) == 1
    kinds = {found if found == "whole" else " ".join(found.split()[1:6]) for _, _, found in rows}
    assert kinds <= {"whole", "is not a folder; pass", "must contain model.json, but it", "holds a run that has"}
    assert rows[-1][2] == "whole"
    assert {"whole", "holds a run that has"} <= kinds


def test_odd_results_do_not_lose_a_model(
    finished: training.Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = finished.model.to("cpu")
    model.info = {"result": {"test_loss": float("nan"), "rows": (1, float("inf"))}, "device": "cpu"}
    training.save(model, tmp_path / "a")
    assert training.load(tmp_path / "a").info["result"] == {"test_loss": None, "rows": [1, None]}
    for energy, expected in ((float("nan"), None), (float("inf"), torch.finfo(torch.float64).max)):
        monkeypatch.setattr(Model, "_energy", lambda self, given, e=energy: _numbers(torch.full((3,), e).double(), "e"))
        fitted = training.fit(finished.config, finished.prepared)
        assert fitted.held_out is None if expected is None else (fitted.held_out == expected).all()
        training.save(fitted, tmp_path / "b")
        assert ("anomaly" in training.load(tmp_path / "b").info) == (expected is None)


def test_a_score_network_is_saved_without_held_out_energies(tmp_path: Path) -> None:
    config = replace(SMALL, data=str(table(tmp_path / "table.csv")), steps=4, kind="score")
    outcome = training.train(config, tmp_path / "out", ranks=ALONE, reporter=Recorder())
    assert outcome.model.held_out is None
    loaded = training.load(tmp_path / "out")
    rows = outcome.prepared.dataset.rows[:5]
    np.testing.assert_array_equal(loaded.score(rows), outcome.model.score(rows))
