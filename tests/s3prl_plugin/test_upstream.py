"""Encoders as s3prl upstreams, from Python and through `run_downstream.py`.

The checks named "as s3prl" are those that s3prl's own tests make of every upstream.
"""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
import yaml
from checkout import make_checkout, spoil_installed
from conftest import ROOT, run, run_well
from networks import VARIANTS, randomize
from s3prl.nn import Featurizer, S3PRLUpstream
from s3prl.upstream.interfaces import Featurizer as RunnersFeaturizer
from s3prl.util.download import get_dir, set_dir
from s3prl.util.pseudo_data import get_pseudo_wavs

from avhubert_ext.checkpoints.model_file import load_avhubert, save_model
from avhubert_ext.data.audio import audio_features, load_audio
from avhubert_ext.data.dataset import AVDataset, DataConfig
from avhubert_ext.data.video import load_video
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder
from s3prl_upstream import run_downstream  # and registers the upstreams
from s3prl_upstream.upstream.avhubert_ext import hubconf
from s3prl_upstream.upstream.avhubert_ext.expert import UpstreamExpert

FOLDER = ROOT / "s3prl_upstream/upstream/avhubert_ext"
NETWORKS = {
    "avhubert_local": VARIANTS["transformer-resnet"],
    "avhubert_student_local": VARIANTS["conformer-shufflenet"],
}
upstreams = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small network with random weights for each upstream."""
    folder = tmp_path_factory.mktemp("upstreams")
    paths = {name: folder / f"{name}.safetensors" for name in NETWORKS}
    for name, config in NETWORKS.items():
        save_model(paths[name], randomize(AVHubertEncoder(config)))
    return paths


def wave(samples: int, seed: int = 1) -> torch.Tensor:
    return 0.2 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def mouth(frames: int, seed: int = 1, size: tuple[int, int] = (96, 96)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, *size), dtype=torch.uint8, generator=generator)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def assert_same_as_alone(expert: UpstreamExpert, clips: list) -> None:
    with torch.no_grad():
        together = expert(clips)
        for row, clip in enumerate(clips):
            alone = expert([clip])
            frames = alone["last_hidden_state"].shape[1]
            assert int((~together["padding_mask"][row]).sum()) == frames
            pairs = zip(together["hidden_states"], alone["hidden_states"], strict=True)
            for state, own in pairs:
                assert_close(state[row, :frames], own[0])
                assert not state[row, frames:].any()


# The output of an upstream


@upstreams
def test_waveforms_give_what_the_encoder_gives(name: str, files: dict[str, Path]) -> None:
    """For int16 samples, computed with the library only."""
    samples = (wave(16000) * 32768).clamp(-32768, 32767).to(torch.int16)
    expert = getattr(hubconf, name)(files[name])
    assert not any(module.training for module in expert.modules())
    found = expert([samples / 32768])
    features = audio_features(samples.numpy(), n_frames=25)
    expected = load_avhubert(files[name])(torch.from_numpy(features.T.copy())[None], None)
    *states, last = found["hidden_states"]
    assert len(states) == NETWORKS[name].layers + 1
    for state, own in zip(states, expected.hidden_states, strict=True):
        assert_close(state, own)
    assert_close(last, expected.last_hidden_state)
    assert found["last_hidden_state"] is last
    assert expert.get_downsample_rates("hidden_states") == 640


@upstreams
def test_files_on_disk_give_what_the_data_set_gives(
    name: str, files: dict[str, Path], manifests: Path
) -> None:
    """A recording, loaded as s3prl's tasks do it, and its video, loaded by the library."""
    dataset = AVDataset(manifests, "test", DataConfig())
    utterance, sample = dataset.utterances[0], dataset[0]
    waveform, rate = torchaudio.load(str(utterance.audio))
    assert rate == 16000 and torch.equal(
        (waveform[0] * 32768).short(), torch.from_numpy(load_audio(utterance.audio))
    )
    clip = (waveform[0], load_video(utterance.video))
    with torch.no_grad():
        found = getattr(hubconf, name)(files[name])([clip])["last_hidden_state"]
        expected = load_avhubert(files[name])(sample.audio[None], sample.video[None])
    assert_close(found, expected.last_hidden_state)


