"""Distillation through s3prl's own `run_pretrain.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, run, run_well

from avhubert_ext.models.checkpoint import load_avhubert, save_model
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import TEACHERS, encoder_preset
from avhubert_ext.models.torch_file import read_torch_file


@pytest.fixture(scope="module")
def setting(manifests: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained tiny teacher and configurations for a few updates."""
    folder = tmp_path_factory.mktemp("distil")
    torch.manual_seed(0)
    save_model(folder / "teacher.safetensors", AVHubertEncoder(TEACHERS["tiny"]))
    write_yaml(folder / "model.yaml", model_config(folder / "teacher.safetensors"))
    run_config = {
        "runner": {
            "n_epochs": -1, "total_steps": 4, "gradient_clipping": 10.0,
            "gradient_accumulate_steps": 2, "log_step": 1, "save_step": 2, "max_keep": 4,
            "fp16": False,
        },
        "optimizer": {"name": "AdamW_with_schedule", "lr": 1e-3, "warmup_proportion": 0.25},
        "pretrain_expert": {
            "datarc": {
                "data": str(manifests), "cache_dir": str(folder / "cache"),
                "train_batch_size": 3, "max_frames": 40, "num_workers": 0, "seed": 1,
                "noise": {
                    "manifests": [str(noise / "babble")], "probability": 0.5, "snr_db": [0, 10]
                },
            }
        },
    }  # fmt: skip
    write_yaml(folder / "run.yaml", run_config)
    return folder


def model_config(teacher: Path) -> dict[str, object]:
    return {
        "student": "tiny-7", "teacher": str(teacher), "cosine_weight": 1.0,
        "modality_dropout": 0.25,
    }  # fmt: skip


def write_yaml(path: Path, content: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(content))


def distil_command(setting: Path, out: Path, *options: object) -> list[object]:
    return [
        "python", "s3prl_upstream/run_pretrain.py", "-u", "distiller_av", "-p", out,
        "-g", setting / "model.yaml", "-c", setting / "run.yaml", *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def distilled(setting: Path) -> Path:
    out = setting / "straight"
    run_well(*distil_command(setting, out))
    return out


def last_state(folder: Path) -> dict:
    newest = max(folder.glob("states-*.ckpt"), key=lambda path: path.stat().st_mtime)
    return read_torch_file(newest)


def test_student_learns_and_converts(distilled: Path, tmp_path: Path) -> None:
    target = tmp_path / "student.safetensors"
    run_well("avhubert-ext", "convert", distilled, target)
    encoder = load_avhubert(target)
    assert encoder.config.dim == encoder_preset("student-tiny-7").dim
    state = last_state(distilled)["Student"]
    assert torch.equal(encoder.layer_norm.weight, state["encoder.layer_norm.weight"])
    assert not torch.equal(encoder.layer_norm.weight, torch.ones_like(encoder.layer_norm.weight))


def test_resumed_equals_uninterrupted(setting: Path, distilled: Path) -> None:
    out = setting / "resumed"
    run_well(*distil_command(setting, out))
    for state in out.glob("states-*.ckpt"):
        if state.name != "states-2.ckpt":
            state.unlink()
    printed = run_well(*distil_command(setting, out, "-a"))
    assert "Resume from" in printed
    straight, resumed = last_state(distilled), last_state(out)
    assert straight["Step"] == resumed["Step"] == 4
    assert straight["Consumed_Batches"] == resumed["Consumed_Batches"] == 8
    different = [
        name
        for name, tensor in straight["Student"].items()
        if not torch.equal(tensor, resumed["Student"][name])
    ]
    assert different == []


def test_torn_state_is_set_aside(setting: Path, distilled: Path) -> None:
    out = setting / "torn"
    run_well(*distil_command(setting, out))
    whole = (out / "states-2.ckpt").read_bytes()
    (out / "states-3.ckpt").write_bytes(whole[: len(whole) // 2])
    printed = run_well(*distil_command(setting, out, "-a"))
    assert (out / "states-3.ckpt.torn").is_file() and "states-3.ckpt" in printed
    assert last_state(out)["Step"] == 4


def test_teacher_without_the_target_block_is_refused(setting: Path, tmp_path: Path) -> None:
    shallow = EncoderConfig(layers=4, dim=128, ffn=64, heads=4, visual_width=0.125)
    save_model(tmp_path / "shallow.safetensors", AVHubertEncoder(shallow))
    write_yaml(tmp_path / "model.yaml", model_config(tmp_path / "shallow.safetensors"))
    command = distil_command(setting, tmp_path / "out")
    command[command.index("-g") + 1] = tmp_path / "model.yaml"
    result = run(*command)
    assert result.returncode != 0
    line = result.stdout.strip().splitlines()[-1]
    assert line.startswith("error: ") and "blocks (8, 12)" in line and "has 4" in line


def test_missing_teacher_is_named(setting: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "model.yaml", model_config(tmp_path / "nowhere.safetensors"))
    command = distil_command(setting, tmp_path / "out")
    command[command.index("-g") + 1] = tmp_path / "model.yaml"
    result = run(*command)
    assert result.returncode != 0
    assert "nowhere.safetensors not found" in result.stdout.strip().splitlines()[-1]


def test_several_gpus_are_refused(setting: Path, tmp_path: Path) -> None:
    result = run(*distil_command(setting, tmp_path / "out", "--multi_gpu"))
    assert result.returncode != 0
    assert "one GPU" in result.stdout.strip().splitlines()[-1]


def test_missing_key_and_missing_file_are_named(setting: Path, tmp_path: Path) -> None:
    write_yaml(tmp_path / "model.yaml", {"student": "tiny-7"})
    command = distil_command(setting, tmp_path / "out")
    command[command.index("-g") + 1] = tmp_path / "model.yaml"
    line = run(*command).stdout.strip().splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/model.yaml: teacher, cosine_weight")
    command[command.index("-g") + 1] = tmp_path / "nowhere.yaml"
    result = run(*command)
    assert result.returncode != 0 and "nowhere.yaml" in result.stdout.strip().splitlines()[-1]


def test_the_finished_state_is_the_one_to_go_on_from(setting: Path, tmp_path: Path) -> None:
    """s3prl names it by the epoch and would then prefer an older one."""
    spec = importlib.util.spec_from_file_location(
        "launcher", ROOT / "s3prl_upstream/run_pretrain.py"
    )
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    torch.save({"Step": 40}, tmp_path / "states-epoch-3.ckpt")
    torch.save({"Step": 30}, tmp_path / "states-30.ckpt")
    launcher.rename_finished_states(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["states-30.ckpt", "states-40.ckpt"]
