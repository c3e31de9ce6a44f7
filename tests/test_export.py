"""Exported recognisers: against PyTorch and fairseq-generate, in 8 bits, alone, damaged; times."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, readme_examples, run_well
from networks import VARIANTS, randomise
from portrait import write_clip
from torch import Tensor

from avhubert_ext.beam import BeamConfig, JointConfig
from avhubert_ext.cli import main
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.video import load_video
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.hypotheses import read_decoded
from avhubert_ext.export.folder import ExportConfig, export_recognizer, write_graph
from avhubert_ext.export.graphs import Graph, decoder_graph
from avhubert_ext.export.openvino import compress_linear
from avhubert_ext.models.checkpoint import load_avhubert_asr, save_model
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.pruning import apply_masks, global_magnitude_mask
from avhubert_ext.quantization import quantize
from avhubert_ext.recognition import Recognition
from avhubert_ext.runtime import load_exported
from avhubert_ext.runtime.backends import import_openvino, open_openvino, open_torch
from avhubert_ext.transcription.networks import AVHubert, CTCAttention

TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SMALL = DecoderConfig(vocabulary=40, layers=1, dim=24, ffn=32, heads=4)


@pytest.fixture(scope="module")
def teacher_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped teacher as `export` writes it."""
    folder = tmp_path_factory.mktemp("exported") / "teacher"
    assert main(["export", str(TEACHER), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model in 8 bits, student 7's network, with its dictionary beside it."""
    folder = tmp_path_factory.mktemp("small")
    encoder = replace(VARIANTS["conformer-shufflenet"], layers=1)
    model = randomise(AVRecognizer(encoder, SMALL))
    masks = global_magnitude_mask(model, 0.3)
    apply_masks(model, masks)
    save_model(folder / "small.safetensors", model, masks=masks, codebooks=quantize(model, masks))
    lines = "".join(f"\u2581word{i} 1\n" for i in range(SMALL.vocabulary - 4))
    (folder / "dict.wrd.txt").write_text(lines, encoding="utf-8")
    return folder / "small.safetensors"


def assert_same(found: Recognition, expected: Recognition) -> None:
    assert found.pieces == expected.pieces and found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)
    for name in ("attention", "ctc"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_the_teacher_recognises_what_it_does_in_pytorch(teacher_onnx, streams):
    audio, video = clip()
    given = (audio if streams != "video" else None, video if streams != "audio" else None)
    recognizer = load_exported(teacher_onnx, threads=1, beam=4)
    expected = AVHubert(load_avhubert_asr(TEACHER), recognizer.model.symbols, BeamConfig(4))
    found = recognizer.recognize(*given)
    assert len(found.tokens) > 2
    assert_same(found, expected.recognize(*given))


def test_fairseq_generate_finds_the_same(teacher_onnx, teacher_data, tmp_path):
    run_well(
        "fairseq-generate", teacher_data, "--user-dir", "fairseq_user_dir", "--task", "av_asr",
        "--gen-subset", "test", "--path", TEACHER, "--cpu", "--num-workers", 0, "--beam", 3,
        "--max-len-a", 1, "--max-len-b", 0, "--scoring", "wer", "--post-process", "sentencepiece",
        "--results-path", tmp_path / "fairseq", "--max-tokens", 200, **ONE_THREAD,
    )  # fmt: skip
    command = [
        "evaluate", "--data", teacher_data, "--beam", 3, "--threads", 1, "--device", "cpu",
        "--model", "onnx", teacher_onnx, "--out", tmp_path / "ours",
    ]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    expected = {d.id: d for d in read_decoded(tmp_path / "fairseq/decoded-test.jsonl")}
    found = {d.id: d for d in read_decoded(tmp_path / "ours/onnx/clean/pass-0.jsonl")}
    assert found.keys() == expected.keys() and len(found) == 4
    for name, utterance in found.items():
        assert utterance.hypothesis == expected[name].hypothesis
        assert utterance.score == pytest.approx(expected[name].score, abs=1e-4)


def test_the_readme_s_examples_agree(teacher_onnx, corpus, tmp_path, monkeypatch):
    source = sorted((corpus / "test").glob("*/*.mp4"))[0]
    frames = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in load_video(source)]
    write_clip(tmp_path / "talk.mp4", frames, audio=load_audio(source.with_suffix(".wav")))
    shutil.copy(TEACHER, tmp_path / "finetuned.safetensors")
    shutil.copy(TEACHER.with_name("dict.wrd.txt"), tmp_path)
    (tmp_path / "exported").symlink_to(teacher_onnx)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    (in_pytorch,), (exported,) = readme_examples("mouth_clips"), readme_examples("load_exported")
    exec(in_pytorch, names)
    said = source.with_suffix(".txt").read_text().splitlines()[0].removeprefix("Text:").lower()
    assert names["transcript"].text.split() == said.split()
    names |= {"audio": names["clip"].audio, "video": names["clip"].video}
    exec(exported, names)
    assert names["found"].text == names["transcript"].text


def test_a_ctc_attention_recogniser_of_both_streams(tmp_path):
    config = ConformerConfig("both", layers=1, dim=32, ffn=48, heads=4, width=0.125, fusion=24)
    decoder = DecoderConfig(vocabulary=30, layers=1, dim=32, ffn=48, heads=4, padding_idx=None)
    torch.manual_seed(0)
    model = CTCAttentionRecognizer(config, decoder).eval()
    symbols = [f"unit{i}" for i in range(30)]
    export_recognizer(model, symbols, tmp_path / "model", ExportConfig())
    recognizer = load_exported(tmp_path / "model", threads=1, beam=6, ctc_weight=0.3)
    assert recognizer.modalities == ("both",)
    found = recognizer.recognize(*clip(9))
    assert len(found.tokens) > 2
    assert_same(found, CTCAttention(model, symbols, JointConfig(6, 0.3)).recognize(*clip(9)))
    with pytest.raises(InputError, match="audio alone, the model takes audio and video"):
        recognizer.recognize(clip(9)[0], None)


@pytest.fixture(scope="module")
def small_int8(small: Path, teacher_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "small"
    command = ["export", small, folder, "--int8", "--calibrate", teacher_data]
    assert main([str(word) for word in command]) == 0
    return folder


def test_8_bits_are_near_to_float32(small, small_int8):
    model, recognizer = load_avhubert_asr(small), load_exported(small_int8, threads=1)
    assert recognizer.model.precision == "int8"
    assert recognizer.model.symbols[4] == "\u2581word0"
    frames = torch.randn(7, 88, 88), torch.randn(7, 104)
    with torch.no_grad():
        states = model.encoder(frames[1].T[None], frames[0][None, None]).last_hidden_state
        expected = model.decoder.layers[0].encoder_attn.project_memory(model.bridge(states))
    found = recognizer.encode(frames[1].numpy(), frames[0].numpy()).memory
    expected = torch.stack(expected)[None].numpy()
    assert np.square(found - expected).mean() < 0.01 * expected.var()
    operators = {
        name: {node.op_type for node in onnx.load(small_int8 / f"{name}.onnx").graph.node}
        for name in ("audio", "video", "encoder", "decoder")
    }
    assert "QuantizeLinear" in operators["video"]
    for name in ("encoder", "decoder"):
        assert "MatMulInteger" in operators[name]
    assert not {"QuantizeLinear", "MatMulInteger"} & operators["audio"]


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_programs_of_pytorch_compute_the_same(small, tmp_path, int8):
    graph = decoder_graph(load_avhubert_asr(small).decoder)
    with torch.no_grad():
        write_graph(graph, tmp_path / "decoder", ExportConfig("torch", int8), None)
    assert_computes(graph, tmp_path / "decoder.pt2", open_torch, 0.05 if int8 else 1e-5)


def test_openvino_computes_the_same(small, tmp_path):
    openvino = import_openvino()
    graph = decoder_graph(load_avhubert_asr(small).decoder)
    with torch.no_grad():
        write_graph(graph, tmp_path / "decoder", ExportConfig("openvino"), None)
    assert_computes(graph, tmp_path / "decoder.xml", open_openvino, 1e-5)
    model = openvino.Core().read_model(tmp_path / "decoder.xml")
    compress_linear(model)
    openvino.save_model(model, tmp_path / "int8.xml", compress_to_fp16=False)
    assert_computes(graph, tmp_path / "int8.xml", open_openvino, 0.05)
    sizes = [(tmp_path / name).stat().st_size for name in ("decoder.bin", "int8.bin")]
    assert sizes[1] < sizes[0] / 2


def assert_computes(graph: Graph, path: Path, opened: Callable, tolerance: float) -> None:
    """A file of `decoder_graph` gives what the module gives, for any numbers of everything."""
    run = opened(path, list(graph.outputs), 1)
    for rows, past, new, frames in ((1, 0, 5, 9), (3, 4, 1, 1)):
        inputs = {
            "tokens": torch.randint(4, 40, (rows, new)),
            "past": torch.randn(1, 2, rows, 4, past, 6),
            "memory": torch.randn(1, 2, 1, 4, frames, 6),
        }
        found = run({name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            expected = dict(zip(graph.outputs, graph.module(**inputs), strict=True))
        for name, tensor in expected.items():
            assert near(found[name], tensor, tolerance)


def near(found: np.ndarray, expected: Tensor, tolerance: float) -> bool:
    """The difference relative to the greatest value."""
    assert found.shape == tuple(expected.shape)
    return np.abs(found - expected.numpy()).max() <= tolerance * expected.abs().max().item()


def test_nothing_is_overwritten_and_nothing_half_written_stays(small, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["export", str(small), str(tmp_path)]) == 1
    assert "there is something already" in capsys.readouterr().err
    (tmp_path / "file").unlink()
    command = ["export", str(small), str(tmp_path / "out"), "--int8", "--calibrate"]
    assert main([*command, str(tmp_path / "nowhere")]) == 1
    assert "nowhere/train.tsv not found" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="calibration is for 8 bits in the format onnx"):
        ExportConfig("torch", int8=True, calibrate=tmp_path)


def test_benchmark(small, small_int8, tmp_path, capsys):
    shutil.copytree(small_int8, tmp_path / "small/onnx-int8")
    command = [
        "benchmark-runtime", "--model", small, "--form", "pytorch fused", "onnx int8", "--rounds",
        2, "--seconds", 0.2, "--tokens", 3, "--threads", 1, "--folder", tmp_path, "--out",
        tmp_path / "times.json",
    ]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    report = json.loads((tmp_path / "times.json").read_text())
    assert (report["frames"], report["tokens"], report["beam"]) == (5, 3, 10)
    assert [(r["form"], r["threads"]) for r in report["results"]] == [
        ("pytorch fused", 1), ("onnx int8", 1),
    ]  # fmt: skip
    for timing in report["results"]:
        assert timing["real_time_factor"] == pytest.approx(timing["median_seconds"] / 0.2)
        assert timing["encoder_seconds"] > 0 and timing["decoder_seconds"] > 0
    size = sum(file.stat().st_size for file in small_int8.iterdir())
    assert report["results"][1]["megabytes"] == pytest.approx(size / 1e6)
    assert "onnx int8" in capsys.readouterr().out


# ---- the folder


def clip(frames: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """int16 [N], uint8 [T, 96, 96]."""
    rng = np.random.default_rng(0)
    samples = (3000 * rng.standard_normal(frames * 640)).astype(np.int16)
    return samples, rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8)


ALONE = """
import sys, json
for name in ("torch", "fairseq", "s3prl", "scipy", "python_speech_features", "sentencepiece"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from pathlib import Path
from avhubert_ext.runtime import load_exported
folder, clip = sys.argv[1:]
recognizer = load_exported(Path(folder), threads=1, beam=3)
before = sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
arrays = np.load(clip)
found = recognizer.recognize(arrays["audio"], arrays["video"])
print(json.dumps({"before": before, "tokens": found.tokens, "score": found.score}))
"""


def test_it_needs_numpy_and_onnxruntime_alone(teacher_onnx, tmp_path):
    audio, video = clip()
    np.savez(tmp_path / "clip.npz", audio=audio, video=video)
    command = [sys.executable, "-c", ALONE, teacher_onnx, tmp_path / "clip.npz"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert "numpy" in found["before"] and "onnxruntime" not in found["before"]
    here = load_exported(teacher_onnx, threads=1, beam=3).recognize(audio, video)
    assert found["tokens"] == list(here.tokens) and found["score"] == here.score


def test_a_damaged_folder_is_named(teacher_onnx, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(teacher_onnx, folder)
    video = folder / "video.onnx"
    video.write_bytes(video.read_bytes()[:-1])
    recognizer = load_exported(folder, threads=1, beam=1)
    audio, pixels = clip(3)
    assert recognizer.recognize(audio, None).tokens  # which needs no video
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged; .* export it again"):
        recognizer.recognize(audio, pixels)
    video.unlink()
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged"):
        recognizer.recognize(None, pixels)

    record = folder / "model.json"
    whole = record.read_text()
    for spoiled in (whole[:100], whole.replace('"version": 1', '"version": 2'), "{}", "[]"):
        record.write_text(spoiled)
        with pytest.raises(InputError, match=r"model\.json: not whole, or of another version"):
            load_exported(folder)
    record.unlink()
    with pytest.raises(InputError, match=r"no model\.json in it; make it with"):
        load_exported(folder)


def test_what_does_not_fit_the_model_is_refused(teacher_onnx):
    recognizer = load_exported(teacher_onnx, threads=1)
    audio, video = clip(3)
    with pytest.raises(InputError, match="neither audio nor video"):
        recognizer.recognize(None, None)
    with pytest.raises(InputError, match="expected the mouth region"):
        recognizer.recognize(audio, video[:, :50])
    with pytest.raises(InputError, match="no CTC layer"):
        load_exported(teacher_onnx, ctc_weight=0.1)
    with pytest.raises(InputError, match="beam 0"):
        load_exported(teacher_onnx, beam=0)
