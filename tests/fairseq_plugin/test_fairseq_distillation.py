"""Distillation with fairseq's stock commands."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run, run_well
from fairseq.criterions import FairseqCriterion
from fairseq.utils import import_user_module
from omegaconf import OmegaConf

from avhubert_ext.checkpoints.description import build
from avhubert_ext.checkpoints.model_file import load_avhubert, load_model, save_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.data.dataset import collate
from avhubert_ext.errors import InputError
from avhubert_ext.models.encoder import AVHubertEncoder, EncoderConfig
from avhubert_ext.models.presets import TEACHERS
from avhubert_ext.training.distillation import DistillationConfig, distill_batch
from avhubert_ext.training.losses import distillation_loss

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.base import batch_seed  # noqa: E402
from fairseq_user_dir.models.av_student import AVStudent, AVStudentConfig  # noqa: E402
from fairseq_user_dir.tasks.av_distillation import (  # noqa: E402
    AVDistillationConfig,
    AVDistillationTask,
)

UPDATES = 4
METRIC = "cosine_similarity_12"
# One layer, for tests where the result of the training does not matter.
SHALLOW = json.dumps({"preset": "tiny-7", "encoder": {"layers": 1}})
TWO_PROCESSES = [
    "--distributed-world-size", 2, "--distributed-init-method", "env://", "--distributed-rank", -1,
    "--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp",
]  # fmt: skip
# Threads of several processes on a few cores would wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny teacher."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(0)
    save_model(path, AVHubertEncoder(TEACHERS["tiny"]))
    return path


@pytest.fixture(scope="module")
def settings(manifests: Path, noise: Path, teacher: Path) -> dict[str, Any]:
    """The options of the task, with everything random enabled."""
    return {
        "data": str(manifests), "teacher": str(teacher), "student": "tiny-7",
        "teacher_precision": "float32", "max_frames": 40, "modality_dropout": 0.5,
        "noise_manifests": str(noise / "babble"), "noise_prob": 0.5, "noise_snr": "(0,10)",
        "cache_dir": str(teacher.parent / "cache"),
    }  # fmt: skip


def distil_command(settings: dict[str, Any], save_dir: Path, *options: object) -> list[object]:
    named = [
        word
        for name, value in settings.items()
        if name != "data"
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return [
        "fairseq-train", settings["data"], "--user-dir", "fairseq_user_dir", "--save-dir", save_dir,
        "--task", "av_distillation", "--arch", "av_student", "--criterion", "av_distillation",
        *named, "--optimizer", "adam", "--lr", "1e-3", "--lr-scheduler", "polynomial_decay",
        "--warmup-updates", 1, "--total-num-update", UPDATES, "--max-update", UPDATES,
        "--batch-size", 2, "--update-freq", 2, "--clip-norm", 10, "--num-workers", 0, "--cpu",
        "--seed", 3, "--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", 1,
        *options,
    ]  # fmt: skip


BEST = ("--best-checkpoint-metric", METRIC, "--maximize-best-checkpoint-metric")


@pytest.fixture(scope="module")
def distilled(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The save folder of a run of two epochs, with its output in `log`."""
    folder = tmp_path_factory.mktemp("distilled")
    log = run_well(
        *distil_command(settings, folder, *BEST, "--save-interval-updates", 2), **ONE_THREAD
    )
    (folder / "log").write_text(log)
    return folder


def stored(path: Path) -> dict[str, Any]:
    return read_torch_file(path)


def logged(log: str, kind: str) -> list[dict[str, float]]:
    """The metrics of each line for training updates (`train_inner`) or validations (`valid`)."""
    lines = [line for line in log.splitlines() if f"| {kind} |" in line]
    return [
        {name: float(value) for name, value in re.findall(r"(\w+)[ =](-?[\d.]+(?:e-?\d+)?)", line)}
        for line in lines
    ]


