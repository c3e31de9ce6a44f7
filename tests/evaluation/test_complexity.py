"""What models cost: paper A's Table 1, counts by hand, and the command."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from avhubert_ext.checkpoints.model_file import read_masks, save_model
from avhubert_ext.cli import main
from avhubert_ext.evaluation.complexity import (
    FRAMES,
    NOT_IN_TOTALS,
    attention_part,
    checkpoint_cost,
    count_flops,
    decoder_parts,
    encoder_parts,
    flops_per_frame,
    preset_cost,
)
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import TABLE_1, VSR, build_vsr, encoder_preset

TINY_TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
KEYS = [
    "model", "parameters", "flops_per_frame", "paper_parameters", "paper_flops_per_frame",
    "model_parameters", "parts",
    "pruned",
]  # fmt: skip
ENCODER_PARTS = ["visual_frontend", "audio_frontend", "fusion", "positional", "blocks"]
tiny = pytest.mark.parametrize("name", ["teacher-tiny", "student-tiny-7"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "recount", "paper"),
    [
        ("teacher", 102_620_288, 815, (103, 875)),
        ("1", 31_741_568, 674, (32, 734)),
        ("2", 31_741_568, 674, (32, 734)),
        ("3", 31_741_568, 674, (32, 734)),
        ("4", 31_226_240, 673, (31, 678)),
        ("5", 31_226_240, 673, (31, 678)),
        ("6", 32_201_856, 674, (32, 674)),
        ("7", 22_035_412, 107, (22, 107)),
    ],
)
def test_table_1(name, parameters, recount, paper):
    cost = preset_cost(name)
    assert cost.parameters == parameters and round(parameters / 1e6) == paper[0]
    # The recount is rounded to a million, and student 7's lacks 1.6 of depthwise convolutions.
    assert abs(cost.flops_per_frame / 1e6 - recount) < 0.01 * recount + 0.5
    assert (cost.paper_parameters, cost.paper_flops_per_frame) == (paper[0] * 1e6, paper[1] * 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLE_1, "teacher-tiny", "tiny-7"])
def test_parts_add_up_to_the_whole_network(name):
    cost = preset_cost(name)
    parts = {key: part for key, part in cost.parts.items() if key not in NOT_IN_TOTALS}
    assert list(parts) == ENCODER_PARTS
    assert sum(part["parameters"] for part in parts.values()) == cost.parameters
    assert sum(part["flops_per_frame"] for part in parts.values()) == cost.flops_per_frame
    full = {"teacher": "teacher-base", "teacher-tiny": name}.get(name, f"student-{name}")
    with torch.device("meta"):
        encoder = AVHubertEncoder(encoder_preset(full)).eval()
        audio, video = torch.zeros(1, 104, FRAMES), torch.zeros(1, 1, FRAMES, 88, 88)
    assert sum(p.numel() for p in encoder.parameters()) == cost.parameters
    whole = count_flops(lambda: encoder(audio, video))["Global"]
    assert cost.flops_per_frame == pytest.approx(whole / FRAMES, rel=1e-12)


def test_depthwise_convolutions_are_what_parts_student_7_from_the_papers_107():
    with torch.device("meta"):
        encoder = AVHubertEncoder(encoder_preset("student-7")).eval()
        audio, video = torch.zeros(1, 104, FRAMES), torch.zeros(1, 1, FRAMES, 88, 88)
    counts = []
    for module in encoder.modules():
        if getattr(module, "groups", 1) > 1:
            module.register_forward_hook(
                lambda m, _, out: counts.append(2 * out.numel() * m.weight[0].numel())
            )
    encoder(audio, video)
    depthwise = sum(counts) / FRAMES
    assert round(depthwise / 1e6, 1) == 1.6
    assert round((flops_per_frame(encoder) - depthwise) / 1e6, 1) == 106.6


@pytest.mark.slow
@tiny
def test_the_same_on_a_real_device(name):
    """There attention is fused, and its products are not even seen."""
    encoder = AVHubertEncoder(encoder_preset(name)).eval().requires_grad_(False)
    audio, video = torch.zeros(1, 104, FRAMES), torch.zeros(1, 1, FRAMES, 88, 88)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(audio, video)
    seen = sum(counter.get_flop_counts()["Global"].values()) / FRAMES
    attention = attention_part(encoder.config)["flops_per_frame"]
    found = flops_per_frame(encoder)
    assert seen == pytest.approx(found, rel=1e-12) or seen == pytest.approx(found + attention)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder(audio, video)
    seen = sum(counter.get_flop_counts()["Global"].values()) / FRAMES
    assert seen == pytest.approx(found + attention, rel=1e-12)


def test_flops_against_a_count_by_hand():
    """teacher-tiny: channels 8, 16, 32, 64; width 128, ffn 512, 12 blocks; per frame."""
    visual = 44 * 44 * 8 * 5 * 7 * 7  # stem
    visual += 22 * 22 * 4 * 8 * 8 * 9
    for side, inputs, width in ((11, 8, 16), (6, 16, 32), (3, 32, 64)):
        visual += side * side * (width * inputs * 9 + 3 * width * width * 9 + width * inputs)
    macs = {
        "visual_frontend": visual + 64 * 128,
        "audio_frontend": 104 * 128,
        "fusion": 256 * 128,
        # An even kernel computes one frame too many.
        "positional": 128 * (128 // 16) * 128 * 101 / 100,
        "blocks": 12 * (4 * 128 * 128 + 2 * 128 * 512),
        "attention": 12 * 2 * 100 * 128,
    }
    counted = preset_cost("teacher-tiny").parts
    assert counted.keys() == {*macs, "decoder", "decoder_attention"}
    for name, expected in macs.items():
        assert counted[name]["flops_per_frame"] == pytest.approx(2 * expected, rel=1e-9), name
    encoder = AVHubertEncoder(encoder_preset("teacher-tiny"))
    total = 2 * (sum(macs.values()) - macs["attention"])
    assert flops_per_frame(encoder) == pytest.approx(total, rel=1e-9)
    assert encoder.training  # counting leaves the encoder as it is


def test_heads_against_a_count_by_hand():
    """Student 4: three heads of width 384 on 768."""
    heads = preset_cost("4").parts["heads"]
    macs = 384 * 3 * 384 + 3 * 384 * 768
    assert heads == {"parameters": macs + 3 * 384 + 3 * 768, "flops_per_frame": 2 * macs}


@pytest.mark.parametrize("width", [24, 128])
def test_decoder_against_a_count_by_hand(width):
    """Keys and values of the encoder's output are a cost of its frames, not of the tokens."""
    encoder = encoder_preset("teacher-tiny")
    config = DecoderConfig(vocabulary=9, layers=3, dim=width, ffn=40, heads=2)
    bridge = 128 * width if width != 128 else 0
    parts = decoder_parts(encoder, config)
    square = width * width
    per_token = 3 * (6 * square + 2 * width * 40) + 9 * width
    assert parts["decoder"]["flops_per_token"] == 2 * per_token
    assert parts["decoder"]["flops_per_frame"] == 2 * (bridge + 3 * 2 * square)
    assert parts["decoder_attention"]["flops_per_token"] == 2 * 3 * 2 * (100 + 1) * width
    recognizer = AVRecognizer(encoder, config)
    whole = sum(p.numel() for p in recognizer.parameters())
    encoders = sum(p.numel() for p in recognizer.encoder.parameters())
    assert parts["decoder"]["parameters"] == whole - encoders


