"""What a stranger adds: a penalty and a transform of one's own, through every recipe."""

import inspect
from dataclasses import dataclass

import pytest
import torch

import seqdream as sd


@dataclass(frozen=True)
class Bends:
    "weight · mean squared second difference; a stranger's penalty."

    weight: float = 1.0
    label: str = "bends"

    def __call__(self, x, rows):
        return self.weight * x.diff(n=2, dim=-1).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Own:
    "Any formula as a penalty."

    formula: object
    label: str = "own"

    def __call__(self, x, rows):
        return self.formula(x)


@dataclass(frozen=True)
class Shrink:
    "x ← (1 − rate) x, as `L2Decay` does; a stranger's transform."

    rate: float = 0.1
    on: str = "iterate"

    def __call__(self, x, walk):
        return (1 - self.rate) * x


class Listens:
    "A transform that changes nothing and remembers what it was told."

    def __init__(self, on):
        self.on = on
        self.told = []

    def __call__(self, x, walk):
        self.told.append((walk.step, walk.rows.tolist(), tuple(x.shape)))
        return x


def jumps(x):
    return x.diff(dim=-1).abs().flatten(1).mean(1)


def squared_jumps(x):
    return x.diff(dim=-1).square().flatten(1).sum(1)


def power(x):
    return x.square().flatten(1).sum(1)


FAR = {"start": "other", "steps": 3}
RECIPES = {
    "sequence_dreaming": FAR,
    "target_descent": FAR,
    "gradient_ascent": FAR,
    "ellis": {"step_sizes": (10.0,), "steps": 3},
    "grounded_dreaming": FAR,
}
every_recipe = pytest.mark.parametrize("name", RECIPES)


def dream(small, name, n=2, **options):
    return getattr(sd, name)(*small, 1, n=n, **{**RECIPES[name], **options})


def same(a, b):
    "The same dreams but for rounding, at every step."
    assert a.snapshots.keys() == b.snapshots.keys()
    return all(torch.allclose(a.snapshots[k], b.snapshots[k], atol=1e-5) for k in a.snapshots)


# --- a penalty of one's own -----------------------------------------------------------------------


@every_recipe
def test_extension_penalty_is_part_of_the_loss(small, name):
    penalty = Bends(5.0)
    d = dream(small, name, penalties=[penalty])
    for step in (0, 1, 2):
        said = penalty(d.snapshots[step], None)
        assert torch.allclose(d.history["bends"][step], said, rtol=1e-4, atol=1e-6)
    terms = [v for k, v in d.history.items() if k not in ("loss", "activation")]
    assert torch.allclose(d.history["loss"], sum(terms), rtol=1e-4, atol=1e-5)


@every_recipe
def test_extension_penalty_turns_the_walk_and_is_recorded(small, name):
    plain = dream(small, name)
    d = dream(small, name, penalties=[Bends(1e4)])
    assert not same(d, plain)
    before = plain.settings["penalties"]
    assert d.settings["penalties"] == [*before, "Bends(weight=10000.0, label='bends')"]
    assert "bends" not in plain.history


@every_recipe
def test_extension_penalty_of_weight_zero_changes_nothing(small, name):
    assert same(dream(small, name, penalties=[Bends(0.0)]), dream(small, name))


@pytest.mark.parametrize(
    "name, formula, weight, built_in",
    [
        ("sequence_dreaming", jumps, 1.0, {"lambda_sm": 1.1}),
        ("sequence_dreaming", squared_jumps, 1e-2, {"lambda_beta": 1e-2 + 1e-5}),
        ("target_descent", squared_jumps, 1e-2, {"lambda_beta": 1e-2 + 1e-5}),
        ("gradient_ascent", power, 0.5, {"lambda_l2": 0.5}),
    ],
)
def test_extension_penalty_weighs_as_the_built_in_one(small, name, formula, weight, built_in):
    own = dream(small, name, penalties=[Own(lambda x: weight * formula(x))])
    assert same(own, dream(small, name, **built_in))
    assert not same(own, dream(small, name))


def test_extension_diversity_as_a_strangers_penalty_is_diversity(small):
    ours = sd.Diversity(2.0)

    class Theirs:
        label = "theirs"

        def __call__(self, x, rows):
            return ours(x, rows)

    own = dream(small, "grounded_dreaming", penalties=[Theirs()])
    assert same(own, dream(small, "grounded_dreaming", diversity=2.0))
    assert not same(own, dream(small, "grounded_dreaming"))


def test_extension_penalty_of_ellis_by_hand(small):
    model, ref = small
    penalty = Bends(100.0)
    d = dream(small, "ellis", penalties=[penalty], precision="float32")
    basis = sd.Fourier(ref.n_timepoints)
    z = basis.encode(d.start).requires_grad_()
    x = basis.decode(z)
    loss = -model(x)[:, 1] + penalty(x, None)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    after = basis.decode(z.detach() - 10.0 * gradient)
    by_hand = sd.clamp_spectrum_to(ref.X)(after, None)
    assert torch.allclose(d.snapshots[1], by_hand, atol=1e-3)


def test_extension_one_weight_per_row(small):
    class PerRow:
        label = "per row"

        def __call__(self, x, rows):
            return torch.tensor([0.0, 1e4])[rows] * Bends()(x, rows)

    both = dream(small, "sequence_dreaming", penalties=[PerRow()])
    plain = dream(small, "sequence_dreaming")
    assert torch.allclose(both.x[0], plain.x[0], atol=1e-5)
    assert not torch.allclose(both.x[1], plain.x[1], atol=1e-2)