def new_task(settings: dict[str, Any], **changes: Any) -> AVDistillationTask:
    interpolated = {"seed": 3, "train_subset": "train"}
    return AVDistillationTask.setup_task(AVDistillationConfig(**settings | interpolated | changes))


def new_criterion(task: AVDistillationTask) -> FairseqCriterion:
    return task.build_criterion(OmegaConf.create({"_name": "av_distillation"}))


def test_options_are_the_library_s_under_the_same_names_and_defaults() -> None:
    options = {field.name: field.default for field in fields(AVDistillationConfig)}
    library = {f.name: f.default for f in fields(DistillationConfig) if f.name != "teacher"}
    assert library.items() <= options.items() and "teacher" in options


def test_validation_logs_the_mean_over_all_frames(
    distilled: Path, settings: dict[str, Any]
) -> None:
    state = stored(distilled / "checkpoint_last.pt")
    student = build(json.loads(state["cfg"]["model"]["description"]))
    student.load_state_dict({n.removeprefix("student."): t for n, t in state["model"].items()})
    task = new_task(settings)
    task.load_dataset("valid")
    new_criterion(task)
    data = task.datasets["valid"].dataset
    with torch.no_grad():
        loss, terms = distill_batch(
            task.distillation, task.teacher, student.eval(), collate(list(data)), training=False
        )
    last = logged((distilled / "log").read_text(), "valid")[-1]
    for name, value in {"loss": loss, **terms}.items():
        assert last[name] == pytest.approx(value.item(), abs=5e-5), name


def test_the_best_checkpoint_is_that_of_the_chosen_metric(distilled: Path) -> None:
    log = (distilled / "log").read_text()
    scores = {line["num_updates"]: line[METRIC] for line in logged(log, "valid")}
    assert set(scores) == {2, 3, 4}
    best = stored(distilled / "checkpoint_best.pt")
    assert best["optimizer_history"][-1]["num_updates"] == max(scores, key=scores.get)
    assert best["extra_state"]["best"] == pytest.approx(max(scores.values()))
    losses = [line["loss"] for line in logged(log, "train_inner")]
    assert len(losses) == UPDATES and losses[-1] < losses[0]


