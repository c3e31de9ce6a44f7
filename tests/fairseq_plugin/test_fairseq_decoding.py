"""Decoding with fairseq-generate, which agrees with the library's own evaluation."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import jiwer
import pytest
import torch
from conftest import ROOT, run, run_well
from fairseq.data import Dictionary
from test_avhubert import checkpoint, finetuned_config, official_finetuned

from avhubert_ext import load_avhubert_asr
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import read_origin
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.dataset import AVDataset, DataConfig, collate
from avhubert_ext.data.manifest import read_manifest, write_manifest
from avhubert_ext.data.text import SPECIAL_SYMBOLS, Vocabulary
from avhubert_ext.data.video import load_video
from avhubert_ext.decoding.attention import BeamConfig, beam_search
from avhubert_ext.evaluation.hypotheses import Decoded, read_decoded
from avhubert_ext.evaluation.wer import word_edits
from avhubert_ext.models.decoder import DecoderConfig
from avhubert_ext.models.encoder import EncoderConfig
from avhubert_ext.recognizers.base import Recognizer

TEACHER = ROOT / "scripts/models/tiny-teacher"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
WER = re.compile(r"^Generate test with beam=\d+: WER: ([\d.]+) \((.*)\)$", flags=re.MULTILINE)


def generate(data: Path, model: Path, results: Path, *options: object) -> list[object]:
    return [
        "fairseq-generate", data, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--gen-subset", "test", "--path", model, "--cpu", "--num-workers", 0, "--beam", 3,
        "--max-len-a", 1, "--max-len-b", 0, "--scoring", "wer", "--post-process", "sentencepiece",
        "--results-path", results, *options,
    ]  # fmt: skip


def by_id(path: Path) -> dict[str, Decoded]:
    return {decoded.id: decoded for decoded in read_decoded(path)}


@pytest.fixture(scope="module")
def decoded(teacher_data: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of the shipped teacher: loud babble, no video, pass 1."""
    folder = tmp_path_factory.mktemp("decoded")
    command = generate(
        teacher_data, TEACHER / "model.safetensors", folder, "--max-tokens", 100, "--lenpen", 0.5,
        "--noise-manifests", noise / "babble", "--noise-prob", 1, "--noise-snr", -10,
        "--noise-pass", 1, "--modalities", "audio",
    )  # fmt: skip
    run_well(*command, **ONE_THREAD)
    return folder


def test_printed_rate_and_conditions(decoded: Path, teacher_data: Path, noise: Path) -> None:
    rate, details = WER.search((decoded / "generate-test.txt").read_text()).groups()
    found = read_decoded(decoded / "decoded-test.jsonl")
    assert {d.id for d in found} == {u.id for u in read_manifest(teacher_data / "test.tsv")}
    references, hypotheses = [d.reference for d in found], [d.hypothesis for d in found]
    assert float(rate) == pytest.approx(100 * jiwer.wer(references, hypotheses), abs=0.005)
    assert float(rate) > 0, "in such a noise the test would not see a mistake otherwise"
    edits = sum(word_edits(d.reference, d.hypothesis) for d in found)
    assert details == (
        f"{edits} edits in {sum(len(r.split()) for r in references)} words, 0 of 4 utterances "
        "unreadable and counted as deleted, text case lower, punctuation remove, tags []<>, "
        "beam 3, length penalty 0.5, noise babble at -10 dB in "
        f"100% from {noise}/babble, visual noise none, noise seed 1, pass 1, trained with unknown"
    )


def test_lines_hold_what_fairseq_printed(decoded: Path, teacher_data: Path) -> None:
    text = (decoded / "generate-test.txt").read_text()
    found = by_id(decoded / "decoded-test.jsonl")
    for number, utterance in enumerate(read_manifest(teacher_data / "test.tsv")):
        reference = re.search(rf"^T-{number}\t(.*)$", text, flags=re.MULTILINE)[1]
        score, words = re.search(rf"^D-{number}\t(\S+)\t(.*)$", text, flags=re.MULTILINE).groups()
        assert (reference, words) == (found[utterance.id].reference, found[utterance.id].hypothesis)
        assert float(score) * math.log(2) == pytest.approx(found[utterance.id].score, abs=1e-5)
    line = json.loads((decoded / "decoded-test.jsonl").read_text().splitlines()[0])
    assert line["edits"] == word_edits(line["reference"], line["hypothesis"])
    assert line["noise"]["snr_db"] == -10 and "/babble/test/" in line["noise"]["files"][0]


