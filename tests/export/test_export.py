"""Exported recognizers: against PyTorch and fairseq-generate, in 8 bits, alone, damaged; times."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, run_well
from networks import VARIANTS, randomize
from test_runtime import MODEL
from torch import Tensor

from avhubert_ext.checkpoints.model_file import load_avhubert_asr, read_masks, save_model
from avhubert_ext.cli import main
from avhubert_ext.compression.pruning import apply_masks, global_magnitude_mask
from avhubert_ext.compression.quantization import quantize
from avhubert_ext.decoding.beam import BeamConfig, JointConfig, SearchConfig
from avhubert_ext.decoding.recognition import Recognition
from avhubert_ext.errors import InputError
from avhubert_ext.evaluation.evaluate import EvaluationConfig, describe_model, load_for
from avhubert_ext.evaluation.hypotheses import read_decoded
from avhubert_ext.export.folder import ExportConfig, export_recognizer, write_graph
from avhubert_ext.export.graphs import Graph, decoder_graph
from avhubert_ext.export.openvino import compress_linear
from avhubert_ext.models.conformer import ConformerConfig, CTCAttentionRecognizer
from avhubert_ext.models.decoder import AVRecognizer, DecoderConfig
from avhubert_ext.recognizers.base import Recognizer
from avhubert_ext.recognizers.pytorch import PyTorchRecognizer
from avhubert_ext.runtime.backends import import_openvino, open_openvino
from avhubert_ext.runtime.folder import file_sha256, open_graph, read_model, write_model

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
    model = randomize(AVRecognizer(encoder, SMALL))
    masks = global_magnitude_mask(model, 0.3)
    apply_masks(model, masks)
    save_model(folder / "small.safetensors", model, masks=masks, codebooks=quantize(model, masks))
    lines = "".join(f"\u2581word{i} 1\n" for i in range(SMALL.vocabulary - 4))
    (folder / "dict.wrd.txt").write_text(lines, encoding="utf-8")
    return folder / "small.safetensors"


def opened(folder: Path, **search: float) -> Recognizer:
    """An exported recognizer on one thread."""
    return Recognizer.from_file(folder, threads=1, search=SearchConfig(**search))


def assert_same(found: Recognition, expected: Recognition) -> None:
    assert found.pieces == expected.pieces and found.tokens == expected.tokens
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)
    for name in ("attention", "ctc"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["both", "audio", "video"])
def test_the_teacher_recognizes_what_it_does_in_pytorch(teacher_onnx, streams):
    audio, video = clip()
    given = (audio if streams != "video" else None, video if streams != "audio" else None)
    recognizer = opened(teacher_onnx, beam=4)
    expected = PyTorchRecognizer(load_avhubert_asr(TEACHER), recognizer.symbols, BeamConfig(4))
    found = recognizer.recognize(*given)
    assert len(found.tokens) > 2
    assert_same(found, expected.recognize(*given))


@pytest.mark.slow
@pytest.mark.fairseq
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


@pytest.mark.slow
def test_a_ctc_attention_recognizer_of_both_streams(tmp_path):
    config = ConformerConfig("both", layers=1, dim=32, ffn=48, heads=4, width=0.125, fusion=24)
    decoder = DecoderConfig(vocabulary=30, layers=1, dim=32, ffn=48, heads=4, padding_idx=None)
    torch.manual_seed(0)
    model = CTCAttentionRecognizer(config, decoder).eval()
    symbols = [f"unit{i}" for i in range(30)]
    export_recognizer(model, symbols, tmp_path / "model", ExportConfig())
    recognizer = opened(tmp_path / "model", beam=6, ctc_weight=0.3)
    assert recognizer.modalities == ("both",)
    expected = PyTorchRecognizer(model, symbols, JointConfig(6, 0.3))
    found = recognizer.recognize(*clip(9))
    assert len(found.tokens) > 2
    assert_same(found, expected.recognize(*clip(9)))
    with pytest.raises(InputError, match="audio alone, the model takes audio and video"):
        recognizer.recognize(clip(9)[0], None)


@pytest.fixture(scope="module")
def small_int8(small: Path, teacher_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "small"
    command = ["export", small, folder, "--int8", "--calibrate", teacher_data]
    assert main([str(word) for word in command]) == 0
    return folder


@pytest.mark.slow
def test_8_bits_are_near_to_float32(small, small_int8):
    model, recognizer = load_avhubert_asr(small), opened(small_int8)
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


@pytest.mark.slow
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
    assert "already exists" in capsys.readouterr().err
    (tmp_path / "file").unlink()
    command = ["export", str(small), str(tmp_path / "out"), "--int8", "--calibrate"]
    assert main([*command, str(tmp_path / "nowhere")]) == 1
    assert "nowhere/train.tsv not found" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="calibration needs int8 and the format onnx"):
        ExportConfig("openvino", int8=True, calibrate=tmp_path)
    with pytest.raises(InputError, match="format 'torch': expected one of onnx, openvino"):
        ExportConfig("torch")


def test_benchmark(small, small_int8, tmp_path, capsys):
    shutil.copytree(small_int8, tmp_path / "small/onnx-int8")
    command = [
        "benchmark", "runtime", "--model", small, "--form", "pytorch fused", "onnx int8",
        "--rounds", 2, "--seconds", 0.2, "--tokens", 3, "--threads", 1, "--folder", tmp_path,
        "--out", tmp_path / "times.json",
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
from avhubert_ext import Recognizer, SearchConfig
folder, clip = sys.argv[1:]
recognizer = Recognizer.from_file(folder, threads=1, search=SearchConfig(beam=3))
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
    here = opened(teacher_onnx, beam=3).recognize(audio, video)
    assert found["tokens"] == list(here.tokens) and found["score"] == here.score


def test_a_damaged_folder_is_named(teacher_onnx, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(teacher_onnx, folder)
    video = folder / "video.onnx"
    video.write_bytes(video.read_bytes()[:-1])
    recognizer = opened(folder, beam=1)
    audio, pixels = clip(3)
    assert recognizer.recognize(audio, None).tokens  # which needs no video
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged; .* export it again"):
        recognizer.recognize(audio, pixels)
    video.unlink()
    with pytest.raises(InputError, match=r"video\.onnx: missing or damaged"):
        recognizer.recognize(None, pixels)

    record = folder / "model.json"
    whole = record.read_text()
    misspelled = whole.replace('"length_penalty": 1.0', '"length_penalty": 1.5')
    assert misspelled != whole
    later = whole.replace('"version": 1', '"version": 2')
    for spoiled in (whole[:100], later, misspelled, "{}", "[]"):
        record.write_text(spoiled)
        with pytest.raises(InputError, match=r"model\.json: damaged, or of another version"):
            opened(folder)
    record.unlink()
    with pytest.raises(InputError, match=r"no model\.json in it; .*avhubert-ext export"):
        opened(folder)


def test_a_graph_that_its_runtime_refuses_is_one_line(teacher_onnx, tmp_path, capfd):
    """Its digest fits: it is not damaged, but was made by somebody."""
    folder = tmp_path / "copy"
    shutil.copytree(teacher_onnx, folder)
    model = read_model(folder)
    for content in (b"", b"no graph", (folder / "audio.onnx").read_bytes()):
        (folder / "video.onnx").write_bytes(content)
        files = model.files | {"video.onnx": file_sha256(folder / "video.onnx")}
        write_model(folder, replace(model, files=files))
        with pytest.raises(InputError, match=r"video\.onnx: the graph failed \(.*\); export"):
            opened(folder).recognize(None, clip(3)[1])
    assert capfd.readouterr().err == ""


def test_a_graph_takes_weights_from_its_own_folder_alone(tmp_path):
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "model").mkdir()
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("input", "projected")]
    node = onnx.helper.make_node("Add", ["input", "w"], ["projected"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    opset = onnx.helper.make_opsetid("", 13)
    content = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    path = tmp_path / "model/audio.onnx"
    path.write_bytes(content.SerializeToString())
    model = replace(MODEL, graphs={"audio": ["projected"]}, files={"audio.onnx": file_sha256(path)})
    with pytest.raises(InputError, match=r"audio\.onnx: the graph failed .*escapes"):
        open_graph(path.parent, model, "audio", 1)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def test_folders_of_the_format_torch_are_refused_unopened(tmp_path):
    """Opening one could run code: torch.export.load unpickles what is in it."""
    marker = tmp_path / "executed"
    files = {}
    for name in ("encoder.pt2", "decoder.pt2"):
        torch.save(Command(marker), tmp_path / name)
        files[name] = file_sha256(tmp_path / name)
    record = asdict(MODEL) | {"format": "torch", "files": files}
    del record["encoder_parameters"]  # which older versions did not write
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"model\.json: .*could run code.*--format onnx"):
        opened(tmp_path)
    assert not marker.exists()
    torch.load(tmp_path / "encoder.pt2", weights_only=False)
    assert marker.exists(), "or the test would not see it"


def test_an_exported_model_knows_its_pruned_parameters(small, small_int8):
    encoder = load_avhubert_asr(small).encoder
    masks = [mask for name, mask in read_masks(small).items() if name.startswith("encoder.")]
    pruned = sum(int((~mask).sum()) for mask in masks)
    kept = sum(p.numel() for p in encoder.parameters()) - pruned
    assert pruned > 1000
    told = []
    for path in (small, small_int8 / "model.json"):
        recognizer = load_for(EvaluationConfig(small.parent), path)
        told.append(describe_model(path, recognizer)["encoder"]["parameters"])
    assert told == [kept, kept]


def test_what_does_not_fit_the_model_is_refused(teacher_onnx):
    recognizer = opened(teacher_onnx)
    audio, video = clip(3)
    with pytest.raises(InputError, match="neither audio nor video"):
        recognizer.recognize(None, None)
    with pytest.raises(InputError, match="expected the mouth region"):
        recognizer.recognize(audio, video[:, :50])
    with pytest.raises(InputError, match="ctc_weight does not apply, the model has no CTC layer"):
        opened(teacher_onnx, ctc_weight=0.1)
    with pytest.raises(InputError, match="beam 0"):
        opened(teacher_onnx, beam=0)