def test_decoder_attention_is_what_the_counter_sees_of_a_first_token():
    encoder = encoder_preset("teacher-tiny")
    config = DecoderConfig(vocabulary=9, layers=3, dim=24, ffn=40, heads=2)
    decoder = AVRecognizer(encoder, config).decoder.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        decoder(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, FRAMES, 24))
    parts = decoder_parts(replace(encoder, dim=24, heads=2, conv_pos_groups=2), config)
    seen = sum(counter.get_flop_counts()["Global"].values())
    memory = FRAMES * parts["decoder"]["flops_per_frame"]
    token = parts["decoder"]["flops_per_token"] + parts["decoder_attention"]["flops_per_token"]
    assert seen == memory + token


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dim", "ffn", "encoder", "whole"),
    [
        ("base-s", 256, 2048, 42_990_016, 56_350_770),
        ("base-l", 768, 3072, 182_028_224, 250_383_410),
    ],
)
def test_paper_bs_recognizers_against_a_count_by_hand(name, dim, ffn, encoder, whole):
    """12 conformer blocks, 6 of the decoder, 5049 outputs; 100 frames have 199 distances."""
    cost = preset_cost(name)
    assert (cost.parameters, cost.model_parameters) == (encoder, whole)
    square = dim * dim
    visual = 44 * 44 * 64 * 5 * 7 * 7 + 22 * 22 * 4 * 64 * 64 * 9
    for side, inputs, width in ((11, 64, 128), (6, 128, 256), (3, 256, 512)):
        visual += side * side * (width * inputs * 9 + 3 * width * width * 9 + width * inputs)
    attention = 4 * square + square * 199 / 100  # projections, the last one of the distances
    convolution = 3 * square + 31 * dim
    macs = {
        "visual_frontend": visual,
        "projection": 512 * dim,
        "blocks": 12 * (4 * dim * ffn + attention + convolution),
        "attention": 12 * (100 + 100 + 199) * dim,
        "ctc": dim * 5049,
        "decoder": 6 * 2 * square,
    }
    assert cost.parts.keys() == {*macs, "decoder_attention"}
    for part, expected in macs.items():
        assert cost.parts[part]["flops_per_frame"] == pytest.approx(2 * expected), part
    per_token = 6 * (6 * square + 2 * dim * ffn) + dim * 5049
    assert cost.parts["decoder"]["flops_per_token"] == 2 * per_token
    assert sum(part["parameters"] for part in cost.parts.values()) == whole


