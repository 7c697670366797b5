"""The program that times networks as people write them, with tiny ones: what it times is right, and what it writes."""

from __future__ import annotations

import copy
import csv
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import networks, networks_attempts, networks_table
from bench.networks_contenders import CONTENDERS, DOUBLE, JETS, JETS_COMPILED, Setting, exact, setting
from bench.networks_nets import CONV, MLP, NETWORKS, SMALL, TINY, TRANSFORMER, UNET
from bench.problems import EXACT_LOSS, LOSSES, relative_error
from bench.steps import BACKWARD, Step
from tools.fill_tables import render

STEP, SECOND_STEP = 1e-5, 1e-3  # for first and for second differences


def rows_of(out: Path, *options: str) -> list[dict[str, str]]:
    networks.main(["--smoke", "--out", str(out), *options])
    with out.open() as file:
        return list(csv.DictReader(file))


def test_every_problem_has_a_row_for_each_contender_with_every_column(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "networks.csv", "--parts", "time", "--networks", UNET, MLP, "--directions", "2")
    eager = [name for name in CONTENDERS if name not in networks.COMPILED]
    expected = {(network, loss, name) for network in (UNET, MLP) for loss in LOSSES for name in eager}
    assert {(row["network"], row["loss"], row["contender"]) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        assert tuple(row) == networks.COLUMNS
        assert all(row[name] for name in ("commit", "machine", "torch", "threads", "status"))
        if row["contender"] in (DOUBLE, JETS):
            assert row["status"] == "ok"
            assert float(row["median_ms"]) >= float(row["min_ms"]) > 0
            assert float(row["max_rel_error"]) <= 1e-3
            assert float(row["error_in_float64"]) <= 1e-9
    packages = {(row["contender"], row["network"]): row["status"] for row in rows if row["loss"] == "SSM"}
    assert packages["ebmkit", MLP] == packages["torchebm", MLP] == "ok"
    assert packages["ebmkit", UNET].startswith("not applicable")


def test_memory_rows_name_batch_and_directions(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "networks.csv", "--parts", "memory")
    places = [(row["network"], row["loss"], row["M"], row["B"], row["contender"]) for row in rows]
    assert len(places) == len(set(places)) == 8
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["mode"] == "memory" and row["peak_MiB"] for row in rows)


@pytest.mark.parametrize("name", TINY)
def test_the_answer_is_what_finite_differences_give(name: str) -> None:
    """Also of the networks as people write them: their values, from which all follows, are those of the others."""
    for loss in (*LOSSES, EXACT_LOSS) if NETWORKS[name].kind == "energy" else LOSSES:
        s = setting(replace(TINY[name], B=2), loss, 2, dtype=torch.float64)
        p = s.problem()
        torch.testing.assert_close(p.net(p.x).flatten(), s.net(s.x, *s.cond).flatten(), rtol=1e-12, atol=1e-12)
        answer = exact(s)
        torch.manual_seed(1)
        along = [torch.randn_like(w) for w in s.flat.parameters()]
        slope = sum(float((g * a).sum()) for g, a in zip(answer.gradients, along, strict=True))
        ends = [float(exact(moved(s, along, step)).value) for step in (STEP, -STEP)]
        assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(slope, rel=1e-6), loss


def moved(s: Setting, along: list[Tensor], step: float) -> Setting:
    flat = copy.deepcopy(s.flat)
    with torch.no_grad():
        for weight, direction in zip(flat.parameters(), along, strict=True):
            weight += step * direction
    return s._replace(flat=flat)


