"""Beam search: against fairseq's, against brute force, batches, limits, errors."""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.utils import import_user_module
from networks import VARIANTS, clip, randomize
from torch import nn

from avhubert_ext.checkpoints.model_file import load_avhubert_asr
from avhubert_ext.decoding.attention import EOS, PAD, BeamConfig, Hypothesis, beam_search, search
from avhubert_ext.errors import InputError
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig, TransformerDecoder

# As fairseq's command lines import it, so that its names are registered once in a process.
import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.models.av_asr_seq2seq import AVASRSeq2Seq  # noqa: E402

DECODER = DecoderConfig(vocabulary=40, layers=2, dim=24, ffn=32, heads=4)
FRAMES = 9
PADDING = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [6], [4]])


def tiny_teacher() -> AVRecognizer:
    return load_avhubert_asr(ROOT / "scripts/models/tiny-teacher/model.safetensors")


@torch.no_grad()
def small(variant: str, vocabulary: int, ends: float = 0.0) -> AVRecognizer:
    """Random weights; hypotheses end the sooner the greater `ends` is. Padding seems likely."""
    config = replace(DECODER, vocabulary=vocabulary)
    model = randomize(AVRecognizer(VARIANTS[variant], config))
    # Norms as new ones: random ones hide what they normalize, and every clip gets the same text.
    for norm in (model.encoder.encoder.layer_norm, model.decoder.layer_norm):
        norm.reset_parameters()
    # The first channel is a one, by which the embedding becomes a bias of the logits.
    model.decoder.layer_norm.weight[0], model.decoder.layer_norm.bias[0] = 0.0, 1.0
    model.decoder.embed_tokens.weight[EOS, 0] = ends
    model.decoder.embed_tokens.weight[PAD, 0] = 3.0
    return model


MODELS = {
    "tiny teacher": tiny_teacher,
    "transformer-resnet": lambda: small("transformer-resnet", 40, ends=1.0),
    "conformer-shufflenet": lambda: small("conformer-shufflenet", 30),
    "vocabulary smaller than the beam": lambda: small("transformer-shufflenet", 7, ends=3.0),
}


@pytest.fixture(scope="module", params=MODELS)
@torch.no_grad()
def model(request: pytest.FixtureRequest) -> AVRecognizer:
    return MODELS[request.param]()


