import itertools

from esm_core.alpha.choice import ChosenAlpha, choose, mean_score, next_alpha, search_length


def test_the_alpha_with_the_best_score_is_chosen_and_the_curve_kept() -> None:
    chosen = choose("label_free", {2.5: 0.1, 1.5: 0.4, 0.9: 0.3})
    assert chosen == ChosenAlpha(value=1.5, method="label_free", curve=[(0.9, 0.3), (1.5, 0.4), (2.5, 0.1)])


def test_of_equally_good_values_the_middle_one_is_chosen() -> None:
    assert choose("validation", {2.0: 0.5, 1.0: 0.5, 1.4: 0.5, 0.2: 0.4}).value == 1.4
    assert choose("validation", {2.0: 0.5, 1.0: 0.5}).value == 1.0


def test_the_order_of_tasks_makes_no_difference_to_a_score() -> None:
    scores = [0.1, 0.2, 0.3, 0.7, 1 / 3]
    assert len({mean_score(order) for order in itertools.permutations(scores)}) == 1


def test_a_search_stays_between_0_and_4_and_ends() -> None:
    curve: dict[float, float] = {}
    while (alpha := next_alpha(curve)) is not None:
        assert 0 <= alpha <= 4
        curve[alpha] = -alpha
    assert choose("label_free", curve).value < 0.05
    assert len(curve) == search_length() == 11