def test_the_value_of_the_answer_is_that_of_the_network_by_finite_differences() -> None:
    s = setting(replace(TINY[TRANSFORMER], B=2), "SSM-VR", 1, dtype=torch.float64)
    x, v, energy = s.x, s.v[0], lambda x: s.net(x).flatten()
    with torch.no_grad():
        second = (energy(x + SECOND_STEP * v) - 2 * energy(x) + energy(x - SECOND_STEP * v)) / SECOND_STEP**2
        slopes = []
        for direction in torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x.shape[1:]):
            slopes.append((energy(x + STEP * direction) - energy(x - STEP * direction)) / (2 * STEP))
        value = (torch.stack(slopes).square().sum(0) / 2 - second).mean()
    assert float(exact(s).value) == pytest.approx(float(value), rel=1e-5)


def test_a_wrong_contender_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(s: Setting, factor: float) -> Step:
        step = CONTENDERS[JETS](s)
        return step._replace(call=lambda: (step.call()[0], [factor * g for g in step.call()[1]]))

    def raising(s: Setting) -> Step:
        raise RuntimeError("no rule")

    bad = {"doubled": partial(scaled, factor=2.0), "rough": partial(scaled, factor=1 + 1e-6), "raising": raising}
    monkeypatch.setattr(networks, "CONTENDERS", CONTENDERS | bad)
    monkeypatch.setattr("bench.networks_contenders.CONTENDERS", CONTENDERS | bad)
    job = networks.Job(MLP, 1, 3, ("SSM",), (DOUBLE, *bad), 0.0, tiny=True)
    found = {row["contender"]: row for row in networks.timings(job)}
    assert "min_ms" in found[DOUBLE]
    assert "min_ms" not in found["doubled"]
    assert found["rough"]["status"] == found["doubled"]["status"] == "wrong: error above 1e-09 in float64"
    assert found["raising"]["status"] == "failed: RuntimeError: no rule"
    monkeypatch.setattr(networks, "COMPILED", tuple(bad))  # which are compared in float32 alone
    found = {row["contender"]: row for row in networks.timings(job)}
    assert found["doubled"]["status"] == "wrong: error above 0.001"


