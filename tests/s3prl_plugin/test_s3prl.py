"""Distillation through s3prl's own `run_pretrain.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from checkout import make_checkout, spoil_installed
from conftest import ROOT, run, run_well
from doc_blocks import play

from avhubert_ext.checkpoints.description import build
from avhubert_ext.checkpoints.model_file import load_avhubert, save_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.data.dataset import AVDataset, DataConfig, collate
from avhubert_ext.data.manifest import read_manifest, write_manifest
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import STUDENTS, TEACHERS, encoder_preset
from s3prl_upstream import run_pretrain
from s3prl_upstream.launch import package_to_run, s3prl_package
from s3prl_upstream.pretrain.distiller_av import configuration
from s3prl_upstream.pretrain.distiller_av.pretrain_expert import UpstreamPretrainExpert
from s3prl_upstream.run_pretrain import rename_finished_states


@pytest.fixture(scope="module")
def setting(manifests: Path, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained tiny teacher and configurations for a few updates."""
    folder = tmp_path_factory.mktemp("distill")
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
                "valid_step": 2,
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
        "modality_dropout": 0.25, "teacher_precision": "float32",
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


def leave_step_2(folder: Path) -> None:
    """Remove the states of other steps."""
    for state in folder.glob("states-*.ckpt"):
        if state.name != "states-2.ckpt":
            state.unlink()


def assert_same_weights(one: dict, two: dict) -> None:
    different = [n for n, t in one["Student"].items() if not torch.equal(t, two["Student"][n])]
    assert different == []


def test_student_learns_and_converts(distilled: Path, tmp_path: Path) -> None:
    target = tmp_path / "student.safetensors"
    run_well("avhubert-ext", "model", "convert", distilled, target)
    encoder = load_avhubert(target)
    assert encoder.config.dim == encoder_preset("student-tiny-7").dim
    state = last_state(distilled)["Student"]
    assert torch.equal(encoder.layer_norm.weight, state["encoder.layer_norm.weight"])
    assert not torch.equal(encoder.layer_norm.weight, torch.ones_like(encoder.layer_norm.weight))


def test_resumed_equals_uninterrupted(setting: Path, distilled: Path) -> None:
    """In a copy of the experiment's folder: the results go to the folder on the command line."""
    out = setting / "resumed"
    before = sorted(path.name for path in distilled.iterdir())
    shutil.copytree(distilled, out)
    leave_step_2(out)
    printed = run_well(*distil_command(setting, out, "-a"))
    assert "Resume from" in printed
    straight, resumed = last_state(distilled), last_state(out)
    assert straight["Step"] == resumed["Step"] == 4
    assert straight["Consumed_Batches"] == resumed["Consumed_Batches"] == 8
    assert_same_weights(straight, resumed)
    assert sorted(path.name for path in distilled.iterdir()) == before


def test_another_experiment_is_gone_on_from_at_its_end(
    setting: Path, distilled: Path, tmp_path: Path
) -> None:
    """`-e FOLDER` skips a truncated state, takes a finished one, and applies `-o`."""
    past = tmp_path / "past"
    past.mkdir()
    line = distil_badly(setting, tmp_path / "out", "-e", past)
    assert line.startswith(f"error: {past}: no states-*.ckpt in it")
    newest = max(distilled.glob("states-*.ckpt"), key=lambda path: path.stat().st_mtime)
    shutil.copy(newest, past / "states-epoch-1.ckpt")
    shutil.copy(distilled / "states-2.ckpt", past / "states-2.ckpt")
    (past / "states-9.ckpt").write_bytes(b"cut")
    options = ("-e", past, "-o", "config.runner.total_steps=5,,config.runner.fp16=False")
    printed = run_well(*distil_command(setting, tmp_path / "out", *options))
    assert (
        f"Resume from {past}/states-4.ckpt" in printed
        and (past / "states-9.ckpt.truncated").exists()
    )
    assert "Training for 5 steps" in printed
    assert last_state(tmp_path / "out")["Step"] == 5


