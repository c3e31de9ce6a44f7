"""`Recognizer` as a Python user meets it: files, arrays, public names, search settings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from portrait import write_clip

import avhubert_ext
from avhubert_ext import InputError, Recognizer, SearchConfig, load, mouth_clips
from avhubert_ext.checkpoints.model_file import load_avhubert_asr, save_model
from avhubert_ext.data.audio import load_audio
from avhubert_ext.data.dataset import AVDataset, DataConfig, collate
from avhubert_ext.data.video import load_video
from avhubert_ext.decoding.attention import beam_search
from avhubert_ext.decoding.beam import BeamConfig, JointConfig
from avhubert_ext.models.conformer import ConformerEncoder
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import build_vsr

TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"

FIVE_LINES = """\
from avhubert_ext import Recognizer

recognizer = Recognizer.from_file("finetuned.safetensors", device="cpu")  # any checkpoint or exported folder
for word in recognizer.transcribe("talk.mp4").words:  # a path, or arrays
    print(word.start, word.text)
"""  # noqa: E501


@pytest.fixture(scope="module")
def talk(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A video with sound, and what is said in it."""
    source = sorted((corpus / "test").glob("*/*.mp4"))[0]
    frames = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in load_video(source)]
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    write_clip(path, frames, audio=load_audio(source.with_suffix(".wav")))
    said = source.with_suffix(".txt").read_text().splitlines()[0]
    return path, said.removeprefix("Text:").strip().lower()


@pytest.fixture(scope="module")
def teacher() -> Recognizer:
    return Recognizer.from_file(TEACHER, device="cpu", threads=1)


@pytest.mark.slow
def test_five_lines(
    talk: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    path, said = talk
    shutil.copy(path, tmp_path)
    shutil.copy(TEACHER, tmp_path / "finetuned.safetensors")
    shutil.copy(TEACHER.with_name("dict.wrd.txt"), tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(FIVE_LINES, {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [word for _, word in lines] == said.split()
    starts = [float(start) for start, _ in lines]
    assert starts == sorted(starts) and starts[-1] > 0


def test_a_path_and_its_arrays_give_the_same(talk: tuple[Path, str], teacher: Recognizer) -> None:
    path, said = talk
    whole = teacher.transcribe(path)
    (clip,) = mouth_clips(path)
    arrays = teacher.transcribe(audio=clip.audio, video=clip.video, seen=clip.seen)
    assert whole.text == arrays.text == said and whole.modality == "both"
    assert [w.text for w in whole.words] == [w.text for w in arrays.words]
    assert whole.seconds == pytest.approx(len(clip.video) / 25)
    assert teacher.recognize(clip.audio, clip.video).text == said


def test_notes_of_a_file_come_first(
    talk: tuple[Path, str], teacher: Recognizer, tmp_path: Path
) -> None:
    shutil.copy(talk[0], tmp_path / "talk.mp4")
    (clip,) = mouth_clips(talk[0])
    silent = tmp_path / "silent.mp4"
    frames = [cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) for frame in clip.video]
    write_clip(silent, frames, audio=None)
    found = teacher.transcribe(str(silent))
    assert found.modality == "video" and "no audio track" in found.notes[0]


def test_what_cannot_be_transcribed(teacher: Recognizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mp4 not found"):
        teacher.transcribe(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match=r"talk\.mp4: .*not both"):
        teacher.transcribe("talk.mp4", audio=np.zeros(640, np.int16))
    with pytest.raises(InputError, match="neither audio nor video"):
        teacher.transcribe()
    with pytest.raises(ValueError, match=r"gone\.safetensors not found"):
        Recognizer.from_file(tmp_path / "gone.safetensors")


@pytest.mark.slow
def test_a_batch_is_its_clips_and_what_the_decoder_s_search_finds(teacher_data: Path) -> None:
    """Fused, with the settings that were given: the whole hypotheses, not the best alone."""
    settings = BeamConfig(beam=3, length_penalty=0.5)
    search = SearchConfig(beam=3, length_penalty=0.5)
    recognizer = Recognizer.from_file(TEACHER, search=search, device="cpu")
    assert recognizer.settings == settings
    dataset = AVDataset(teacher_data, "test", DataConfig())
    batch = collate([dataset[0], dataset[1]])
    found = recognizer.search(batch)
    network = load_avhubert_asr(TEACHER).fuse()
    expected = beam_search(network, batch.audio, batch.video, batch.padding_mask, settings)
    assert found == expected and all(len(hypotheses) == 3 for hypotheses in found)
    for utterance, hypotheses in zip(dataset.utterances, found, strict=False):
        clip = load_audio(utterance.audio), load_video(utterance.video)
        alone = recognizer.recognize(*clip)
        assert alone.text == recognizer.text(hypotheses[0])
        assert alone.score == pytest.approx(hypotheses[0].score, abs=1e-4)


def test_search_settings_by_family() -> None:
    changes = SearchConfig(beam=7)
    assert changes.applied_to(BeamConfig(length_penalty=0.5), "m") == BeamConfig(7, 0.5)
    assert changes.applied_to(JointConfig(), "m") == JointConfig(7)
    assert SearchConfig().applied_to(JointConfig(3), "m") == JointConfig(3)
    with pytest.raises(InputError, match=r"m\.pt: ctc_weight .*no CTC layer.*length_penalty"):
        SearchConfig(ctc_weight=0.1).applied_to(BeamConfig(), "m.pt")
    with pytest.raises(InputError, match=r"m\.pt: length_penalty .*a CTC layer.*ctc_weight"):
        SearchConfig(length_penalty=1.0).applied_to(JointConfig(), "m.pt")
    with pytest.raises(InputError, match="beam 0"):
        SearchConfig(beam=0).applied_to(JointConfig(), "m")


@pytest.mark.slow
def test_the_encoder_of_any_file(tmp_path: Path) -> None:
    encoder = load(TEACHER, device="cpu")
    assert isinstance(encoder, AVHubertEncoder) and not encoder.training
    save_model(tmp_path / "encoder.safetensors", encoder)
    again = load(str(tmp_path / "encoder.safetensors"))
    torch.manual_seed(0)
    save_model(tmp_path / "lips.safetensors", build_vsr("tiny", "video", vocabulary=10))
    assert isinstance(load(tmp_path / "lips.safetensors"), ConformerEncoder)
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name].cpu(), tensor)
    with pytest.raises(InputError, match="device 'gpu'"):
        load(TEACHER, device="gpu")


def test_public_names() -> None:
    assert issubclass(InputError, ValueError)
    assert set(avhubert_ext.__all__) <= set(dir(avhubert_ext))
    for name in avhubert_ext.__all__:
        found = getattr(avhubert_ext, name)
        assert name == "__version__" or found.__doc__, name
    assert (ROOT / "avhubert_ext/py.typed").is_file()


def test_importing_loads_nothing_heavy() -> None:
    """Also where PyTorch is missing."""
    code = (
        "import sys; sys.modules['torch'] = None; import avhubert_ext\n"
        "assert not {'numpy', 'av', 'cv2'} & set(sys.modules)\n"
        "avhubert_ext.Recognizer, avhubert_ext.SearchConfig, avhubert_ext.Transcript\n"
        "avhubert_ext.Word, avhubert_ext.add_noise, avhubert_ext.mouth_clips"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