@upstreams
def test_frames_follow_the_video_and_audio_fits_itself(name: str, files: dict[str, Path]) -> None:
    expert = getattr(hubconf, name)(files[name])
    for samples, frames in ((16000, 25), (16001, 26), (16240, 26), (1, 1), (640, 1)):
        assert expert([wave(samples)])["last_hidden_state"].shape[1] == frames
    with torch.no_grad():
        short, long = wave(1500), wave(6000)
        for waveform in (short, long, None):
            assert expert([(waveform, mouth(5))])["last_hidden_state"].shape[1] == 5
        # Audio after the video is ignored, but windows of 25 ms reach 15 ms beyond its end.
        longer = torch.cat([long[: 5 * 640 + 240], wave(2000, seed=2)])
        expected = expert([(long, mouth(5))])["last_hidden_state"]
        assert_close(expert([(longer, mouth(5))])["last_hidden_state"], expected)


@upstreams
def test_pairs_with_and_without_streams_are_the_same_together_and_alone(
    name: str, files: dict[str, Path]
) -> None:
    expert = getattr(hubconf, name)(files[name])
    waves = [wave(n, seed=n) for n in (9000, 16000, 640 * 9 + 100)]
    assert_same_as_alone(expert, [(w, mouth(t)) for w, t in zip(waves, (14, 22, 11), strict=True)])
    mixed = [
        waves[0], (waves[1], mouth(20)), (None, mouth(7)), (waves[2], None), [waves[0], mouth(10)],
    ]  # fmt: skip
    assert_same_as_alone(expert, mixed)


def test_arrays_tensors_and_sizes_are_one(files: dict[str, Path]) -> None:
    """NumPy, views with odd strides, other precisions, mouth regions larger than the crop."""
    expert = hubconf.avhubert_local(files["avhubert_local"])
    waveform, video = wave(3200), mouth(5)
    expected = expert([(waveform, video)])["last_hidden_state"]
    larger = torch.nn.functional.pad(video, (10, 10, 6, 6), value=7)
    flipped_twice = video.numpy()[:, :, ::-1].copy()[:, :, ::-1]
    for clip in (
        (waveform.numpy(), video.numpy()),
        (waveform.double(), larger),
        (np.asarray(waveform)[::-1].copy()[::-1], flipped_twice),
        (waveform.clone().requires_grad_(), video[:, 4:92, 4:92]),
    ):
        assert_close(expert([clip])["last_hidden_state"], expected)
    stacked = torch.stack([waveform, waveform])
    assert expert(stacked)["last_hidden_state"].shape[:2] == (2, 5)


def test_samples_between_int16_steps_are_rounded_as_in_a_file(files: dict[str, Path]) -> None:
    """Values below one step, for example dither, would change digital silence."""
    expert = hubconf.avhubert_local(files["avhubert_local"])
    steps = (wave(3200) * 32768).round() * (torch.arange(3200) < 2000)
    expected = expert([steps / 32768])["last_hidden_state"]
    assert_close(expert([(steps + 0.3) / 32768])["last_hidden_state"], expected)


