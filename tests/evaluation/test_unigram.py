"""The unigram loss, against counting by hand."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lmsae.evaluation.unigram import count_following, unigram_cross_entropy
from lmsae.text.tokens import open_tokens
from tests.miniature import keys


def test_tokens_are_counted_where_the_token_before_them_counts() -> None:
    ids = np.array([[0, 1, 1, 2], [0, 2, 2, 1]])
    counted = np.array([[False, True, True, True], [False, True, False, True]])
    assert count_following([(ids, counted)], 4).tolist() == [0, 1, 2, 0]
    assert count_following([(ids[:1], counted[:1]), (ids[1:], counted[1:])], 4).tolist() == [0, 1, 2, 0]


def test_the_loss_is_that_of_shares_in_which_every_id_counts_once_more() -> None:
    train, held_out = np.array([0, 5, 1]), np.array([1, 2, 1])
    by_hand = -(math.log(1 / 9) + 2 * math.log(6 / 9) + math.log(2 / 9)) / 4
    assert unigram_cross_entropy(train, held_out) == pytest.approx(by_hand, rel=1e-14)


def test_text_of_equal_shares_costs_the_logarithm_of_its_vocabulary() -> None:
    assert unigram_cross_entropy(np.full(50, 7), np.arange(50)) == pytest.approx(math.log(50), rel=1e-14)


def test_an_evaluation_has_the_unigram_loss_of_its_text(finished: Path) -> None:
    """Token by token: the miniature's text has a special token at the head of each context."""
    (tokens_key,) = keys(finished, "tokenize")
    tokens = open_tokens(finished / "artifacts" / "tokenize" / tokens_key)
    evaluation = finished / "artifacts" / "eval" / keys(finished, "eval")[0]
    config = json.loads((evaluation / "spec.json").read_text())["config"]
    assert config["skip_first_positions"] == config["skip_last_positions"] == 0

    def following(ids: np.ndarray) -> Counter[int]:
        special = {*tokens.special_token_ids}
        return Counter(after for line in ids.tolist() for own, after in pairwise(line) if own not in special)

    contexts = config["tokens"] // tokens.context_size
    train, held_out = following(tokens.train[:]), following(tokens.held_out[:contexts])
    seen = train.total() + tokens.d_vocab
    loss = -sum(count * math.log((train[token] + 1) / seen) for token, count in held_out.items()) / held_out.total()
    measured = json.loads((evaluation / "metrics.json").read_text())["ce_unigram"]
    assert measured == pytest.approx(loss, rel=1e-12)
    assert measured < math.log(tokens.d_vocab)