def test_resumed_in_mid_epoch_equals_uninterrupted(
    distilled: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copyfile(distilled / "checkpoint_1_2.pt", tmp_path / "checkpoint_last.pt")
    log = run_well(*distil_command(settings, tmp_path, *BEST), **ONE_THREAD)
    assert re.search(r"Loaded checkpoint.*@ 2 updates", log)
    straight, resumed = (stored(f / "checkpoint_last.pt") for f in (distilled, tmp_path))
    assert_equal(resumed["model"], straight["model"])
    for moments, expected in zip(moments_of(resumed), moments_of(straight), strict=True):
        assert_equal(moments, expected)


def moments_of(state: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Adam's averages of the gradients and of their squares, for each parameter."""
    averages = state["last_optimizer_state"]["state"].values()
    return [{name: a[name] for name in ("exp_avg", "exp_avg_sq")} for a in averages]


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_a_checkpoint_converts_and_finetunes(
    distilled: Path, manifests: Path, tmp_path: Path
) -> None:
    best = distilled / "checkpoint_best.pt"
    weights = stored(best)["model"]
    parts = {name.split(".")[1] for name in weights if name.startswith("student.")}
    assert parts == {"encoder", "heads"} and all(n.startswith("student.") for n in weights)

    run_well("avhubert-ext", "model", "convert", best, tmp_path / "student.safetensors")
    encoder = load_avhubert(tmp_path / "student.safetensors")
    expected = {
        name.removeprefix("student.encoder."): tensor
        for name, tensor in weights.items()
        if name.startswith("student.encoder.")
    }
    assert_equal(encoder.state_dict(), expected)

    run_well(
        "fairseq-train", manifests, "--user-dir", "fairseq_user_dir", "--save-dir", tmp_path,
        "--task", "av_asr", "--arch", "av_asr_seq2seq", "--encoder-checkpoint", best,
        "--decoder", "tiny", "--criterion", "label_smoothed_cross_entropy", "--optimizer", "sgd",
        "--lr", "0", "--max-update", 1, "--batch-size", 2, "--num-workers", 0, "--cpu",
        "--disable-validation", **ONE_THREAD,
    )  # fmt: skip
    finetuned = load_model(tmp_path / "checkpoint_last.pt").encoder
    parameters = dict(encoder.named_parameters())
    assert_equal(dict(finetuned.named_parameters()), parameters)


def test_two_processes_give_the_gradients_of_one(settings: dict[str, Any], tmp_path: Path) -> None:
    """A batch of 5 and one of 2; noise, dropout and the loss of modalities included.

    Both batches lose their audio here, which leaves its frontend without a gradient.
    """
    options = (
        "--max-update", 1, "--disable-validation", "--clip-norm", 0, "--max-frames", 500,
        "--batch-size", 5, "--seed", 1,
    )  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    command = distil_command(settings, two, *options, "--update-freq", 1, *TWO_PROCESSES)
    two_log = run_well(
        "torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *command, **ONE_THREAD
    )
    one_log = run_well(*distil_command(settings, one, *options), **ONE_THREAD)
    (update,), (expected_update,) = logged(two_log, "train_inner"), logged(one_log, "train_inner")
    assert expected_update["bsz"] == 7
    states = [stored(folder / "checkpoint_last.pt") for folder in (two, one)]
    for name in ("loss", METRIC, "wpb", "bsz", "gnorm"):
        assert update[name] == pytest.approx(expected_update[name], rel=1e-5), name
    # After one update Adam's first average is a tenth of the gradient.
    found, expected = (
        torch.cat([average["exp_avg"].flatten() for average in moments_of(state)])
        for state in states
    )
    assert expected.norm() > 0
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_processes_validate_and_save_the_statistics_of_all(tmp_path: Path) -> None:
    script = tmp_path / "average.py"
    script.write_text(
        "import torch\n"
        "from fairseq_user_dir.base import average_statistics\n"
        "torch.distributed.init_process_group('gloo')\n"
        "rank = torch.distributed.get_rank()\n"
        "norm = torch.nn.BatchNorm1d(2)\n"
        "norm.running_mean += 1 + 2 * rank\n"
        "norm.num_batches_tracked += 5\n"
        "average_statistics(norm)\n"
        "assert norm.running_mean.tolist() == [2.0, 2.0], norm.running_mean\n"
        "assert norm.running_var.tolist() == [1.0, 1.0] and norm.num_batches_tracked == 5\n"
        "print(f'process {rank} agrees')\n"
    )
    printed = run_well(
        "torchrun",
        "--standalone",
        "--nproc_per_node",
        2,
        script,
        **ONE_THREAD,
        PYTHONPATH=str(ROOT),
    )
    assert "process 0 agrees" in printed and "process 1 agrees" in printed


def test_each_batch_and_update_has_draws_of_its_own() -> None:
    keys = [(3, 7, [1, 2]), (4, 7, [1, 2]), (3, 8, [1, 2]), (3, 7, [1, 3]), (3, 7, [12])]
    assert len({batch_seed(*key) for key in keys}) == len(keys)
    assert batch_seed(*keys[0]) == batch_seed(3, 7, [1, 2])


def test_accumulated_batches_give_the_gradient_of_the_mean_over_their_frames(
    settings: dict[str, Any],
) -> None:
    task = new_task(settings, max_frames=500, modality_dropout=0.0)
    task.load_dataset("train")
    criterion = new_criterion(task)
    torch.manual_seed(0)
    model = AVStudent.build_model(AVStudentConfig(), task).eval()
    data = task.datasets["train"]
    samples = [data.collater([data[i] for i in indices]) for indices in ((0, 1, 2), (5,))]
    total = sum(sample["ntokens"] for sample in samples)
    assert total == data.sizes[[0, 1, 2, 5]].sum() and len(set(data.sizes[[0, 1, 2, 5]])) > 1

    batches = [sample["batch"] for sample in samples]
    outputs = [model(b.audio, b.video, b.padding_mask).predictions for b in batches]
    taught = [task.teacher(b.audio, b.video, b.padding_mask) for b in batches]

    def frames(kind: list[dict[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
        """Block -> the valid frames of all batches, [1, N, F]."""
        masks = [~b.padding_mask for b in batches]
        return {
            block: torch.cat([k[block][m] for k, m in zip(kind, masks, strict=True)])[None]
            for block in kind[0]
        }

    mean, _ = distillation_loss(frames(outputs), frames(taught), None)
    expected = torch.autograd.grad(mean, model.parameters())

    found = [torch.zeros_like(gradient) for gradient in expected]
    for sample in samples:
        loss, sample_size, _ = criterion(model, sample)
        assert sample_size == sample["ntokens"]
        for gradient, part in zip(
            found, torch.autograd.grad(loss, model.parameters()), strict=True
        ):
            gradient += part / total
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_weights_and_patience_ends_the_run(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    # The similarity grows but should fall, so only the first validation is the best so far.
    options = ("--bf16", "--best-checkpoint-metric", METRIC, "--patience", 1, "--max-update", 40)
    command = distil_command(
        settings, tmp_path, *options, "--total-num-update", 40, "--save-interval-updates", 2
    )
    log = run_well(*command, **ONE_THREAD)
    assert "early stop since valid performance hasn't improved" in log
    assert len(logged(log, "train_inner")) < 40
    weights = stored(tmp_path / "checkpoint_last.pt")["model"]
    assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}
    weight = weights["student.encoder.post_extract_proj.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


def test_precision_is_that_of_products_only(settings: dict[str, Any]) -> None:
    task = new_task(settings, student=SHALLOW)
    model = AVStudent.build_model(AVStudentConfig(), task).eval()
    audio, video = torch.randn(1, 104, 4), torch.randn(1, 1, 4, 88, 88)
    exact = model(audio, video).predictions[12]
    rounded = model.to(dtype=torch.bfloat16)(audio, video).predictions[12]
    assert exact.dtype is torch.float32 and rounded.dtype is torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.half().precision.dtype is torch.float16


def test_a_loss_that_is_not_finite_ends_the_run_but_not_under_a_loss_scaler(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    options = ("--lr", "1e30", "--clip-norm", 0, "--save-interval-updates", 1, "--student", SHALLOW)
    command = distil_command(settings, tmp_path, *options, "--disable-validation")
    result = run(*command, **ONE_THREAD)
    assert result.returncode != 0
    updates = re.fullmatch(
        r"error: the loss is (?:nan|inf) after (\d) updates: lower the learning rate, .*",
        last_line(result.stdout),
    )[1]
    kept = stored(tmp_path / "checkpoint_last.pt")
    assert kept["optimizer_history"][-1]["num_updates"] == int(updates)

    task = new_task(settings, student=SHALLOW)
    task.load_dataset("train")
    criterion = new_criterion(task)
    model = AVStudent.build_model(AVStudentConfig(), task)
    model.student.heads.shared.bias.data.fill_(torch.nan)
    data = task.datasets["train"]
    sample = data.collater([data[0]])
    optimizer = Namespace(backward=torch.Tensor.backward)
    with pytest.raises(InputError, match="the loss is nan after 3 updates"):
        task.train_step(sample, model, criterion, optimizer, 3)
    loss, _, _ = task.train_step(sample, model.half(), criterion, optimizer, 3)
    assert loss.isnan()


def last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]


def many_lines(manifests: Path, folder: Path, gone: int) -> Path:
    """A copy of the manifests with 120 training utterances. The first `gone` have no video."""
    shutil.copytree(manifests, folder)
    header, *rows = (folder / "train.tsv").read_text().splitlines()
    lines = [row.split("\t") for row in rows * (120 // len(rows))]
    for number, line in enumerate(lines):
        line[0] += f"-{number}"
        if number < gone:
            line[1] = f"{folder}/gone-{number}.mp4"
    (folder / "train.tsv").write_text("\n".join([header, *map("\t".join, lines)]) + "\n")
    return folder


def test_a_corrupt_utterance_is_replaced_and_named_once(
    settings: dict[str, Any], manifests: Path, tmp_path: Path
) -> None:
    data = many_lines(manifests, tmp_path / "data", gone=1)
    small = settings | {"data": data, "max_frames": 2, "student": SHALLOW}
    options = ("--batch-size", 60, "--update-freq", 1, "--disable-validation", "--max-update", 3)
    command = distil_command(small, tmp_path / "out", *options, "--num-workers", 1)
    log = run_well(*command, **ONE_THREAD)
    assert len(logged(log, "train_inner")) == 3  # more than an epoch
    assert log.count("gone-0.mp4") == 1
    assert "replaced by another utterance" in log


def test_files_that_are_gone_end_the_run_with_one_line(
    settings: dict[str, Any], manifests: Path, tmp_path: Path
) -> None:
    data = many_lines(manifests, tmp_path / "data", gone=120)
    result = run(*distil_command(settings | {"data": data}, tmp_path / "out"))
    assert result.returncode != 0
    line = last_line(result.stdout)
    assert line.startswith("error: more than 1% of 120 utterances cannot be read, 2 so far: ")
    assert f"{data}/gone-" in line


def test_long_utterances_are_cut_audio_and_video_in_step(settings: dict[str, Any]) -> None:
    task = new_task(settings, max_frames=13, noise_for="student")
    task.load_dataset("train")
    data = task.datasets["train"]
    assert set(data.sizes) == {13}
    batch = data.collater([data[0], data[1]])["batch"]
    assert batch.audio.shape == batch.clean_audio.shape == (2, 104, 13)
    assert batch.video.shape == (2, 1, 13, 88, 88)
    window = batch.video.clone()
    data.set_epoch(2)
    assert not torch.equal(data.collater([data[0], data[1]])["batch"].video, window)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": None}, "teacher missing"),
        ({"teacher": "nowhere.pt"}, "nowhere.pt not found"),
        ({"targets": "4,13"}, r"blocks \(4, 13\), but its teacher has 12"),
        ({"targets": "four"}, "targets 'four'"),
        ({"student": "2"}, "cannot start from this teacher"),
        ({"student": "8"}, "student preset '8' is unknown"),
        ({"student": '{"preset": "7",'}, "not JSON"),
        ({"student": '{"prefix": "7"}'}, "prefix unknown"),
        ({"noise_for": "teacher"}, "noise_for 'teacher': expected one of both, student"),
        ({"modality_dropout": 1.5}, "modality_dropout 1.5: expected a probability"),
        ({"max_frames": 0}, "max_frames 0"),
        ({"data": "nowhere"}, "nowhere/train.tsv not found"),
        ({"noise_manifests": "nowhere"}, "nowhere/train.tsv not found"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_named_in_one_line(
    settings: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as error:
        task = new_task(settings, **changes)
        task.new_student()
        task.load_dataset("train")
    assert "\n" not in str(error.value)


def test_a_teacher_without_the_target_block(settings: dict[str, Any], tmp_path: Path) -> None:
    shallow = EncoderConfig(layers=4, dim=128, ffn=64, heads=4, visual_width=0.125)
    save_model(tmp_path / "shallow.safetensors", AVHubertEncoder(shallow))
    changed = settings | {"teacher": tmp_path / "shallow.safetensors"}
    result = run(*distil_command(changed, tmp_path / "out"))
    assert result.returncode != 0
    line = last_line(result.stdout)
    assert line.startswith("error: the student learns from teacher blocks (8, 12)")
    assert "has 4" in line
