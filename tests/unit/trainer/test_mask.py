"""Which tokens a span of characters reaches."""

from __future__ import annotations

from agent.trainer.data.tokens import mask


def test_a_token_is_trained_if_any_character_of_it_is():
    assert mask([(0, 3), (3, 6), (6, 9)], [(4, 7)]) == [False, True, True]


def test_a_span_ends_before_its_end():
    assert mask([(0, 3), (3, 6), (6, 9)], [(3, 6)]) == [False, True, False]


def test_several_spans_are_told_apart():
    assert mask([(0, 2), (2, 4), (4, 6), (6, 8)], [(2, 4), (6, 8)]) == [False, True, False, True]


def test_two_spans_may_touch_one_token():
    assert mask([(0, 10), (10, 12)], [(1, 2), (3, 4)]) == [True, False]


def test_an_empty_span_trains_nothing():
    assert mask([(0, 3), (3, 6)], [(3, 3)]) == [False, False]


def test_tokens_that_the_tokenizer_adds_of_its_own_are_not_trained():
    assert mask([(0, 0), (0, 3), (3, 6), (0, 0)], [(0, 6)]) == [False, True, True, False]


def test_a_trimmed_token_of_spaces_counts_for_what_it_stands_for():
    assert mask([(0, 3), (5, 5), (5, 8)], [(3, 8)]) == [False, True, True]
    assert mask([(0, 3), (5, 5), (5, 8)], [(5, 8)]) == [False, False, True]


def test_the_pieces_of_one_character_are_alike():
    assert mask([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], [(1, 2)]) == [False, True, True, True, False]