def test_a_truncated_state_is_set_aside(setting: Path, distilled: Path) -> None:
    out = setting / "truncated"
    shutil.copytree(distilled, out)
    whole = (out / "states-2.ckpt").read_bytes()
    (out / "states-3.ckpt").write_bytes(whole[: len(whole) // 2])
    printed = run_well(*distil_command(setting, out, "-a"))
    assert (out / "states-3.ckpt.truncated").is_file() and "states-3.ckpt" in printed
    assert last_state(out)["Step"] == 4


def expert(setting: Path, **changes: object) -> UpstreamPretrainExpert:
    """The expert, built as s3prl's runner does, with changes to the model configuration."""
    datarc = yaml.safe_load((setting / "run.yaml").read_text())["pretrain_expert"]["datarc"]
    model = model_config(setting / "teacher.safetensors") | changes
    return UpstreamPretrainExpert(datarc, model, "cpu")


def test_teachers_and_students_that_do_not_fit_are_refused(setting: Path, tmp_path: Path) -> None:
    shallow = EncoderConfig(layers=4, dim=128, ffn=64, heads=4, visual_width=0.125)
    save_model(tmp_path / "shallow.safetensors", AVHubertEncoder(shallow))
    with pytest.raises(InputError, match=r"blocks \(8, 12\).*has 4"):
        expert(setting, teacher=str(tmp_path / "shallow.safetensors"))
    with pytest.raises(InputError, match=r"nowhere\.safetensors not found"):
        expert(setting, teacher=str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(InputError, match="student preset 'tiny-99' is unknown"):
        expert(setting, student="tiny-99")
    with pytest.raises(InputError, match="the student cannot start from this teacher"):
        expert(setting, student={"preset": "tiny-7", "from_teacher": True})


def test_several_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="one GPU"):
        UpstreamPretrainExpert({}, {}, "cpu", multi_gpu=True)


def distil_badly(setting: Path, out: Path, *options: object, model: Path | None = None) -> str:
    """The last line that a distillation prints before it fails."""
    command = distil_command(setting, out, *options)
    if model is not None:
        command[command.index("-g") + 1] = model
    result = run(*command)
    assert result.returncode != 0, result.stdout[-2000:]
    return result.stdout.strip().splitlines()[-1]


def test_a_missing_key_is_named(setting: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.yaml"
    write_yaml(model, {"student": "tiny-7"})
    line = distil_badly(setting, tmp_path / "out", model=model)
    assert line == f"error: {model}: teacher missing; name the teacher's checkpoint"


def test_an_exploding_loss_ends_the_run(setting: Path, tmp_path: Path) -> None:
    explode = "config.optimizer.lr=1e30,,config.optimizer.warmup_proportion=0.0"
    line = distil_badly(setting, tmp_path / "out", "-o", explode)
    assert line.startswith("error: ") and "lower learning rate" in line
    assert list((tmp_path / "out").glob("states-*.ckpt")) == [], "nothing not finite is kept"


@pytest.mark.parametrize("max_keep", [1, 4])
def test_good_states_outlive_an_explosion(
    setting: Path, distilled: Path, tmp_path: Path, max_keep: int
) -> None:
    """Two states with good weights, then an update that makes them NaN before the next state."""
    good = torch.load(distilled / "states-2.ckpt", weights_only=True)
    torch.save(good, tmp_path / "states-1.ckpt")
    next(iter(good["Optimizer"]["state"].values()))["exp_avg"].fill_(torch.inf)
    good["Config"]["runner"] |= {"save_step": 3, "max_keep": max_keep}
    torch.save(good, tmp_path / "states-2.ckpt")
    line = distil_badly(setting, tmp_path, "-a")
    assert line.startswith("error: the student's weights are no longer finite: if fp16 was on")
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["states-1.ckpt", "states-2.ckpt"]
    assert load_avhubert(tmp_path / "states-1.ckpt").layer_norm.weight.isfinite().all()


def test_a_state_of_a_student_with_another_teacher_is_refused(
    distilled: Path, setting: Path, tmp_path: Path
) -> None:
    state = torch.load(distilled / "states-2.ckpt", weights_only=True)
    wider = replace(TEACHERS["tiny"], dim=64, heads=4, ffn=64)
    save_model(tmp_path / "teacher.safetensors", AVHubertEncoder(wider))
    state["Upstream_Config"]["teacher"] = str(tmp_path / "teacher.safetensors")
    torch.save(state, tmp_path / "states-2.ckpt")
    line = distil_badly(setting, tmp_path, "-a")
    assert line.startswith("error: the state to resume from has another student")
    assert "restore the teacher's file" in line


def large(manifests: Path, folder: Path, broken: int, missing: int = 0) -> Path:
    """The manifests with 120 training utterances, some with a damaged or missing video."""
    shutil.copytree(manifests, folder)
    rows = read_manifest(manifests / "train.tsv")
    rows = [replace(row, id=f"{row.id}-{n}") for n in range(10) for row in rows][:120]
    for number in range(broken + missing):
        video = folder / f"broken{number}.mp4"
        if number < broken:
            video.write_bytes(rows[number].video.read_bytes()[:300])
        rows[number] = replace(rows[number], video=video)
    write_manifest(folder / "train.tsv", rows)
    return folder


def test_a_corrupt_utterance_is_named_once_and_replaced(
    setting: Path, manifests: Path, tmp_path: Path
) -> None:
    data = large(manifests, tmp_path / "data", broken=1)
    printed = run_well(
        *distil_command(
            setting, tmp_path / "out", "-o",
            f"config.pretrain_expert.datarc.data='{data}',,config.runner.n_epochs=2,,"
            "config.pretrain_expert.datarc.train_batch_size=24,,config.runner.log_step=1,,"
            "config.pretrain_expert.datarc.num_workers=1,,"
            "config.pretrain_expert.datarc.max_frames=4,,config.runner.save_step=2",
        )
    )  # fmt: skip
    assert "Training for 2 epochs, which is equivalent to 5 steps" in printed
    assert len(re.findall(r"replaced by another utterance: .*broken0\.mp4", printed)) == 1
    assert last_state(tmp_path / "out")["Consumed_Batches"] == 10


def test_a_manifest_whose_files_are_gone_stops_the_run(
    setting: Path, manifests: Path, tmp_path: Path
) -> None:
    data = large(manifests, tmp_path / "data", broken=0, missing=120)
    line = distil_badly(
        setting, tmp_path / "out", "-o", f"config.pretrain_expert.datarc.data='{data}'"
    )
    assert line.startswith("error: more than 1% of 120 utterances cannot be read")
    assert "not found" in line


def test_per_block_terms_are_logged_and_validation_is_right(
    setting: Path, distilled: Path, manifests: Path, noise: Path
) -> None:
    events = b"".join(path.read_bytes() for path in distilled.glob("events.out.*"))
    kinds = [f"{term}_{block}" for term in ("l1", "cosine_similarity") for block in (8, 12)]
    for name in ("loss", *kinds):
        assert f"distiller_av/valid-{name}".encode() in events
    for name in ("loss", "mean-loss", *kinds):
        assert f"distiller_av/train-{name}".encode() in events
    lines = [json.loads(line) for line in (distilled / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [("valid-loss" in line) for line in lines] == [False, True, False, True]

    state = last_state(distilled)
    student = build(json.loads(state["Student_Description"])).eval()
    student.load_state_dict(state["Student"])
    config = DataConfig(noise=NoiseConfig((noise / "babble",), 0.5, (0, 10)), max_frames=40)
    data = AVDataset(manifests, "valid", config)
    teacher = load_avhubert(setting / "teacher.safetensors")
    similarity = []
    with torch.no_grad():
        for index in range(len(data)):
            one = collate([data[index]])
            target = teacher(one.audio, one.video).hidden_states[12]
            predicted = student(one.audio, one.video).predictions[12]
            similarity.append(F.cosine_similarity(predicted, target, dim=-1)[0])
    expected = torch.cat(similarity).mean().item()
    assert lines[-1]["valid-cosine_similarity_12"] == pytest.approx(expected, abs=1e-4)


def test_states_hold_nothing_but_tensors_and_containers(distilled: Path) -> None:
    """So the stock script of s3prl can resume from them with PyTorch's safety on.

    Nor what belongs to a run and not to the experiment, which s3prl prefers to the command line.
    """
    arguments = vars(last_state(distilled)["Args"])
    assert arguments["upstream"] == "distiller_av"
    assert not {"device", "expdir", "expname", "override"} & arguments.keys()
    code = "import sys, torch; [torch.load(p, weights_only=True) for p in sys.argv[1:]]"
    run_well("python", "-c", code, *distilled.glob("states-*.ckpt"))


# ---- a git checkout of s3prl, with the launcher and without


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `run_pretrain.py` of a checkout."""
    return make_checkout(tmp_path_factory.mktemp("checkout") / "s3prl")


@pytest.fixture(scope="module")
def no_wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the installed s3prl cannot be used."""
    spoiled = spoil_installed(tmp_path_factory.mktemp("spoiled"))
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), spoiled])}


@pytest.fixture
def elsewhere(setting: Path, tmp_path: Path) -> Path:
    """A folder with the configurations that the documentation names, to start its commands in."""
    for name in ("model.yaml", "run.yaml"):
        shutil.copy(setting / name, tmp_path)
    return tmp_path


def test_the_launcher_runs_the_script_of_a_checkout(
    distilled: Path, package: Path, no_wheel: dict[str, str], elsewhere: Path
) -> None:
    """As the documentation says; started, resumed and finished."""
    out = elsewhere / "distill"
    home = {"HOME": str(package.parent.parent), **no_wheel}  # where the block has the checkout
    play(elsewhere, "distill-checkout", **home)
    assert_same_weights(last_state(distilled), last_state(out))
    leave_step_2(out)
    assert "Resume from" in play(elsewhere, "distill-checkout", **home)
    assert_same_weights(last_state(distilled), last_state(out))
    leave_step_2(out)
    # S3PRL may also be the package and a relative path. With -e there need be no -p.
    command = ["python", ROOT / "s3prl_upstream/run_pretrain.py", "-u", "distiller_av"]
    inner = {"S3PRL": os.path.relpath(package, elsewhere), **no_wheel}
    printed = run_well(*command, "-e", out / "states-2.ckpt", cwd=elsewhere, **inner)
    assert "Resume from" in printed and last_state(out)["Step"] == 4
    assert_same_weights(last_state(distilled), last_state(out))


def test_the_stock_script_of_a_checkout_with_a_link(
    distilled: Path, package: Path, no_wheel: dict[str, str], elsewhere: Path
) -> None:
    """As the documentation says: linked, started in `s3prl_upstream/`, resumed and finished."""
    out = elsewhere / "distill"
    play(elsewhere, "distill-link", S3PRL=str(package), **no_wheel)
    assert_same_weights(last_state(distilled), last_state(out))
    command = [
        "python", package / "run_pretrain.py", "-u", "distiller_av", "-n", "x", "-p", out,
        "-g", elsewhere / "model.yaml", "-c", elsewhere / "run.yaml", "--device", "cpu",
    ]  # fmt: skip
    for options in (("-a",), ("-e", out / "states-2.ckpt")):
        leave_step_2(out)
        printed = run_well(*command, *options, cwd=ROOT / "s3prl_upstream", **no_wheel)
        assert "Resume from" in printed and last_state(out)["Step"] == 4
        assert_same_weights(last_state(distilled), last_state(out))
    refused = run(*command, cwd=package, **no_wheel)
    assert "assert len(upstream_dirs) == 1" in refused.stdout, "why it is started elsewhere"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, monkeypatch) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", ROOT):
        monkeypatch.setenv("S3PRL", str(folder))
        with pytest.raises(InputError, match=f"S3PRL={folder}: no s3prl/run_pretrain.py in it"):
            package_to_run()
    monkeypatch.setenv("S3PRL", "")
    assert package_to_run() == s3prl_package()


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-p out", "-u missing: this launcher runs only -u distiller_av"),
        ("-u tera -p out", "-u tera: this launcher runs only -u distiller_av"),
        ("-u distiller_av", "the experiment's folder is missing: name it with -p"),
        ("-u distiller_av -p out -g none.yaml", r"none\.yaml not found: name a configuration"),
        ("-u distiller_av -p out -c none.yaml", r"none\.yaml not found: name a configuration"),
        ("-u distiller_av -p out -c broken.yaml", r"broken\.yaml: not YAML"),
        ("-u distiller_av -p out -c list.yaml", r"list\.yaml: expected a mapping, found list"),
        ("-u distiller_av -p out --device gpu", "--device gpu: .*use --device cpu"),
        ("-u distiller_av -p out -e none", "none not found: -e names a state, or a folder"),
        ("-u distiller_av -p out -e empty", r"empty: no states-\*\.ckpt in it"),
        ("-u distiller_av -p out -e states-3.ckpt", r"states-3\.ckpt: truncated"),
    ],
)
def test_mistakes_in_options_are_told_before_the_start(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("[a, b]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "states-3.ckpt").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run_pretrain.main(arguments.split())
    assert os.getcwd() == str(tmp_path) and not (tmp_path / "out").exists()


class Touch:
    """Creates a file when a pickle of it is loaded without PyTorch's safety."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("options", ["-p out -a", "-p new -e out", "-e out/states-7.ckpt"])
def test_a_state_that_names_code_is_refused(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    torch.save({"Step": 7, "Args": Touch(tmp_path / "run")}, tmp_path / "out/states-7.ckpt")
    torch.save({"Step": 6}, tmp_path / "out/states-6.ckpt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"states-7\.ckpt: refused, .* posix\.mkdir"):
        run_pretrain.main(["-u", "distiller_av", *options.split()])
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_one_line(setting: Path, tmp_path: Path) -> None:
    line = distil_badly(setting, tmp_path / "out", "--device", "cuda")
    assert line.startswith("error: --device cuda: ") and line.endswith("use --device cpu")


@pytest.mark.parametrize(
    ("override", "statement"),
    [
        ("config.runner.total_steps=1", "assert total_steps > self.config['runner']['log_step']"),
        ("config.optimizer.name=none", "name 'get_none' is not defined"),
    ],
)
def test_where_s3prl_stops_is_one_line(
    override: str, statement: str, setting: Path, tmp_path: Path
) -> None:
    line = distil_badly(setting, tmp_path / "out", "-o", override)
    assert line.startswith("error: s3prl stops at `") and statement in line


def test_the_finished_state_is_the_one_to_go_on_from(tmp_path: Path) -> None:
    """s3prl names it after the epoch and would then prefer an older one."""
    torch.save({"Step": 40}, tmp_path / "states-epoch-3.ckpt")
    torch.save({"Step": 30}, tmp_path / "states-30.ckpt")
    rename_finished_states(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["states-30.ckpt", "states-40.ckpt"]


# ---- the shipped configurations


@pytest.mark.parametrize("number", ["1", "2", "3", "4", "5", "6", "7"])
def test_shipped_configurations_of_the_students(number: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("S3PRL_START_FOLDER", str(tmp_path))
    name = "config_model.yaml" if number == "7" else f"config_model_{number}.yaml"
    config = configuration.read_model_config(str(configuration.HERE / name))
    assert config.preset() is STUDENTS[number]
    assert config.teacher == str(tmp_path / "teacher.safetensors")
    assert (config.cosine_weight, config.final_norm, config.modality_dropout) == (1.0, False, 0.0)


def test_shipped_configuration_of_the_run_is_the_papers() -> None:
    run_config = yaml.safe_load((configuration.HERE / "config_runner.yaml").read_text())
    runner, optimizer = run_config["runner"], run_config["optimizer"]
    datarc = run_config["pretrain_expert"]["datarc"]
    assert (runner["total_steps"], runner["gradient_accumulate_steps"]) == (100_000, 6)
    assert (datarc["train_batch_size"], runner["fp16"]) == (4, True)
    assert (optimizer["lr"], optimizer["warmup_proportion"]) == (2e-4, 0.14)
    configuration.check_data_keys(datarc)
    assert configuration.data_config(datarc, augment=True).noise is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": None, "nois": {}}, "datarc of the run configuration: nois unknown"),
        ({"noise": {"manifests": ["a"]}}, "probability missing, snr_db missing"),
        ({"noise": {"for": "teacher"}}, "for: 'teacher': expected one of both, student"),
        ({"noise": {"snr_db": 0}}, r"snr_db 0: expected \[lowest, highest\]"),
        (
            {"noise": {"snr_db": [20, -5]}},
            r"noise at \[20, -5\] dB: expected two numbers, the lower",
        ),
        ({"noise": {"snr_db": ["a", "b"]}}, "dB: expected two numbers"),
        ({"noise": {"probability": 25}}, "noise probability 25: expected 0 to 1"),
        ({"noise": {"manifests": "babble"}}, "manifests 'babble': expected a list of folders"),
        ({"noise": {"manifests": []}}, "noise without a manifest"),
        ({"data": None}, "data None: expected a folder's path"),
        ({"cache_dir": 3}, "cache_dir 3: expected a folder's path"),
        ({"train_batch_size": 0}, "train_batch_size 0: expected a whole number, at least 1"),
        ({"num_workers": "2"}, "num_workers '2': expected a whole number, at least 0"),
    ],
)
def test_run_configurations_that_make_no_sense(changes: dict, message: str) -> None:
    noise = {"manifests": ["a"], "probability": 0.25, "snr_db": [0, 0]}
    datarc = {
        "data": "d", "train_batch_size": 4, "max_frames": 9, "num_workers": 0, "seed": 1,
    }  # fmt: skip
    if "noise" in changes and changes["noise"] != {"manifests": ["a"]}:
        changes = {"noise": {**noise, **changes["noise"]}}
    with pytest.raises(InputError, match=message):
        configuration.check_data_keys({**datarc, **changes})
        configuration.data_config({**datarc, **changes}, augment=True)


def test_noise_for_the_student_alone_keeps_the_clean_audio() -> None:
    noise = {"manifests": ["a", "b"], "probability": 0.5, "snr_db": [-5, 5], "for": "student"}
    datarc = {
        "data": "d", "train_batch_size": 4, "max_frames": 9, "num_workers": 0, "seed": 3,
        "noise": noise,
    }  # fmt: skip
    config = configuration.data_config(datarc, augment=True)
    assert config.keep_clean and config.noise.snr_db == (-5, 5) and config.seed == 3
    both = {**datarc, "noise": {**noise, "for": "both"}}
    assert not configuration.data_config(both, augment=True).keep_clean