def test_the_module_decides_on_device_and_precision(files: dict[str, Path]) -> None:
    expert = hubconf.avhubert_local(files["avhubert_local"])
    clips = [wave(4000), (wave(3000), mouth(4))]
    expected = expert(clips)["last_hidden_state"]
    found = expert.double()(clips)["last_hidden_state"]
    assert found.dtype == torch.float64
    assert_close(found.float(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device; the CPU is tested above")
@upstreams
def test_cuda_gives_what_the_cpu_gives(name: str, files: dict[str, Path]) -> None:
    expert = getattr(hubconf, name)(files[name])
    clips = [wave(4000), (wave(3000), mouth(4)), (None, mouth(6))]
    with torch.no_grad():
        expected = expert(clips)["hidden_states"]
        expert.cuda()
        there = [wave(4000).cuda(), (wave(3000).cuda(), mouth(4).cuda()), (None, mouth(6))]
        for found, own in zip(expert(there)["hidden_states"], expected, strict=True):
            assert found.is_cuda
            torch.testing.assert_close(found.cpu(), own, atol=5e-2, rtol=5e-2)  # TF32
        assert_same_as_alone(expert, there[:1] * 2)


def test_hooks_collect_what_they_are_set_on(files: dict[str, Path]) -> None:
    expert = hubconf.avhubert_local(files["avhubert_local"])
    clips = [wave(2000), wave(3000)]
    expected = expert(clips)["hidden_states"]
    expert.add_hook("self.model.encoder.layers[0]", lambda inputs, output: output)
    found = expert(clips)
    assert len(found["hidden_states"]) == 1
    assert_close(found["hidden_states"][0][1], expected[1][1])
    with pytest.raises(InputError, match="own list"):
        expert([*clips, (None, mouth(3))])
    expert.remove_all_hooks()
    assert len(expert(clips)["hidden_states"]) == len(expected)


# s3prl's own checks of upstreams


def pseudo_states(model: S3PRLUpstream, seed: int = 0, **options: float) -> list[torch.Tensor]:
    waves, lengths = get_pseudo_wavs(seed=seed, padded=True, **options)
    return model(waves, lengths)[0]


@upstreams
def test_as_s3prl_deterministic(name: str, files: dict[str, Path]) -> None:
    model = S3PRLUpstream(name, path_or_url=str(files[name])).eval()
    layers = NETWORKS[name].layers + 2
    with torch.no_grad():
        first, second = pseudo_states(model), pseudo_states(model)
        assert all(torch.allclose(a, b) for a, b in zip(first, second, strict=True))
        assert len(first) == len(pseudo_states(model, seed=1)) == layers == model.num_layers
        model.train()
        model.upstream.model.encoder.layerdrop = 0.9
        assert {len(pseudo_states(model, seed=seed)) for seed in range(3)} == {layers}


@upstreams
def test_as_s3prl_forward_and_backward(name: str, files: dict[str, Path]) -> None:
    model = S3PRLUpstream(name, path_or_url=str(files[name])).train()
    for seconds, clips in (((0.05, 0.05), 1), ((0.05, 0.05), 2), ((0.05, 1.0), 3)):
        model.zero_grad()
        with torch.autograd.set_detect_anomaly(True):
            states = pseudo_states(model, min_secs=seconds[0], max_secs=seconds[1], n=clips)
            sum(state.sum() for state in states).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if "extractor_video" not in n}
        assert all(g is not None and g.isfinite().all() for g in grads.values())
        assert sum(g.abs().sum() for g in grads.values()) > 0


@upstreams
def test_gradients_reach_every_weight_from_pairs(name: str, files: dict[str, Path]) -> None:
    expert = getattr(hubconf, name)(files[name]).train()
    found = expert([(wave(3200), mouth(5)), (wave(2000), mouth(4))])["hidden_states"]
    sum((state**2).sum() for state in found).backward()
    assert [n for n, p in expert.named_parameters() if p.grad is None] == []


@upstreams
def test_as_s3prl_padded_waveforms_are_the_same_as_one_by_one(
    name: str, files: dict[str, Path]
) -> None:
    """Whatever the length of the last frame is."""
    model = S3PRLUpstream(name, path_or_url=str(files[name])).eval()
    lengths = torch.tensor([16000, 15999, 9601, 9840, 9841, 4000, 801])
    waves = [wave(int(n), seed=int(n)) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    with torch.no_grad():
        states, frames = model(padded, lengths)
        assert frames[0].tolist() == [-(-int(n) // 640) for n in lengths]
        for row, (waveform, length) in enumerate(zip(waves, lengths, strict=True)):
            alone, own_frames = model(waveform[None], length[None])
            assert own_frames[0] == frames[0][row]
            for state, own in zip(states, alone, strict=True):
                assert_close(state[row, : own.shape[1]], own[0])


@upstreams
def test_as_s3prl_featurizers(name: str, files: dict[str, Path]) -> None:
    model = S3PRLUpstream(name, path_or_url=str(files[name])).eval()
    assert model.downsample_rates == [640] * 4 and model.hidden_sizes == [32] * 4
    waves, lengths = get_pseudo_wavs(padded=True)
    states, frames = model(waves, lengths)
    for selection, normalize in ((None, False), ([0, 3], True)):
        featurizer = Featurizer(model, layer_selections=selection, normalize=normalize)
        assert (featurizer.output_size, featurizer.downsample_rate) == (32, 640)
        features, own_frames = featurizer(states, frames)
        assert features.shape == states[0].shape and torch.equal(own_frames, frames[0])
    # That of run_downstream.py, which trains on features without padding.
    for selection in ("hidden_states", "last_hidden_state"):
        featurizer = RunnersFeaturizer(model.upstream, selection, upstream_device="cpu")
        assert (featurizer.output_dim, featurizer.downsample_rate) == (32, 640)
        listed = [waveform[:n] for waveform, n in zip(waves, lengths, strict=True)]
        features = featurizer(listed, model.upstream(listed))
        assert [len(f) for f in features] == [round(int(n) / 640) for n in lengths]


# Refusals


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ([], ["empty list", "at least one"]),
        ({"audio": wave(640)}, ["dict", "expected a list"]),
        ([wave(640), wave(640).short()], ["clip 1", "int16", "32768"]),
        ([wave(640) * 32768], ["clip 0", "waveform reaches", "32768"]),
        ([wave(640).index_fill(0, torch.tensor([3]), torch.nan)], ["clip 0", "NaN", "[-1, 1]"]),
        ([torch.full([640], -torch.inf)], ["clip 0", "infinite"]),
        ([wave(640)[None]], ["[1, 640]", "expected [samples]"]),
        ([wave(0)], ["[0]", "at least one"]),
        ([[0.1, 0.2, 0.3]], ["clip 0", "list", "pair (waveform, video)"]),
        ([("a.wav", mouth(2))], ["clip 0", "str", "tensor"]),
        ((wave(640), mouth(2)), ["clip 1", "uint8", "pair (waveform, video)"]),
        ([(None, None)], ["clip 0", "neither", "at least one"]),
        ([(wave(640), mouth(2).float())], ["video is float64", "uint8"]),
        ([(wave(640), mouth(2)[None])], ["[1, 2, 96, 96]", "[T, H, W]"]),
        ([(None, mouth(0))], ["[0, 96, 96]", "at least one"]),
        ([(None, mouth(2, size=(96, 87)))], ["[2, 96, 87]", "88x88"]),
        ([wave(640), (wave(32000), mouth(60))], ["clip 1: 60 frames are 2.40 s", "audio is 2.00"]),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    clips: object, words: list[str], files: dict[str, Path]
) -> None:
    with pytest.raises(InputError) as error:
        hubconf.avhubert_local(files["avhubert_local"])(clips)
    assert [word for word in words if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_quiet_and_loud_waveforms_are_welcome(files: dict[str, Path]) -> None:
    expert = hubconf.avhubert_local(files["avhubert_local"])
    for waveform in (torch.zeros(3000), wave(3000) * 20, wave(3000) * 1e-6):
        assert expert([waveform])["last_hidden_state"].isfinite().all()


@upstreams
def test_files_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    entry = getattr(hubconf, name)
    with pytest.raises(InputError, match="ckpt is None: name a model's file with -k"):
        entry()
    with pytest.raises(InputError, match=r"nowhere\.safetensors not found"):
        S3PRLUpstream(name, path_or_url=str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "short.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match=r"short\.safetensors: truncated"):
        entry(ckpt=tmp_path / "short.safetensors")
    with pytest.raises(InputError, match=r"model_config config\.yaml: .* leave -g out"):
        entry(ckpt=tmp_path / "short.safetensors", model_config="config.yaml")


# URLs


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """An empty folder as s3prl's cache of downloads."""
    before = get_dir()
    set_dir(tmp_path / "downloads")
    yield tmp_path / "downloads"
    set_dir(before)


@pytest.fixture
def server(tmp_path: Path) -> tuple[str, Path]:
    """A web server on this machine: its address and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()


def test_urls_are_downloaded_once_and_again_on_demand(
    files: dict[str, Path], downloads: Path, server: tuple[str, Path]
) -> None:
    address, folder = server
    url = f"{address}/model.safetensors"
    served = folder / "model.safetensors"
    with pytest.raises(InputError, match=f"{url}: .*refresh=True"):  # a page "not found" came back
        S3PRLUpstream("avhubert_url", path_or_url=url)
    shutil.copy(files["avhubert_local"], served)
    for cached in downloads.iterdir():
        cached.unlink()
    by_url = S3PRLUpstream("avhubert_url", path_or_url=url).eval()
    local = S3PRLUpstream("avhubert_local", path_or_url=str(files["avhubert_local"])).eval()
    for a, b in zip(pseudo_states(by_url), pseudo_states(local), strict=True):
        assert torch.equal(a, b)
    shutil.copy(files["avhubert_student_local"], served)
    assert hubconf.avhubert_url(url).model.config.block == "transformer"
    (cached,) = downloads.glob("*.safetensors")
    two_days_ago = served.stat().st_mtime - 2 * 24 * 3600  # s3prl keeps what is 2 s old
    os.utime(cached, (two_days_ago, two_days_ago))
    assert hubconf.avhubert_student_url(url, refresh=True).model.config.block == "conformer"


def test_urls_of_files_and_addresses_that_are_none(
    files: dict[str, Path], downloads: Path, tmp_path: Path
) -> None:
    path = files["avhubert_student_local"]
    assert hubconf.avhubert_student_url(path.as_uri())([wave(640)])["padding_mask"].shape == (1, 1)
    nowhere = (tmp_path / "nowhere.safetensors").as_uri()
    with pytest.raises(InputError, match=f"{nowhere}: download failed"):
        hubconf.avhubert_url(nowhere)
    for value in (None, str(path)):
        with pytest.raises(InputError, match="expected a URL"):
            hubconf.avhubert_url(value)


# Registration


def test_import_is_instant_and_needs_no_s3prl() -> None:
    code = """
import sys
sys.modules["s3prl"] = None  # as if it were not installed
import s3prl_upstream
assert not {"torch", "numpy"} & sys.modules.keys(), sys.modules.keys()
from avhubert_ext.errors import InputError
from s3prl_upstream.upstream.avhubert_ext.hubconf import avhubert_local
try:
    avhubert_local("model.safetensors")
except InputError as error:
    assert "pip install s3prl" in str(error), error
else:
    raise AssertionError
"""
    run_well("python", "-c", code)


def test_library_and_upstream_before_hub(files: dict[str, Path], tmp_path: Path) -> None:
    """After `import s3prl_upstream`, S3PRLUpstream, the hub and torch.hub have its names."""
    (tmp_path / "hubconf.py").write_text("from s3prl.hub import *\n")  # as s3prl's repository has
    code = f"""
import sys, torch
import avhubert_ext, avhubert_ext.models.student, avhubert_ext.checkpoints.model_file
assert "s3prl" not in sys.modules
import s3prl_upstream
assert "s3prl" not in sys.modules
from s3prl.nn import S3PRLUpstream
from s3prl import hub
names = {hubconf.__all__}
assert set(names) <= set(S3PRLUpstream.available_names())
assert not set(names) & set(S3PRLUpstream.available_names(only_registered_ckpt=True))
path = {str(files["avhubert_local"])!r}
waves = [torch.zeros(1600)]
expected = S3PRLUpstream("avhubert_local", path_or_url=path).eval().upstream(waves)
for upstream in (
    hub.avhubert_local(ckpt=path),
    torch.hub.load({str(tmp_path)!r}, "avhubert_local", source="local", ckpt=path),
    torch.hub.load({str(FOLDER)!r}, "avhubert_student_local", source="local", ckpt=path),
):
    found = upstream(waves)["last_hidden_state"]
    assert torch.equal(found, expected["last_hidden_state"]), upstream
"""
    run_well("python", "-c", code)


def test_hub_before_upstream(files: dict[str, Path]) -> None:
    code = f"""
import torch
from s3prl.nn import S3PRLUpstream
from s3prl import hub
names = {hubconf.__all__}
assert not set(names) & set(vars(hub))
import s3prl_upstream
assert set(names) <= set(S3PRLUpstream.available_names())
path = {str(files["avhubert_student_local"])!r}
found = S3PRLUpstream("avhubert_student_local", path_or_url=path).eval().upstream
expected = hub.avhubert_local(ckpt=path)
waves = [torch.zeros(1600)]
for a, b in zip(found(waves)["hidden_states"], expected(waves)["hidden_states"], strict=True):
    assert torch.equal(a, b)
"""
    run_well("python", "-c", code)


# run_downstream.py


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped configuration of s3prl's example task, for fewer updates and waveforms."""
    config = yaml.safe_load((FOLDER / "example.yaml").read_text())
    config["runner"] |= {"total_steps": 2, "log_step": 1, "eval_step": 2, "save_step": 1}
    config["runner"] |= {"evaluate_ratio": 0.01, "max_keep": 9}
    config["optimizer"] = {"name": "AdamW_with_schedule", "lr": 1e-3}
    path = tmp_path_factory.mktemp("task") / "example.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def downstream_command(path: Path, task: Path, out: Path, *options: object) -> list[object]:
    return [
        "-m", "train", "-u", "avhubert_student_local", "-k", path, "-d", "example", "-c", task,
        "-p", out, "--device", "cpu", *options,
    ]  # fmt: skip


def read_state(path: Path) -> dict:
    return torch.load(path, weights_only=False)  # this test's own: options and schedules in it


def test_downstream_finetunes_resumes_and_evaluates(
    files: dict[str, Path], task: Path, tmp_path: Path
) -> None:
    script = ROOT / "s3prl_upstream/run_downstream.py"
    path, out = files["avhubert_student_local"], tmp_path / "out"
    command = ["python", script, *downstream_command(path, task, out, "-f")]
    run_well(*command, cwd=tmp_path)
    first = read_state(out / "states-1.ckpt")
    weight = first["Upstream"]["model.encoder.layers.0.ffn1.fc1.weight"]
    assert not torch.equal(weight, load_avhubert(path).encoder.layers[0].ffn1.fc1.weight)
    (out / "states-2.ckpt").write_bytes((out / "states-1.ckpt").read_bytes()[:5000])
    printed = run_well(*command, "-a", cwd=tmp_path)
    assert "states-2.ckpt is truncated" in printed
    assert "Resume from" in printed and "states-1.ckpt" in printed
    assert read_state(out / "states-2.ckpt")["Step"] == 2
    evaluate = ("-m", "evaluate", "-e", out / "states-2.ckpt", "--device", "cpu")
    run_well("python", script, *evaluate, cwd=tmp_path)  # s3prl writes to result/ there

    state = bytearray((out / "states-2.ckpt").read_bytes())
    state[len(state) // 2] ^= 1
    (out / "states-2.ckpt").write_bytes(state)
    for options in ((*command[2:], "-a"), evaluate):
        refused = run("python", script, *options, cwd=tmp_path)
        last = refused.stdout.strip().splitlines()[-1]
        assert refused.returncode == 1 and "Traceback" not in refused.stdout
        assert last.startswith(f"error: {out / 'states-2.ckpt'}: damaged")


@pytest.fixture
def package(task: Path, tmp_path: Path) -> Path:
    """The folder with `run_downstream.py` of a checkout, with a configuration for the task."""
    package = make_checkout(tmp_path / "checkout")
    shutil.copy(task, package / "downstream/example/config.yaml")
    return package


def test_the_launcher_runs_the_script_of_a_checkout(
    files: dict[str, Path], package: Path, tmp_path: Path
) -> None:
    """Not the installed one, and with the configuration of the task in the checkout."""
    spoiled = os.pathsep.join([str(ROOT), spoil_installed(tmp_path / "spoiled")])
    out = tmp_path / "out"
    command = [
        "python", ROOT / "s3prl_upstream/run_downstream.py", "-m", "train",
        "-u", "avhubert_student_local", "-k", files["avhubert_student_local"], "-d", "example",
        "-p", out, "--device", "cpu",
    ]  # fmt: skip
    run_well(*command, cwd=tmp_path, S3PRL="checkout", PYTHONPATH=spoiled)
    (out / "states-2.ckpt").unlink()
    printed = run_well(*command, "-a", cwd=tmp_path, S3PRL="checkout/s3prl", PYTHONPATH=spoiled)
    assert "Resume from" in printed and read_state(out / "states-2.ckpt")["Step"] == 2


def test_stock_script_of_a_checkout_sees_the_linked_folder(
    files: dict[str, Path], task: Path, package: Path, tmp_path: Path
) -> None:
    """As described in the folder's docstring, although another s3prl is installed."""
    (package / "upstream/avhubert_ext").symlink_to(FOLDER)
    with (package / "hub.py").open("a") as hub:
        hub.write("from s3prl.upstream.avhubert_ext.hubconf import *\n")
    # Replaces huggingface_hub<1: newer versions do not have two names that the script imports.
    (tmp_path / "old").mkdir()
    (tmp_path / "old/sitecustomize.py").write_text(
        f"import huggingface_hub\nfor name in {run_downstream.REMOVED}:\n"
        "    vars(huggingface_hub).setdefault(name, None)\n"
    )
    search = os.pathsep.join([str(package.parent), str(ROOT), str(tmp_path / "old")])
    out = tmp_path / "out"
    command = [
        "python", "run_downstream.py",
        *downstream_command(files["avhubert_student_local"], task, out),
    ]  # fmt: skip
    run_well(*command, cwd=package, PYTHONPATH=search)
    (out / "states-2.ckpt").unlink()
    resumed = {"PYTHONPATH": search, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    printed = run_well(*command, "-a", cwd=package, **resumed)
    assert "Resume from" in printed and read_state(out / "states-2.ckpt")["Step"] == 2


def test_downstream_mistakes_are_one_line(task: Path, tmp_path: Path) -> None:
    script = ROOT / "s3prl_upstream/run_downstream.py"
    command = ["python", script, *downstream_command(tmp_path / "nowhere.pt", task, tmp_path)]
    result = run(*command)
    assert result.returncode == 1
    line = result.stdout.strip().splitlines()[-1]
    assert line.startswith("error: ") and "nowhere.pt not found" in line
    unknown = ["python", script, *downstream_command(tmp_path, task, tmp_path, "-u", "none")]
    line = run(*unknown).stdout.strip().splitlines()[-1]
    assert line.startswith("error: s3prl stops at `Upstream = getattr(hub, ")
    assert "no attribute 'none'" in line
    for arguments, message in (
        ("-d example", "name the task's configuration with -c"),
        (f"-d none -c {task}", "-d none: s3prl has no such task"),
        (f"-d example -c {tmp_path}/none.yaml", r"none\.yaml not found"),
        (f"-d example -c {task} --device gpu", "--device gpu: .*use --device cpu"),
        ("-e none", "none not found: -e names a state, or a folder"),
        (f"-e {tmp_path}", r"no states-\*\.ckpt in it"),
        (f"-e {task}", "truncated, or not a state of s3prl"),
    ):
        with pytest.raises(InputError, match=message):
            run_downstream.main(["-m", "train", "-p", str(tmp_path), *arguments.split()])
    with pytest.raises(InputError, match="the experiment's folder is missing: name it with -p"):
        run_downstream.main(["-m", "train", "-d", "example", "-c", str(task)])


def test_pushing_needs_the_older_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.delattr(huggingface_hub, "HfFolder", raising=False)
    monkeypatch.delattr(huggingface_hub, "Repository", raising=False)
    options, others = run_downstream.parse(["-m", "train", "--hub", "huggingface"], Path())
    with pytest.raises(InputError, match="HfFolder and Repository, which huggingface_hub"):
        run_downstream.fill_in_removed_names(options)
    options, others = run_downstream.parse(["-m", "train", "-x"], Path())
    run_downstream.fill_in_removed_names(options)
    assert huggingface_hub.HfFolder is None and others == ["-m", "train", "-x"]