def clips(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Audio, video and padding mask of up to three clips; zeros at the padding, as batches are."""
    audio, video = clip(batch, FRAMES)
    padding = PADDING[:batch]
    audio.masked_fill_(padding[:, None], 0.0)
    return audio, video.masked_fill_(padding[:, None, :, None, None], 0.0), padding


def found_by_fairseq(model: AVRecognizer, inputs: tuple, c: BeamConfig) -> list[list[Hypothesis]]:
    audio, video, padding = inputs
    dictionary = Dictionary()
    for i in range(model.decoder.config.vocabulary - len(dictionary)):
        dictionary.add_symbol(f"token{i}")
    wrapped = AVASRSeq2Seq(model, dictionary, 0).eval()
    generator = SequenceGenerator(
        [wrapped], dictionary, c.beam, c.max_len_a, c.max_len_b,
        min_len=c.min_len, len_penalty=c.length_penalty,
    )  # fmt: skip
    source = torch.zeros(len(audio), audio.shape[2])  # fairseq takes its shape, no more
    sample = {"source": source, "audio": audio, "video": video, "padding_mask": padding}
    results = generator.generate([wrapped], {"net_input": sample})
    return [
        [Hypothesis(tuple(h["tokens"].tolist()), h["score"].item()) for h in hypotheses]
        for hypotheses in results
    ]


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert [[h.tokens for h in hs] for hs in found] == [[h.tokens for h in hs] for hs in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beam", [1, 3, 10])
def test_one_clip_gives_what_fairseq_gives(model, beam, length_penalty):
    config = BeamConfig(beam, length_penalty)
    inputs = clips(1)
    assert_same(beam_search(model, *inputs, config), found_by_fairseq(model, inputs, config))


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beam", [1, 3, 10])
def test_a_batch_with_equal_limits_gives_what_fairseq_gives(model, beam, length_penalty):
    config = BeamConfig(beam, length_penalty, max_len_a=0, max_len_b=8, min_len=2)
    inputs = clips()
    assert_same(beam_search(model, *inputs, config), found_by_fairseq(model, inputs, config))


@pytest.mark.parametrize("config", [BeamConfig(4), BeamConfig(4, 0.0, 2.0, 1, 3)], ids=str)
def test_an_utterance_gives_the_same_alone_and_in_a_batch(model, config):
    audio, video, padding = clips()
    together = beam_search(model, audio, video, padding, config)
    for i, frames in enumerate((~padding).sum(dim=1).tolist()):
        inputs = (audio[i : i + 1, :, :frames], video[i : i + 1, :, :frames], None)
        assert_same(beam_search(model, *inputs, config), together[i : i + 1])


def test_the_clips_above_leave_their_batch_one_after_another():
    """Else the tests above would show less than they seem to."""
    found = beam_search(MODELS["conformer-shufflenet"](), *clips(), BeamConfig(4))
    lengths = [[len(h.tokens) for h in hypotheses] for hypotheses in found]
    assert len({max(row) for row in lengths}) == 3 and all(len(set(row)) > 1 for row in lengths)
    assert max(lengths[2]) == 5 and max(lengths[0]) == 10  # ended by the limit
    assert len({hypotheses[0].tokens[:3] for hypotheses in found}) > 1


@torch.no_grad()
def test_with_a_beam_wide_enough_all_sequences_are_found():
    """Three tokens can come: up to a limit of four they make 3 + 9 + 27 + 81 sequences."""
    model = small("transformer-resnet", vocabulary=130)
    likely = [3, 4, 5]
    impossible = [i for i in range(130) if i not in (*likely, EOS)]
    model.decoder.embed_tokens.weight[impossible, 0] = -math.inf
    inputs = (*clip(frames=3), None)
    sequences = [
        (*tokens, EOS)
        for length in range(1, 5)
        for tokens in itertools.product(likely, repeat=length)
    ]
    sums = {}
    for tokens in sequences:
        logits = model(*inputs, torch.tensor([[EOS, *tokens[:-1]]]))
        log_probs = logits.log_softmax(dim=-1)[0, range(len(tokens)), tokens]
        sums[tokens] = log_probs.sum().item()
    for length_penalty in (0.0, 1.0, 1.5):
        scores = {tokens: total / len(tokens) ** length_penalty for tokens, total in sums.items()}
        config = BeamConfig(129, length_penalty, max_len_a=0, max_len_b=4)
        (found,) = beam_search(model, *inputs, config)
        assert {h.tokens for h in found} == scores.keys() and len(found) == len(sequences)
        expected = [scores[h.tokens] for h in found]
        assert [h.score for h in found] == pytest.approx(expected, abs=1e-4)
        assert found[0].tokens == max(scores, key=scores.__getitem__)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_the_limit_is_each_utterance_s_own():
    model = small("transformer-resnet", 40, ends=-50.0)  # never ends by itself
    inputs = clips()

    def lengths(**changes: float) -> list[int]:
        found = beam_search(model, *inputs, BeamConfig(2, **changes))
        assert all(len(hypotheses) == 2 for hypotheses in found)
        for hypotheses in found:
            assert all(h.tokens[-1] == EOS and EOS not in h.tokens[:-1] for h in hypotheses)
            assert not any(PAD in h.tokens for h in hypotheses)
        return [len(hypotheses[0].tokens) - 1 for hypotheses in found]

    assert lengths() == [9, 6, 4]
    assert lengths(max_len_a=0.5, max_len_b=1) == [5, 4, 3]
    assert lengths(max_len_a=0, max_len_b=2) == [2, 2, 2]
    assert lengths(max_len_a=0.1) == [1, 1, 1]  # min_len is more than int(0.9)
    assert lengths(max_len_a=0.5, min_len=4) == [4, 4, 4]


def test_min_len():
    model = small("transformer-resnet", 40, ends=50.0)  # ends as soon as it may
    inputs = clips()
    for least in (0, 1, 3):
        found = beam_search(model, *inputs, BeamConfig(3, min_len=least))
        assert [len(hypotheses[0].tokens) - 1 for hypotheses in found] == [least] * 3
    (empty,) = search(model.decoder, torch.randn(1, 4, 24), None, BeamConfig(3, 1.0, 0.0, 0, 0))
    assert [h.tokens for h in empty] == [(EOS,)]


def test_a_stream_may_be_missing():
    model = MODELS["transformer-resnet"]()
    audio, video, padding = clips(2)
    for streams in ((audio, None), (None, video)):
        found = beam_search(model, *streams, padding, BeamConfig(2))
        assert [len(hypotheses) for hypotheses in found] == [2, 2]


@torch.no_grad()
def test_half_precision_is_scored_in_single():
    """Without blocks, so that only the rounding of the scores is seen."""
    torch.manual_seed(0)
    decoder = TransformerDecoder(replace(DECODER, layers=1)).eval().bfloat16()
    decoder.layers = nn.ModuleList()
    memory = torch.zeros(1, 3, 24, dtype=torch.bfloat16)
    for hypothesis in search(decoder, memory, None, BeamConfig(4, length_penalty=0.0))[0]:
        logits = decoder(torch.tensor([[EOS, *hypothesis.tokens[:-1]]]), memory)[0].float()
        expected = logits.log_softmax(dim=-1)[range(len(logits)), hypothesis.tokens].sum().item()
        assert hypothesis.score == pytest.approx(expected, abs=1e-4)


def test_nothing_found_is_an_error():
    """A probability that is no number is never chosen."""
    decoder = MODELS["transformer-resnet"]().decoder
    memory = torch.randn(2, FRAMES, 24)
    memory[1] = math.nan
    with pytest.raises(InputError, match=r"clips \[1\] of the batch: .*NaN"):
        search(decoder, memory, None, BeamConfig(3))


def test_gradients_are_off_and_the_model_stays_as_it_was():
    model = MODELS["transformer-resnet"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    beam_search(model, *clips(2), BeamConfig(2))
    assert torch.is_grad_enabled() and not model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam": 0}, "beam 0: expected a whole number, 1 or more"),
        ({"beam": 2.5}, r"beam 2\.5: expected a whole number"),
        ({"beam": True}, "beam True: expected a whole number"),
        ({"min_len": -1}, "min_len -1: expected a whole number, 0 or more"),
        ({"max_len_b": -1}, "max_len_b -1: expected a whole number, 0 or more"),
        ({"max_len_a": -0.1}, r"max_len_a -0\.1: expected a number, 0 or more"),
        ({"length_penalty": math.nan}, "length_penalty nan: expected a number"),
        ({"length_penalty": "1"}, "length_penalty '1': expected a number"),
    ],
)
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(InputError, match=words):
        BeamConfig(**changes)


def test_errors_of_inputs_and_model():
    model = MODELS["transformer-resnet"]()
    with pytest.raises(InputError, match="audio and video are both None"):
        beam_search(model, None, None, None, BeamConfig())
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        beam_search(model.train(), *clip(), None, BeamConfig())