def test_the_librarys_evaluation_is_the_same(
    decoded: Path, teacher_data: Path, noise: Path, tmp_path: Path
) -> None:
    """Other batches and another search give the same words, scores, snippets and levels."""
    run_well(
        "avhubert-ext", "evaluate", "--data", teacher_data,
        "--model", "t", TEACHER / "model.safetensors", "--noise", noise / "babble", "--snr", -10,
        "--passes", 2, "--beam", 3,
        "--length-penalty", 0.5, "--max-frames", 70, "--modalities", "audio",
        "--out", tmp_path, **ONE_THREAD,
    )  # fmt: skip
    found = by_id(tmp_path / "t/babble_-10dB/pass-1.jsonl")
    expected = by_id(decoded / "decoded-test.jsonl")
    assert found.keys() == expected.keys()
    for key, utterance in found.items():
        assert utterance.score == pytest.approx(expected[key].score, abs=1e-4)
        assert (utterance.reference, utterance.hypothesis, utterance.noise) == (
            expected[key].reference, expected[key].hypothesis, expected[key].noise
        )  # fmt: skip
    other = by_id(tmp_path / "t/babble_-10dB/pass-0.jsonl")
    assert {k: d.noise for k, d in other.items()} != {k: d.noise for k, d in found.items()}