@pytest.mark.parametrize("modality", ["video", "audio", "both"])
def test_conformer_encoders_of_every_modality(modality):
    """The parts are the whole, and attention by formula is what the counter sees besides."""
    config = replace(VSR["tiny"].encoder, modality=modality, layers=2)
    with torch.device("meta"):
        encoder = ConformerEncoder(config).eval()
        video = None if modality == "audio" else torch.zeros(1, 1, FRAMES, 88, 88)
        audio = None if modality == "video" else torch.zeros(1, 1, 640 * FRAMES)
    parts = encoder_parts(config)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert sum(part["parameters"] for part in parts.values()) == parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder(video, None, audio)
    seen = sum(counter.get_flop_counts()["Global"].values()) / FRAMES
    assert seen == pytest.approx(
        flops_per_frame(encoder) + attention_part(config)["flops_per_frame"], rel=1e-12
    )


@pytest.mark.slow
def test_checkpoint_of_a_ctc_attention_recognizer(tmp_path):
    path = tmp_path / "lips.safetensors"
    save_model(path, build_vsr("tiny"))
    assert checkpoint_cost(path) == replace(preset_cost("vsr-tiny"), model="lips")


def run(capsys, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `avhubert-ext model complexity`."""
    code = main(["model", "complexity", *options])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_json_of_all_rows(capsys):
    code, printed, errors = run(capsys, "--json")
    rows = json.loads(printed)
    assert code == 0 and errors == ""
    assert [row["model"] for row in rows] == ["teacher", "1", "2", "3", "4", "5", "6", "7"]
    for row in rows:
        assert list(row) == KEYS
        heads = [] if row["model"] == "teacher" else ["heads"]
        decoder = ["decoder", "decoder_attention"]
        assert list(row["parts"]) == [*ENCODER_PARTS, "attention", *heads, *decoder]
        for name in [*ENCODER_PARTS, "attention", *heads]:
            assert list(row["parts"][name]) == ["parameters", "flops_per_frame"]
    assert rows[0]["parts"]["decoder"]["parameters"] == 57_480_192  # AV-HuBERT's
    assert rows[-1]["parts"]["positional"] == {"parameters": 0, "flops_per_frame": 0}
    assert rows[0]["paper_flops_per_frame"] == 875_000_000


@pytest.mark.slow
def test_json_of_a_checkpoint(capsys):
    code, printed, _ = run(capsys, "--checkpoint", str(TINY_TEACHER), "--json")
    (row,) = json.loads(printed)
    assert code == 0 and list(row) == KEYS
    assert row["model"] == "model" and row["parameters"] == 2_744_000
    assert row["flops_per_frame"] == preset_cost("teacher-tiny").flops_per_frame
    assert row["paper_parameters"] is None and row["paper_flops_per_frame"] is None
    assert list(row["parts"]["decoder"]) == ["parameters", "flops_per_frame", "flops_per_token"]


@pytest.mark.slow
def test_the_pruned_parameters_of_a_checkpoint_are_shown(capsys, tmp_path):
    path = tmp_path / "half.safetensors"
    assert main(["model", "prune", str(TINY_TEACHER), str(path), "--sparsity", "0.5"]) == 0
    pruned = sum(int((~mask).sum()) for mask in read_masks(path).values())
    capsys.readouterr()
    code, printed, _ = run(capsys, "--checkpoint", str(path), "--json")
    (row,) = json.loads(printed)
    assert code == 0 and row["pruned"] == pruned > 2_000_000
    assert row["parameters"] == 2_744_000
    _, printed, _ = run(capsys, "--checkpoint", str(path), str(TINY_TEACHER))
    assert f"half: {pruned:,} of the parameters are pruned" in printed
    assert "\nmodel: " not in printed


def test_a_file_named_like_a_student_is_not_compared_with_it(tmp_path):
    path = tmp_path / "7.safetensors"
    save_model(path, AVHubertEncoder(encoder_preset("student-tiny-7")))
    cost = checkpoint_cost(path)
    assert cost.model == "7" and cost.paper_parameters is None
    assert cost.model_parameters is None
    assert "decoder" not in cost.parts and "heads" not in cost.parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("teacher-base", "teacher"),
        ("student-7", "7"),
        ("student-tiny-7", "tiny-7"),
        ("vsr-base-l", "base-l"),
    ],
)
def test_full_names_of_presets(name, same):
    assert preset_cost(name) == replace(preset_cost(same), model=name)


@pytest.mark.slow
def test_text_fits_and_shows_the_papers_numbers_beside(capsys):
    code, printed, _ = run(capsys, "--preset", "teacher", "7", "tiny-7", "base-s")
    lines = printed.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100
    rows = [
        "teacher 102,620,288 103M 815.0 875 -6.9 % 160,100,480",
        "7 22,035,412 22M 108.1 107 +1.1 % 79,811,284",
        "tiny-7 680,080 - 11.8 - - 2,404,112",
        "base-s 42,990,016 - 697.2 - - 56,350,770",
    ]
    assert [line.split() for line in lines[2:6]] == [row.split() for row in rows]
    assert "Table 1 of paper A" in printed and "recount" in printed
    assert "  visual frontend       11,580,672          633.10" in lines
    _, printed, _ = run(capsys, "--checkpoint", str(TINY_TEACHER))
    assert max(map(len, printed.splitlines())) <= 100
    assert "MFLOPs/token" in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "9"), "student preset '9' is unknown"),
        (("--preset", "vsr-huge"), "vsr preset 'huge' is unknown"),
        (("--preset", "teacher-huge"), "teacher preset 'huge' is unknown"),
        (("--checkpoint", "nowhere.safetensors"), "nowhere.safetensors not found"),
    ],
)
def test_what_is_not_there_gives_one_line(capsys, options, words):
    code, printed, errors = run(capsys, *options)
    assert code == 1 and printed == "" and words in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(unbuffered):
    command = f"{sys.executable} -m avhubert_ext.cli model complexity --preset 7 | true"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    found = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert found.stderr == ""