def test_extension_grounded_keeps_its_promise_whatever_is_added(small):
    model, ref = small
    loud = Own(lambda x: -1e3 * power(x))  # wants everything to be as large as can be
    d = dream(small, "grounded_dreaming", penalties=[loud], transforms=[Shrink(-9.0)])
    for x in d.snapshots.values():
        for kind in ("range", "ledoit_wolf"):
            assert (ref.percentile(x, 1, kind=kind) <= 95).all()


def test_extension_sequence_dreaming_stays_in_range_whatever_is_added(small):
    d = dream(small, "sequence_dreaming", transforms=[Shrink(-9.0)])
    low, high = small[1].X.min(), small[1].X.max()
    assert (d.x >= low).all() and (d.x <= high).all()


# --- a transform of one's own ---------------------------------------------------------------------


@every_recipe
def test_extension_transform_acts_as_the_built_in_one(small, name):
    own = dream(small, name, transforms=[Shrink(0.1)])
    assert same(own, dream(small, name, transforms=[sd.L2Decay(0.1)]))
    if name != "grounded_dreaming":  # where the region brings every series back to its scale
        assert not same(own, dream(small, name))


@every_recipe
def test_extension_transform_is_recorded(small, name):
    plain = dream(small, name).settings["transforms"]
    found = dream(small, name, transforms=[Shrink(0.1)]).settings["transforms"]
    mine = "Shrink(rate=0.1, on='iterate')"
    assert found.count(mine) == 1
    assert [t for t in found if t != mine] == plain


@every_recipe
@pytest.mark.parametrize("on", ["iterate", "gradient"])
def test_extension_transform_is_told_step_and_rows(small, name, on):
    listens = Listens(on)
    d = dream(small, name, transforms=[listens])
    assert [step for step, _, _ in listens.told] == [0, 1, 2]
    assert all(rows == [0, 1] and shape[0] == 2 for _, rows, shape in listens.told)
    assert same(d, dream(small, name))


@every_recipe
def test_extension_gradient_transform_can_hold_a_dream_still(small, name):
    d = dream(small, name, transforms=[Shrink(1.0, on="gradient")])
    if name == "gradient_ascent":  # its own transforms move the series, too
        d = dream(small, name, transforms=[Shrink(1.0, on="gradient")], regularisers=())
    waking = name == "sequence_dreaming"  # its noise may wake a row that does not move
    assert d.status == ["exhausted" if waking else "dead"] * 2
    assert torch.equal(d.x, d.snapshots[0])


# --- what is refused ------------------------------------------------------------------------------


@every_recipe
@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"penalties": ["smooth"]}, "'smooth' is no penalty"),
        ({"penalties": [lambda x, rows: power(x)]}, "has a `label`"),
        ({"penalties": [Own(power, label=3)]}, "has a `label`"),
        ({"penalties": [Bends(), Bends(2.0)]}, "two ingredients are called 'bends'"),
        ({"penalties": [Own(power, "loss")]}, "two ingredients are called 'loss'"),
        ({"transforms": [torch.sin]}, "is no transform"),
        ({"transforms": [Bends()]}, "is no transform"),
        ({"transforms": [Shrink(on="weights")]}, "there are iterate, gradient"),
        ({"penaltys": [Bends()]}, "did you mean penalties?"),
        ({"transform": [Shrink()]}, "did you mean transforms?"),
        ({"progres": True}, "did you mean progress?"),
        ({"callbck": print}, "did you mean callback?"),
    ],
)
def test_extension_malformed_ingredients_are_refused(small, name, wrong, says):
    with pytest.raises((TypeError, ValueError)) as e:
        dream(small, name, **wrong)
    assert says in str(e.value)


@pytest.mark.parametrize(
    "name, label",
    [
        ("sequence_dreaming", "smoothness"),
        ("target_descent", "alpha_norm"),
        ("gradient_ascent", "alpha_norm"),
        ("grounded_dreaming", "band"),
    ],
)
def test_extension_label_of_the_recipes_own_is_taken(small, name, label):
    with pytest.raises(ValueError, match=f"two ingredients are called '{label}'"):
        dream(small, name, penalties=[Own(power, label)])


@every_recipe
def test_extension_misspelt_keyword_is_refused_by_the_recipe_itself(small, name):
    with pytest.raises(
        TypeError, match=rf"^{name}\(\) has no argument 'stpes'; did you mean steps"
    ):
        dream(small, name, stpes=3)


def test_extension_keyword_near_to_nothing_lists_what_there_is(small):
    with pytest.raises(TypeError, match="there are model, ref, target_class"):
        dream(small, "sequence_dreaming", zzzz=1)


def test_extension_methods_of_the_table_take_ingredients(small):
    d = sd.METHODS["sd_max"](*small, 1, n=1, steps=1, penalties=[Bends()], transforms=[Shrink()])
    assert "bends" in d.history
    assert any("Shrink" in t for t in d.settings["transforms"])


# --- the search -----------------------------------------------------------------------------------


def searched(small, tmp_path, name, **options):
    if "penalties" not in inspect.signature(sd.grid_search).parameters:
        pytest.skip("grid_search takes no penalties yet")
    grid = {"lr": [1.0, 5.0], "steps": [3]}
    options |= {"grid": grid, "start": "other", "out": tmp_path / name, "progress": False}
    return sd.grid_search(*small, 1, **options).table


def test_extension_search_walks_with_a_strangers_penalty(small, tmp_path):
    plain = searched(small, tmp_path, "plain")
    with_bends = searched(small, tmp_path, "bends", penalties=[Bends(1e4)])
    assert len(plain) == len(with_bends) == 2
    assert not (plain["smoothness"] == with_bends["smoothness"]).any()