@pytest.fixture(scope="module")
def official(teacher_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finetuned file in the official layout, for the dictionary of `teacher_data`."""
    dictionary = Dictionary.load(str(teacher_data / "dict.wrd.txt"))
    encoder = EncoderConfig(layers=1, dim=32, ffn=24, heads=2, conv_pos=8, conv_pos_groups=4)
    decoder = DecoderConfig(vocabulary=len(dictionary), layers=2, dim=32, ffn=24, heads=4)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in official_finetuned(encoder, decoder).items():
        tensors[name] = 0.3 * torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            tensors[name] = torch.ones(shape)
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
    path = tmp_path_factory.mktemp("official") / "finetuned.pt"
    state = {"dictionaries": [dictionary], "target_dictionary": dictionary}
    torch.save(checkpoint(finetuned_config(encoder, decoder), tensors, task_state=state), path)
    return path


def test_an_official_finetuned_file_decodes_as_it_is(
    official: Path, teacher_data: Path, tmp_path: Path
) -> None:
    run_well(*generate(teacher_data, official, tmp_path), **ONE_THREAD)
    found = by_id(tmp_path / "decoded-test.jsonl")
    model, dataset = load_avhubert_asr(official), AVDataset(teacher_data, "test", DataConfig())
    vocabulary = Vocabulary(teacher_data / "dict.wrd.txt")
    longest = max(u.frames for u in dataset.utterances)
    for index, utterance in enumerate(dataset.utterances):
        batch = collate([dataset[index]])
        # fairseq's limit depends on the longest utterance of the batch.
        config = BeamConfig(3, max_len_a=0, max_len_b=longest)
        (best, *_), *_ = beam_search(model, batch.audio, batch.video, batch.padding_mask, config)
        assert found[utterance.id].hypothesis == vocabulary.text(best.tokens)
        assert found[utterance.id].score == pytest.approx(best.score, abs=1e-4)
    # Nothing but the file is needed to transcribe with it.
    recognizer = Recognizer.from_file(official)
    assert recognizer.symbols == vocabulary.symbols
    last = dataset.utterances[-1]
    assert recognizer.recognize(load_audio(last.audio), load_video(last.video)).tokens


def spoilt(data: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of `data` where the video of the first test clip is damaged, and this video."""
    shutil.copytree(data, folder)
    first, *others = read_manifest(data / "test.tsv")
    torn = folder / "torn.mp4"
    torn.write_bytes(b"not a video")
    broken = type(first)(first.id, torn, first.audio, first.frames, first.samples)
    write_manifest(folder / "test.tsv", [broken, *others])
    return folder, torn


def test_unreadable_clips_end_a_run_before_a_result(teacher_data: Path, tmp_path: Path) -> None:
    """One of four, in any batch: the rate would be for other words."""
    folder, torn = spoilt(teacher_data, tmp_path / "data")
    command = generate(folder, TEACHER / "model.safetensors", tmp_path, "--max-tokens", 20)
    result = run(*command, **ONE_THREAD)
    assert result.returncode == 1
    line = result.stdout.strip().splitlines()[-1]
    assert line.startswith(f"error: 1 of 4 utterances cannot be read, more than 1%: {torn}")
    assert "--allow-unreadable" in line
    assert "WER" not in result.stdout + (tmp_path / "generate-test.txt").read_text()
    assert not (tmp_path / "decoded-test.jsonl").exists()

    validate = run(
        "fairseq-validate", folder, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--path", TEACHER / "model.safetensors", "--valid-subset", "test", "--cpu",
        "--num-workers", 0, "--max-tokens", 99, **ONE_THREAD,
    )  # fmt: skip
    assert validate.returncode == 1 and validate.stdout.strip().splitlines()[-1] == line
    assert "| loss" not in validate.stdout


def test_a_bad_clip_is_named_and_counted_as_deleted(teacher_data: Path, tmp_path: Path) -> None:
    folder, torn = spoilt(teacher_data, tmp_path / "data")
    options = ("--max-tokens", 20, "--allow-unreadable")
    printed = run_well(
        *generate(folder, TEACHER / "model.safetensors", tmp_path, *options), **ONE_THREAD
    )
    # All clips are longer than --max-tokens: they are decoded one by one, and none is skipped.
    assert "4 utterances have more than 20 frames" in printed
    rate, details = WER.search((tmp_path / "generate-test.txt").read_text()).groups()
    assert "1 of 4 utterances unreadable and counted as deleted (--allow-unreadable)" in details
    found = read_decoded(tmp_path / "decoded-test.jsonl")
    bad = next(d for d in found if d.unreadable)
    assert len(found) == 4 and str(torn) in bad.unreadable
    assert bad.hypothesis == "" and bad.edits == bad.words > 0
    expected = 100 * sum(d.edits for d in found) / sum(d.words for d in found)
    assert float(rate) == pytest.approx(expected, abs=0.005)
    assert f"its words count as deleted: {torn}" in printed
    run_well(
        "avhubert-ext", "evaluate", "--data", folder, "--model", "t", TEACHER / "model.safetensors",
        "--beam", 3, "--out", tmp_path / "out", "--allow-unreadable", **ONE_THREAD,
    )  # fmt: skip
    assert by_id(tmp_path / "out/t/clean/pass-0.jsonl")[bad.id].unreadable == bad.unreadable


@pytest.mark.parametrize("tool", ["fairseq-generate", "avhubert-ext evaluate"])
def test_a_model_of_another_dictionary_is_refused(
    manifests: Path, tmp_path: Path, tool: str
) -> None:
    model = TEACHER / "model.safetensors"
    command = generate(manifests, model, tmp_path)
    if tool != "fairseq-generate":
        command = [*tool.split(), "--data", manifests, "--model", "t", model, "--out", tmp_path]
    result = run(*command, **ONE_THREAD)
    line = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 1 and "dict.wrd.txt" in line and "subwords" in line


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_truncated_checkpoint_ends_with_one_line(
    official: Path, teacher_data: Path, tmp_path: Path, kept: float
) -> None:
    torn = tmp_path / "torn.pt"
    content = official.read_bytes()
    torn.write_bytes(content[: int(kept * len(content))])
    result = run(*generate(teacher_data, torn, tmp_path), **ONE_THREAD)
    assert result.returncode == 1
    assert result.stdout.strip().splitlines()[-1].startswith(f"error: {torn}: truncated")


def test_a_changed_byte_in_a_checkpoint_ends_with_one_line(
    teacher_data: Path, tmp_path: Path
) -> None:
    """In the weights, which PyTorch does not check."""
    path = tmp_path / "model.pt"
    save_fairseq(path, load_avhubert_asr(TEACHER / "model.safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = run(*generate(teacher_data, path, tmp_path), **ONE_THREAD)
    assert result.returncode == 1 and "WER" not in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith(f"error: {path}: damaged")


def test_the_mean_of_checkpoints(teacher_data: Path, tmp_path: Path) -> None:
    """The average of two checkpoints has the mean of every weight, and it decodes."""
    one = load_avhubert_asr(TEACHER / "model.safetensors")
    two = load_avhubert_asr(TEACHER / "model.safetensors")
    with torch.no_grad():
        for parameter in two.parameters():
            parameter.mul_(1.5)
    for name, model in (("one", one), ("two", two)):
        save_fairseq(tmp_path / f"{name}.pt", model)
    target = tmp_path / "mean.pt"
    files = [tmp_path / "one.pt", tmp_path / "two.pt"]
    assert "mean of 2 checkpoints" in run_well("avhubert-ext", "model", "average", *files, target)
    mean = load_avhubert_asr(target).state_dict()
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(mean[name], 1.25 * parameter.detach())
    run_well(*generate(teacher_data, target, tmp_path), **ONE_THREAD)
    assert len(read_decoded(tmp_path / "decoded-test.jsonl")) == 4
    refused = run("avhubert-ext", "model", "average", files[0], target)
    assert refused.returncode == 1 and "at least two checkpoints" in refused.stdout


def test_validate_and_training_batch_in_the_printed_conditions(
    teacher_data: Path, noise: Path, tmp_path: Path
) -> None:
    run_well(
        "fairseq-train", teacher_data, "--user-dir", "fairseq_user_dir", "--save-dir", tmp_path,
        "--task", "av_asr", "--arch", "av_asr_seq2seq", "--encoder", "student-tiny-3",
        "--decoder", "tiny", "--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam",
        "--lr", "1e-3", "--max-update", 1, "--max-tokens", 150, "--update-freq", 2,
        "--num-workers", 0, "--cpu", "--disable-validation", **ONE_THREAD,
    )  # fmt: skip
    model = tmp_path / "checkpoint_last.pt"
    printed = run_well(
        "fairseq-validate", teacher_data, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--path", model, "--valid-subset", "test", "--cpu", "--num-workers", 0, "--max-tokens", 99,
        "--criterion", "label_smoothed_cross_entropy", **ONE_THREAD,
    )  # fmt: skip
    assert re.search(r"test \| valid on 'test' subset \| loss [\d.]+ ", printed)
    command = generate(teacher_data, model, tmp_path)
    place = command.index("--post-process")  # without it fairseq's own scorer would count subwords
    del command[place : place + 2]
    run_well(*command, **ONE_THREAD)
    rate, details = WER.search((tmp_path / "generate-test.txt").read_text()).groups()
    batch = "150 frames x 2 batches x 1 processes = 300 frames"
    assert details.endswith(f"trained with {batch}")
    decoded = read_decoded(tmp_path / "decoded-test.jsonl")
    expected = 100 * sum(d.edits for d in decoded) / sum(d.words for d in decoded)
    assert float(rate) == pytest.approx(expected, abs=0.005)

    # A conversion keeps the effective batch size and the subwords.
    converted = tmp_path / "model.safetensors"
    run_well("avhubert-ext", "model", "convert", model, converted)
    assert read_origin(converted) == read_origin(model)
    symbols = [line.split()[0] for line in (teacher_data / "dict.wrd.txt").read_text().splitlines()]
    assert read_origin(model)["subwords"].split("\n") == [*SPECIAL_SYMBOLS, *symbols]
    assert (
        read_origin(model)["trained_with"] == batch and len(read_origin(model)["dictionary"]) == 64
    )


def test_validate_a_file_that_no_training_wrote(teacher_data: Path, tmp_path: Path) -> None:
    printed = run_well(
        "fairseq-validate", teacher_data, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--path", TEACHER / "model.safetensors", "--valid-subset", "test", "--cpu",
        "--num-workers", 0, "--max-tokens", 99, **ONE_THREAD,
    )  # fmt: skip
    loss = float(re.search(r"valid on 'test' subset \| loss ([\d.]+) ", printed)[1])
    assert loss < 1, "the shipped teacher knows this task"
