"""Word errors against jiwer."""

import random

import jiwer
import pytest

from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.wer import word_edits, word_error_rate

WORDS = ["bin", "lay", "place", "red", "blue", "at", "by", "a", "e", "now", "soon"]


def sentences(count: int, least: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(least, 9))) for _ in range(count)]


def test_edits_are_jiwers():
    references, hypotheses = sentences(300, 1, 1), sentences(300, 0, 2)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts = jiwer.process_words(reference, hypothesis)
        expected = counts.substitutions + counts.deletions + counts.insertions
        assert word_edits(reference, hypothesis) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "b c", 1),
        ("a b c", "x a b c y", 2),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("", "", 0),
        ("  a   b ", "a b", 0),
    ],
)
def test_edits_by_hand(reference, hypothesis, edits):
    assert word_edits(reference, hypothesis) == edits


def test_rate_is_over_the_whole_corpus_not_a_mean_of_sentences():
    pairs = list(zip(sentences(100, 1, 3), sentences(100, 0, 4), strict=True))
    references, hypotheses = map(list, zip(*pairs, strict=True))
    expected = 100 * jiwer.wer(references, hypotheses)
    assert word_error_rate(pairs) == pytest.approx(expected)
    assert word_error_rate(iter(pairs)) == pytest.approx(expected)
    assert word_error_rate([("a b c d", "a b c d"), ("a", "b")]) == pytest.approx(20)


def test_rate_can_be_above_one_hundred():
    assert word_error_rate([("a", "b c d e")]) == pytest.approx(400)


@pytest.mark.parametrize("pairs", [[], [("", "a")], [("  ", "")]])
def test_no_reference_words_is_an_error(pairs):
    with pytest.raises(InputError, match="no reference words"):
        word_error_rate(pairs)
