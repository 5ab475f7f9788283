"""Watches over the grid search: tables against single runs, resuming, dying workers, bad input."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import hypothesis.strategies as st
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from joblib._parallel_backends import ThreadingBackend

import seqdream as sd
from seqdream import search
from seqdream.search import KNOBS, RESULTS, TABLE_1, Search

GRID = {
    "steps": [2, 5],
    "lr": [0.01, 0.3, 10.0],
    "sigma": [3.0, 6.0],
    "lambda_alpha": [0.0, 1e-3],
    "alpha": [4.0, 6.0],
    "lambda_sm": [0.1],
}
quiet = dict(progress=False)


@pytest.fixture(scope="module")
def whole(small):
    return sd.grid_search(*small, 1, "max", GRID, halving=False, **quiet)


def test_every_line_is_what_a_single_run_gives(small, whole):
    "Walked alone, to its own number of steps, measured with numpy in double precision."
    model, ref = small
    assert len(whole.table) == 2 * 3 * 2 * 2 * 2
    assert list(whole.table.columns[:8]) == ["steps", *KNOBS]
    T = sd.region_target(ref, 1, "max").double().numpy()
    a0 = ref.pooled_mean.double().numpy()
    for _, line in whole.table.iloc[::5].iterrows():
        how = whole.settings(line) | {"micro_batch": search.MICRO_BATCH}
        d = sd.sequence_dreaming(model, ref, 1, "max", n=1, **how)
        a = model(d.x).detach().double().numpy()[0]
        error = ((a - T) ** 2).sum() / ((T - a0) ** 2).sum()
        assert line["target_error"] == pytest.approx(error, rel=1e-4)
        assert line["status"] == d.status[0]
        roughness = np.abs(np.diff(d.x[0, 0].double().numpy())).mean()
        assert line["smoothness"] == pytest.approx(roughness, rel=1e-4)
        assert line["time_percentile"] == pytest.approx(ref.percentile(d.x, 1)[0], abs=0.5)


def test_rows_that_must_be_equal_are_walked_once_and_are_equal(small, whole):
    zero = whole.table[whole.table["lambda_alpha"] == 0]
    for _, group in zero.groupby(["steps", "lr", "sigma"]):
        assert len(group) == 2
        assert group[list(RESULTS)].nunique().max() <= 1
    some = whole.table[(whole.table["lambda_alpha"] > 0) & (whole.table["lr"] == 0.3)]
    assert some["target_error"].nunique() > 4


@pytest.mark.parametrize(
    "how", [{"backend": "threading", "n_jobs": 3}, {"backend": "loky", "n_jobs": 2}]
)
def test_any_number_of_workers_the_same_table(small, whole, how):
    with joblib.parallel_config(**how):
        again = sd.grid_search(*small, 1, "max", GRID, halving=False, **quiet)
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_a_backend_that_gives_lists_only(small, whole, monkeypatch):
    "As Ray's does."
    monkeypatch.setattr(ThreadingBackend, "supports_return_generator", False)
    with joblib.parallel_config("threading", n_jobs=2):
        again = sd.grid_search(*small, 1, "max", GRID, halving=False, **quiet)
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_threads_of_torch_do_not_change_the_table(small, whole):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = sd.grid_search(*small, 1, "max", GRID, halving=False, **quiet)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_the_model_is_a_guest_of_the_search():
    model = sd.ResNet.preset("paper", seed=1)
    X = torch.randn(20, 1, 50, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 2
    model(X)
    ref = sd.Reference.from_data(model, X, y)
    model.train()
    model.blocks[0].eval()
    model.head.weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with joblib.parallel_config("threading", n_jobs=2):
        sd.grid_search(model, ref, 0, "centre", GRID, **quiet)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_several_starts_give_medians(small):
    found = sd.grid_search(*small, 0, "max", {"steps": [4], "lr": [0.1, 5.0]}, n_starts=3, **quiet)
    for _, line in found.table.iterrows():
        how = found.settings(line) | {"micro_batch": search.MICRO_BATCH}
        d = sd.sequence_dreaming(*small, 0, "max", n=3, **how)
        errors = d.history["objective"][d.steps, torch.arange(3)]
        assert line["target_error"] == pytest.approx(errors.median().item(), rel=1e-3)
        assert line["arrived"] == d.status.count("arrived") / 3


# --- halving --------------------------------------------------------------------------------------


def test_halving_walks_less_and_agrees_on_what_it_walks(small):
    grid = {
        "steps": [4, 16, 48],
        "lr": np.geomspace(0.001, 10, 8),
        "lambda_alpha": [1e-5, 1e-1],
        "sigma": [3, 6],
    }
    complete = sd.grid_search(*small, 1, "max", grid, halving=False, **quiet)
    halved = sd.grid_search(*small, 1, "max", grid, halving=True, **quiet)
    walked = halved.table["target_error"].notna()
    assert 0 < walked.sum() < 0.7 * len(walked)
    assert (halved.table["status"][~walked] == "dropped").all()
    assert complete.table["target_error"].notna().all()
    pd.testing.assert_frame_equal(halved.table[walked], complete.table[walked])
    least = complete.best("target_error")["target_error"].iloc[0]
    found = halved.best("target_error")["target_error"].iloc[0]
    assert found - least < 0.01
    with pytest.raises(ValueError, match="halving=False"):
        halved.importance()


def test_survivors_are_the_best_of_each_learning_rate_and_the_arrived():
    """Twelve settings, two rates: a quarter is three, two of each rate (rounded up).

    Whoever has arrived stays.
    """
    rows = [dict(search.DEFAULTS, lr=(0.1, 5.0)[i % 2], sigma=float(i), start=0) for i in range(12)]
    errors = [5.0, 1.0, 9.0, float("nan"), 2.0, 8.0, float("inf"), 3.0, 7.0, 4.0, 6.0, 10.0]
    status = ["arrived" if i == 2 else "exhausted" for i in range(12)]
    results = [{6: {"target_error": e, "status": s}} for e, s in zip(errors, status)]
    shards = search.Shards({})
    shards.add(rows, results)
    stay = search._survivors(rows, shards, 6, 0.25, 12)
    assert {r["sigma"] for r in stay} == {4.0, 0.0, 2.0} | {1.0, 7.0}


# --- questions to a table -------------------------------------------------------------------------


def factorial(levels, values):
    "A search in which every combination of levels was tried, with these gains."
    axes = {a: [0.0] for a in TABLE_1}
    for a, n in zip(("lr", "beta", "sigma"), levels):
        axes[a] = list(map(float, range(n)))
    lines = [
        {**dict.fromkeys(TABLE_1, 0.0), "lr": float(i), "beta": float(j), "sigma": float(k)}
        for i, j, k in np.ndindex(*levels)
    ]
    table = pd.DataFrame(lines).assign(gain=values.flatten(), arrived=0.0)
    return Search(table, axes, {})


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(2, 3)), st.integers(0, 10**6))
def test_importance_is_the_sobol_index_by_brute_force(levels, seed):
    v = np.random.default_rng(seed).normal(size=levels)
    found = factorial(levels, v).importance("gain")
    for axis, name in enumerate(("lr", "beta", "sigma")):
        others = tuple(i for i in range(3) if i != axis)
        assert found.loc[name, "alone"] == pytest.approx(v.mean(others).var() / v.var())
        assert found.loc[name, "with_others"] == pytest.approx(v.var(axis).mean() / v.var())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_no_point_beats_one_on_the_front_and_every_other_is_beaten(points):
    table = pd.DataFrame(points, columns=["target_error", "implausibility"]).astype(float)

    def beats(p, q):
        return p[0] <= q[0] and p[1] <= q[1] and p != q

    kept = Search(table, {}, {}).pareto().itertuples()
    front = {(line.target_error, line.implausibility) for line in kept}
    assert front == {p for p in points if not any(beats(q, p) for q in points)}


def test_best_prefers_what_arrives_then_what_is_plausible(whole):
    table = pd.DataFrame(
        {
            "steps": [5] * 4,
            "target_error": [0.0001, 0.3, 0.0005, np.nan],
            "implausibility": [2.0, 0.1, 0.5, np.nan],
            "arrived": [1.0, 0.0, 1.0, np.nan],
            "smoothness": [1.0, 2.0, 3.0, np.nan],
        }
    )
    found = Search(table, {}, {})
    assert found.best().index[0] == 2
    assert list(found.best("target_error", n=5).index) == [0, 2, 1]
    assert found.best("smoothness").index[0] == 0
    with pytest.raises(ValueError, match="score_ratio"):
        found.best("beauty")


# --- resuming -------------------------------------------------------------------------------------

SEARCH = "search FordA --model paper --class 1 --levels 2 --complete --jobs 1"


def test_kill_9_half_way_then_again_gives_the_same_table(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seqdream.cli", *SEARCH.split(), "--out", str(tmp_path / "s")]
    unheard = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = subprocess.Popen(command, env=env, **unheard)
    shards = tmp_path / "s/shards"
    deadline = time.time() + 300
    while time.time() < deadline and len(list(shards.glob("*.json"))) < 2:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    finished = {p.name: p.stat().st_mtime_ns for p in shards.glob("*.json")}
    assert 2 <= len(finished) < 8
    assert not (tmp_path / "s/table.csv").exists()
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"resumed: {16 * len(finished)} rows" in again.stdout, again.stderr[-2000:]
    # finished shards are never written again
    assert all((shards / name).stat().st_mtime_ns == at for name, at in finished.items())
    model, ref = sd.load_pretrained("FordA", "paper")
    with joblib.parallel_config("loky", n_jobs=2):
        one = sd.grid_search(model, ref, 1, "max", sd.paper_grid(2), halving=False, **quiet)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s/table.csv"), one.table)


def test_ctrl_c_returns_what_is_finished_and_the_next_call_goes_on(
    small, whole, tmp_path, monkeypatch
):
    real = search.run_shard
    calls = []

    def tired(*a):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*a)

    monkeypatch.setattr(search, "run_shard", tired)
    part = sd.grid_search(*small, 1, "max", GRID, out=tmp_path / "s", halving=False, **quiet)
    assert not part.finished
    assert part.table["target_error"].notna().any()
    assert (part.table["status"] == "dropped").any()
    assert not (tmp_path / "s/table.csv").exists()
    monkeypatch.setattr(search, "run_shard", real)
    rest = sd.grid_search(*small, 1, "max", GRID, out=tmp_path / "s", halving=False, **quiet)
    assert rest.finished
    assert rest.resumed > 0
    pd.testing.assert_frame_equal(rest.table, whole.table)


def test_full_disk_leaves_the_finished_shards_intact(small, whole, tmp_path, monkeypatch):
    real = os.replace
    n = []

    def full(a, b):
        if str(b).endswith(".json") and "shards" in str(b):
            n.append(1)
            if len(n) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(a, b)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left.*intact"):
        sd.grid_search(*small, 1, "max", GRID, out=tmp_path / "s", halving=False, **quiet)
    monkeypatch.setattr(os, "replace", real)
    # whole, and nothing half-written beside it
    assert len(list((tmp_path / "s/shards").iterdir())) == 1
    again = sd.grid_search(*small, 1, "max", GRID, out=tmp_path / "s", halving=False, **quiet)
    assert again.resumed > 0
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_a_larger_grid_in_the_same_folder_walks_only_what_is_new(small, tmp_path):
    def walk(grid):
        return sd.grid_search(*small, 1, "max", grid, out=tmp_path / "s", **quiet)

    walk({"steps": [3], "lr": [0.1, 0.2]})
    more = walk({"steps": [3], "lr": [0.1, 0.2, 0.4]})
    rows = [len(json.loads(p.read_text())) for p in (tmp_path / "s/shards").iterdir()]
    assert sorted(rows) == [1, 2]
    assert more.resumed == 2
    longer = walk({"steps": [2, 6], "lr": [0.1]})
    assert longer.table["target_error"].notna().all()


def test_dask_workers_one_of_them_killed(small, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    workers = dict(n_workers=2, threads_per_worker=1, processes=True)
    silent = dict(dashboard_address=None, silence_logs=logging.CRITICAL)
    out = tmp_path / "s"

    def kill_one(client):
        while not any((out / "shards").glob("*.json")):
            time.sleep(0.02)
        _, worker = client.run(os.getpid, nanny=False).popitem()
        os.kill(worker, signal.SIGKILL)

    with (
        distributed.LocalCluster(**workers, **silent) as cluster,
        distributed.Client(cluster) as client,
    ):
        killer = threading.Thread(target=kill_one, args=[client])
        killer.start()
        with joblib.parallel_config(backend="dask"):
            found = sd.grid_search(*small, 1, "max", GRID, out=out, halving=False, **quiet)
        killer.join()
    pd.testing.assert_frame_equal(found.table, whole.table)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid, says",
    [
        ({}, "axis -> levels"),
        (None, "axis -> levels"),
        ({"speed": [1]}, "unknown axis 'speed'"),
        ({"lr": []}, "lr has no levels"),
        ({"lr": [float("nan")]}, "level=nan"),
        ({"lr": [1, float("inf")]}, "level=inf"),
        ({"lr": ["fast"]}, "level='fast'"),
        ({"steps": [2.5]}, "give a whole number"),
        ({"steps": [0]}, "1 or more"),
        ({"alpha": [0.5]}, "from 1 to 20"),
        ({"lr": [-1]}, "above 0"),
        ({"sigma": [True]}, "level=True"),
        ({"alpha": [None]}, "level=None"),
        ({"lr": [None, "fast"]}, "level=.fast."),
    ],
)
def test_bad_grids(small, grid, says):
    with pytest.raises(ValueError, match=says):
        sd.grid_search(*small, 1, grid=grid, **quiet)


def test_a_grid_of_a_billion_rows_is_refused_before_it_starts(small, tmp_path):
    huge = {a: np.linspace(1, 6, 10) for a in KNOBS} | {"steps": range(1, 1001)}
    says = r"10,\d{3},\d{3},\d{3} settings.*days|10,000,000,000 settings"
    began = time.time()
    with pytest.raises(ValueError, match=says):
        sd.grid_search(*small, 1, grid=huge, out=tmp_path / "s", **quiet)
    assert time.time() - began < 60
    assert not (tmp_path / "s").exists()


searched = partial(sd.grid_search, target_class=1, grid=GRID)


def search_a_stranger(model, ref):
    return searched(sd.ResNet.preset("paper", seed=9), ref)


def grid_of_no_levels(model, ref):
    return sd.paper_grid(0)


def grid_of_a_word(model, ref):
    return sd.paper_grid("3")


@pytest.mark.parametrize(
    "call, says",
    [
        (partial(searched, target_class=7), "class"),
        (partial(searched, region="top"), "region"),
        (partial(searched, precision="half"), "precision"),
        (search_a_stranger, "other weights"),
        (partial(searched, start="top"), "start"),
        (grid_of_no_levels, "levels=0"),
        (grid_of_a_word, "levels='3'"),
    ],
)
def test_bad_calls(small, call, says):
    with pytest.raises(ValueError, match=says):
        call(*small)


def test_folders_that_hold_something_else(small, tmp_path):
    one = {"steps": [2], "lr": [0.1]}
    sd.grid_search(*small, 1, grid=one, out=tmp_path / "s", **quiet)
    other = sd.load_pretrained("FordA", "paper-1")
    with pytest.raises(ValueError, match="another model"):
        sd.grid_search(*other, 1, grid=one, out=tmp_path / "s", **quiet)
    with pytest.raises(ValueError, match="another target_class"):
        sd.grid_search(*small, 0, grid=one, out=tmp_path / "s", **quiet)
    with pytest.raises(ValueError, match="another seed"):
        sd.grid_search(*small, 1, grid=one, out=tmp_path / "s", seed=1, **quiet)
    shard = next((tmp_path / "s/shards").iterdir())
    text = shard.read_text()
    for broken in (text[:50], "{}x", '[["a"]]', "3"):
        shard.write_text(broken)
        with pytest.raises(ValueError, match="remove it and run again"):
            sd.grid_search(*small, 1, grid=one, out=tmp_path / "s", **quiet)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds no search"):
        sd.grid_search(*small, 1, grid=one, out=tmp_path / "full", **quiet)
    with pytest.raises(ValueError, match="no folder"):
        sd.grid_search(*small, 1, grid=one, out=tmp_path / "full/thesis.tex", **quiet)


# --- the model's own step among the learning rates ------------------------------------------------


def test_the_own_step_among_the_rates_is_a_plain_dream_and_changes_no_other_row(small, tmp_path):
    model, ref = small
    grid = {"steps": [3, 40], "lr": [0.3, 10.0], "sigma": [3.0, 6.0]}
    fixed = sd.grid_search(*small, 1, "max", grid, **quiet)
    mixed = grid | {"lr": [None, 0.3, 10.0]}
    found = sd.grid_search(*small, 1, "max", mixed, tmp_path / "s", **quiet)
    own = found.table["lr"].isna()
    assert found.axes["lr"] == [0.3, 10.0, None]
    rest = found.table[~own].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest.astype({"lr": float}), fixed.table)
    for _, line in found.table[own].iterrows():
        how = found.settings(line)
        assert how["lr"] is None
        d = sd.sequence_dreaming(model, ref, 1, n=1, **how, micro_batch=search.MICRO_BATCH)
        assert line["status"] == d.status[0]
        T = sd.region_target(ref, 1, "max")
        error = (d.activations[0] - T).square().sum() / (T - ref.pooled_mean).square().sum()
        assert line["target_error"] == pytest.approx(float(error), rel=1e-3, abs=1e-6)


def test_a_search_with_the_own_step_is_kept_resumed_and_read_again(small, tmp_path):
    out = tmp_path / "s"
    grid = {"steps": [2, 30], "lr": [None, 0.3], "lambda_alpha": [1e-5, 1e-1]}
    how = dict(out=out, halving=False, **quiet)
    first = sd.grid_search(*small, 0, "max", grid, **how)
    again = sd.grid_search(*small, 0, "max", grid, **how)
    assert again.resumed == 4
    pd.testing.assert_frame_equal(again.table, first.table)
    json.loads((out / "search.json").read_text(), parse_constant=pytest.fail)
    for shard in (out / "shards").iterdir():
        json.loads(shard.read_text(), parse_constant=pytest.fail)
    assert (out / "table.csv").read_text().count("None") == 4
    stored = pd.read_csv(out / "table.csv")
    assert [first.settings(line) for _, line in stored.iterrows()] == [
        first.settings(line) for _, line in first.table.iterrows()
    ]
    assert "None" in first.table.to_string()
    shares = first.importance()  # complete: the own step is a level like another
    assert shares["with_others"].between(0, 1 + 1e-9).all() and shares.loc["lr", "alone"] > 0
    assert set(first.recommended().index) == {"steps", "lr", "lambda_alpha"}
    judged = search.judge(first, *small, first.table[first.table["lr"].isna()].tail(1), n=2)
    assert judged["lr"].iloc[0] is None and judged["arrived"].iloc[0] == 1
    sd.plot_search(first)


def test_what_starts_at_its_target_has_arrived_in_any_company(small):
    "Also where the walk ends before the checkpoint because all rows are there."
    grid = {"steps": [2, 6], "lr": [1e-6, 5.0]}
    found = sd.grid_search(*small, 1, "centre", grid, n_starts=2, tolerance=0.9, **quiet)
    assert (found.table["status"] == "unmoved").all()
    assert (found.table["arrived"] == 1).all()
    assert "4 arrived" in str(found)