def test_what_does_not_compile_says_what_dynamo_cannot_trace() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def broken(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x

    with pytest.raises(torch._dynamo.exc.Unsupported) as refused:
        broken(torch.ones(2))
    assert networks.cause(refused.value).startswith("failed: Unsupported: Called `torch._dynamo.graph_break()`")
    assert networks.cause(ValueError("a\nb")) == "failed: ValueError: a b"


def test_a_contender_that_ends_its_process_has_a_row_and_the_others_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(module: str, job: networks.Job) -> list[dict[str, Any]]:
        if "bad" in job.contenders:
            raise subprocess.CalledProcessError(-11, [], output="started: double backward\nstarted: bad\n")
        return [{"loss": loss, "contender": name, "status": "ok"} for loss in job.losses for name in job.contenders]

    monkeypatch.setattr("bench.jobs.run", dying)
    rows = networks.run(networks.Job(MLP, 1, 3, LOSSES, (DOUBLE, "bad", JETS), 0.0))
    status = {(row["loss"], row["contender"]): row["status"] for row in rows}
    assert len(rows) == len(status) == 6
    assert all(text == ("crashed: -11" if name == "bad" else "ok") for (_, name), text in status.items())


@pytest.mark.slow
def test_a_process_of_its_own_gives_the_same_rows() -> None:
    (row,) = networks.run(networks.Job(MLP, 1, 3, ("SSM",), (JETS,), 0.0, tiny=True))
    assert row["status"] == "ok"
    assert row["min_ms"] > 0


def row_of(contender: str, **columns: object) -> dict[str, str]:
    usual = dict.fromkeys(networks.COLUMNS, "") | {"threads": 1, "network": CONV, "B": 16, "M": 1, "loss": "SSM"}
    row = usual | {"mode": BACKWARD, "contender": contender, "status": "ok"} | columns
    row["target"] = networks_table.target(row)
    return {name: str(value) for name, value in row.items()}


def test_targets_compare_with_double_backward() -> None:
    times = {DOUBLE: 100.0, JETS: 80.0, JETS_COMPILED: 50.0}
    rows = [row_of(name, min_ms=time) for name, time in times.items()]
    rows[1] |= {"ratio_to_best_rival": "0.8", "best_rival": "ebmkit"}
    rows += [row_of(name, min_ms=time, network=TRANSFORMER, M=8) for name, time in times.items()]
    memory = {"mode": "memory", "network": SMALL, "loss": "SSM-VR", "B": 4096}
    rows += [row_of(name, peak_MiB=peak, **memory) for name, peak in ((DOUBLE, 1000.0), (JETS, 90.0))]
    rows += [row_of(name, peak_MiB=90.0, **memory | {"B": 256}) for name in (DOUBLE, JETS)]
    found = [(v.quantity, v.bound, v.measured, v.met) for v in networks_table.verdicts(rows)]
    assert found == [
        ("x_double_backward", 1.4, 1.25, False),
        ("x_double_backward", 1.8, 2.0, True),
        ("better_x_double_backward", 2.0, 2.0, True),
        ("of_double_backward", 0.1, 0.09, True),
    ]
    assert list(networks_table.target_table(rows))[2:4] == [
        "| conv energy | SSM | 1 | 16 | speed-up | ≥ 1.4 | 1.25 | no | 1.25 (ebmkit) |",
        "| conv energy | SSM | 1 | 16 | speed-up, compiled | ≥ 1.8 | 2 | yes |  |",
    ]


def test_a_target_that_was_not_measured_is_not_met() -> None:
    (verdict,) = networks_table.verdicts([row_of(JETS, status="failed: RuntimeError")])
    assert verdict.measured is None
    assert not verdict.met


def test_tables_show_times_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row_of(DOUBLE, min_ms=1234.0, ratio_to_double_backward=1.0)]
    rows += [row_of(JETS, min_ms=50.0, ratio_to_double_backward=0.5), row_of("ebmkit", status="failed: Error")]
    rows += [row_of(DOUBLE, mode="memory", peak_MiB=9.5), row_of(JETS, mode="memory", status="failed: Error")]
    monkeypatch.setattr("tools.fill_tables.read", lambda path: rows)
    assert render("networks | time | SSM", [], []).splitlines() == [
        "| SSM | conv energy, M = 1 |",
        "| --- | ---: |",
        "| double backward | 1234 (1.00×) |",
        "| fastssm jets | 50 (2.00×) |",
        "| ebmkit | failed |",
    ]
    assert render("networks | memory", [], []).splitlines()[2:] == [
        "| conv energy, SSM, M = 1, B = 16 | 9.5 | failed |"
    ]
    rows.clear()  # as before the first measurement
    assert render("networks | time | SSM", [], []) == render("networks | targets", [], []) == ""


def test_jets_agree_with_the_answer_in_float32() -> None:
    s = setting(TINY[CONV], "SSM", 2)
    value, gradients = CONTENDERS[JETS](s).call()
    answer = exact(s)
    assert relative_error(type(answer)(value, gradients), answer) < 1e-4


def test_every_way_to_run_jets_is_right() -> None:
    for network, M, loss in ((TINY[CONV], 2, "SSM-VR"), (TINY[UNET], 2, "SSM")):
        s = setting(network, loss, M, dtype=torch.float64)
        calls = {name: call for name, call in networks_attempts.calls_of(s).items() if "alone" not in name}
        assert len(calls) > len(networks_attempts.WAYS)
        expected, gradients = calls[DOUBLE]()
        for name, call in calls.items():
            value, found = call()
            torch.testing.assert_close([value, *found], [expected, *gradients], rtol=1e-9, atol=1e-11, msg=name)


def test_the_table_of_ways() -> None:
    rows = [
        {name: str(value) for name, value in row.items()} for row in networks_attempts.rows(TINY[MLP], 1, "SSM", 0.0)
    ]
    table = list(networks_attempts.markdown(rows))
    assert len(table) == len(rows) + 2
    assert "| normalisation with its scale | yes |" in "\n".join(table)
