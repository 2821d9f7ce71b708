"""Which look is published: the nearest by distribution, unless noise explains it; never a collapsed one."""

from hypothesis import given
from hypothesis import strategies as st

from flowstill.artifacts.curve import Look
from flowstill_trainer.selection import choose, nearest, newest


def look(step, distances, *, spread=1.0, mse=1.0, phase="training"):
    mean = sum(distances) / len(distances)
    return Look(
        step=step, phase=phase, loss=1 / step, distances=distances, distance=mean, distance_error=0.1, spread=spread,
        cosine=0.5, nearest_cosine=0.5, mse_mean=mse, mse_median=mse, mse_p90=mse, mse_p95=mse, mean_error=mse,
    )  # fmt: skip


GOOD, WORSE = [0.01, 0.02, 0.03, 0.02], [0.11, 0.13, 0.12, 0.12]


def test_the_last_look_is_published_when_it_is_the_nearest():
    assert choose([look(10, WORSE), look(20, GOOD)]).step == 20
    assert choose([look(10, GOOD)]).step == 10


def test_an_earlier_look_is_published_when_the_student_got_worse():
    choice = choose([look(10, WORSE), look(20, GOOD), look(30, WORSE)])
    assert choice.step == 20
    assert "nearer to the teacher's distribution than step 30 by 0.1, with a standard error of 0.0041" in choice.reason


def test_neither_loss_nor_error_chooses():
    """Both fall from look to look here, as they do when a student is over-distilled."""
    looks = [look(10, GOOD, mse=1.0), look(20, WORSE, mse=0.5), look(30, WORSE, mse=0.1)]
    assert [x.loss for x in looks] == sorted((x.loss for x in looks), reverse=True)
    assert choose(looks).step == 10


def test_noise_does_not_choose():
    noisy = [0.5, -0.4, 0.3, -0.4]  # mean 0, paired difference 0.005 ± 0.2
    choice = choose([look(10, noisy), look(20, [0.005] * 4)])
    assert choice.step == 20
    assert "step 10 is not clearly nearer" in choice.reason


def test_pairs_make_a_small_difference_sure():
    """Observations differ much more among each other than the two looks do on any of them."""
    hard = [0.0, 1.0, 2.0, 3.0]
    assert choose([look(10, hard), look(20, [x + 0.01 + 0.001 * i for i, x in enumerate(hard)])]).step == 10


def test_a_collapsed_student_is_never_preferred():
    near = [0.0] * 4
    assert choose([look(10, near, spread=0.4), look(20, WORSE)]).step == 20
    assert choose([look(10, near, spread=0.4), look(20, GOOD), look(30, WORSE)]).step == 20
    choice = choose([look(10, WORSE), look(20, near, spread=0.4)])
    assert (choice.step, "the student collapsed" in choice.reason) == (10, True)
    choice = choose([look(10, near, spread=0.4), look(20, near, spread=0.3)])
    assert (choice.step, "every look is collapsed" in choice.reason) == (20, True)
    assert nearest([look(10, near, spread=0.4)]) is None


def test_one_observation_says_nothing_of_noise():
    assert choose([look(10, [0.0]), look(20, [0.5])]).step == 20


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 2)), min_size=1, max_size=6))
def test_what_is_published_is_the_last_or_the_nearest(values):
    looks = [look(i + 1, [d, d + 0.1, d - 0.1], spread=s) for i, (d, s) in enumerate(values)]
    found, choice = nearest(looks), choose(looks)
    assert choice.step in {looks[-1].step, found.step if found else None}
    if found and looks[-1].spread >= 0.5:
        chosen = looks[choice.step - 1]
        assert chosen.distance <= looks[-1].distance + 1e-12


def refined(step, distances, *, spread=1.0):
    return look(step, distances, spread=spread, phase="refinement")


def test_a_refined_student_is_published_whatever_its_distance_unless_it_collapsed():
    trained = [look(10, GOOD), look(20, WORSE)]
    assert choose([*trained, refined(25, [9.0] * 4)]).step == 25
    choice = choose([*trained, refined(25, GOOD), refined(30, WORSE, spread=0.4)])
    assert (choice.step, choice.reason.startswith("the rest of the refinement is left out: at step 30")) == (25, True)
    choice = choose([*trained, refined(25, GOOD, spread=0.4)])
    assert (choice.step, choice.reason.startswith("the refinement is left out: at step 25")) == (10, True)
    choice = choose([look(20, GOOD, spread=0.4), refined(25, GOOD, spread=0.4)])
    assert (choice.step, "every look is collapsed" in choice.reason) == (25, True)


def test_what_is_kept_during_a_refinement_is_the_newest_that_is_not_collapsed():
    trained = [look(10, WORSE), look(20, [x + 0.0001 * i for i, x in enumerate(WORSE)])]
    assert newest(trained) is trained[choose(trained).step // 10 - 1]
    assert newest([look(10, GOOD, spread=0.4)]) is None
    assert newest([]) is None
    looks = [*trained, refined(25, WORSE), refined(30, GOOD), refined(35, GOOD, spread=0.4)]
    assert newest(looks).step == 30
