"""Training of pruned models with fairseq's stock commands: exact zeros, PARP, rounds."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run, run_well
from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.utils import import_user_module
from omegaconf import OmegaConf
from test_fairseq_training import INTERPOLATED, TWO_PROCESSES
from torch import Tensor, nn

from avhubert_ext.checkpoints.conversion import average, prune
from avhubert_ext.checkpoints.fairseq_file import from_fairseq_names
from avhubert_ext.checkpoints.model_file import load_model, read_masks, save_model
from avhubert_ext.checkpoints.sparse_file import save_masks
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.cli import main
from avhubert_ext.compression import pruning
from avhubert_ext.errors import InputError
from avhubert_ext.models.presets import build_vsr

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.criterions.ctc_attention import CTCAttentionCriterion  # noqa: E402
from fairseq_user_dir.criterions.pruning import PruningCriterion  # noqa: E402
from fairseq_user_dir.models.vsr_ctc_attention import VSRCTCAttention  # noqa: E402
from fairseq_user_dir.sparse import SparseMask, mask_master_copies  # noqa: E402
from fairseq_user_dir.tasks.sparse import (  # noqa: E402
    SparseDistillationConfig,
    SparseDistillationTask,
    SparseVSRConfig,
    SparseVSRTask,
)
from fairseq_user_dir.tasks.vsr import VSRTask, VSRTaskConfig  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
LR = 1e-3
# Four utterances: two epochs with two updates of two batches each.
SHARED = [
    "--train-subset", "valid", "--batch-size", 1, "--update-freq", 2, "--max-epoch", 2,
    "--optimizer", "adam", "--lr", LR, "--lr-scheduler", "fixed", "--weight-decay", 0.1,
    "--clip-norm", 5, "--seed", 3,
    "--num-workers", 0, "--cpu", "--disable-validation", "--save-interval-updates", 1,
    "--log-format", "json", "--log-interval", 1,
]  # fmt: skip


def train(data: Path, folder: Path, *options: object) -> list[object]:
    return [
        "fairseq-train", data, "--user-dir", "fairseq_user_dir", "--save-dir", folder,
        "--task", "vsr_sparse", "--arch", "vsr_ctc_attention", "--network", "tiny",
        "--criterion", "pruning", "--base-criterion", "ctc_attention", *SHARED, *options,
    ]  # fmt: skip


def stored(path: Path) -> dict[str, Any]:
    return read_torch_file(path)


def logged(log: str, kind: str = "train_inner") -> list[dict[str, float]]:
    """The metrics that fairseq logs for each update."""
    lines = re.findall(rf"\| {kind} \| (\{{.*\}})", log)
    return [{name: float(value) for name, value in json.loads(line).items()} for line in lines]


def weights_of(path: Path) -> dict[str, Tensor]:
    """The weights in a file, with the names of the library."""
    if path.suffix == ".safetensors":
        return load_model(path).state_dict()
    found = stored(path)
    return from_fairseq_names(found["model"], found["cfg"]["model"]["_name"])


def assert_pruned(path: Path, sparsity: float) -> pruning.Masks:
    """Check that exactly this fraction of the prunable weights is pruned and zero."""
    masks, weights = read_masks(path), weights_of(path)
    total = sum(mask.numel() for mask in masks.values())
    assert pruning.count_pruned(masks) == round(sparsity * total)
    for name, mask in masks.items():
        assert not weights[name][~mask].any(), name
    assert any(weights[name].any() for name in masks)
    return masks


def assert_equal_checkpoints(one: Path, two: Path) -> None:
    """Check that weights, moments of the optimizer and masks are identical."""
    some, others = stored(one), stored(two)
    for part in ("model", "last_optimizer_state", "extra_state"):
        if part == "extra_state":
            some[part], others[part] = (s[part]["SparseVSRTask"] for s in (some, others))
        assert_equal(some[part], others[part], part)


def assert_equal(some: Any, others: Any, where: str) -> None:
    if isinstance(some, Tensor):
        assert torch.equal(some, others), where
    elif isinstance(some, dict):
        assert some.keys() == others.keys(), where
        for key, value in some.items():
            assert_equal(value, others[key], f"{where}.{key}")
    else:
        assert some == others, where


# ---- pruned weights stay zero


@pytest.fixture(scope="module")
def frozen(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A lip reader trained with half of its weights: the folder and the log."""
    folder = tmp_path_factory.mktemp("frozen")
    return folder, run_well(*train(manifests, folder, "--sparsity", 0.5), **ONE_THREAD)


def test_exactly_half_is_zero_from_the_first_update_to_the_last(frozen: tuple[Path, str]) -> None:
    names = ("checkpoint_1_1.pt", "checkpoint1.pt", "checkpoint_2_3.pt", "checkpoint_last.pt")
    first, *others = (assert_pruned(frozen[0] / name, 0.5) for name in names)
    assert all(pruning.same(first, masks) for masks in others)
    pruning.check_fits(pruning.prunable_weights(load_model(frozen[0] / names[0])), first)
    start, end = (weights_of(frozen[0] / name) for name in (names[0], names[-1]))
    moved = torch.cat([(start[name] != end[name])[mask] for name, mask in first.items()])
    assert moved.float().mean() > 0.9, "kept weights must learn"


def test_sparsity_is_logged(frozen: tuple[Path, str]) -> None:
    updates = logged(frozen[1])
    assert [update["sparsity"] for update in updates] == [0.5] * 4
    assert all("regrown" not in update and update["loss_ctc"] > 0 for update in updates)
    path = frozen[0] / "checkpoint_last.pt"
    kept = pruning.kept_parameters(load_model(path), read_masks(path))
    assert f"sparsity 0.5000 of the prunable weights, {kept:,} parameters kept" in frozen[1]


def test_resumed_is_uninterrupted(
    frozen: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    """Also from a checkpoint of an earlier version, which named the criterion after both parts."""
    begun = stored(frozen[0] / "checkpoint_1_1.pt")
    (entry,) = begun["optimizer_history"]
    assert entry["criterion_name"] == "PruningCriterion"
    entry["criterion_name"] = "PruningCriterionOfCTCAttentionCriterion"
    torch.save(begun, tmp_path / "checkpoint_last.pt")
    log = run_well(*train(manifests, tmp_path, "--sparsity", 0.5), **ONE_THREAD)
    assert re.search(r"Loaded checkpoint.*@ 1 updates", log)
    assert_equal_checkpoints(frozen[0] / "checkpoint_last.pt", tmp_path / "checkpoint_last.pt")


def test_two_processes_are_one_with_accumulated_batches(
    frozen: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    options = ("--sparsity", 0.5, "--update-freq", 1, "--max-update", 1, *TWO_PROCESSES)
    command = train(manifests, tmp_path, *options)
    log = run_well(
        "torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *command, **ONE_THREAD
    )
    masks = assert_pruned(tmp_path / "checkpoint_last.pt", 0.5)
    alone = frozen[0] / "checkpoint_1_1.pt"
    assert pruning.same(masks, read_masks(alone))
    (update,), (expected, *_) = logged(log), logged(frozen[1])
    for name in ("loss", "gnorm", "sparsity"):
        assert update[name] == pytest.approx(expected[name], rel=1e-4), name
    # After one update Adam's first average is a tenth of the gradient.
    gradient, alone_gradient = (
        torch.cat([s["exp_avg"].flatten() for s in states.values()])
        for states in (
            stored(path)["last_optimizer_state"]["state"]
            for path in (tmp_path / "checkpoint_last.pt", alone)
        )
    )
    assert (gradient - alone_gradient).norm() <= 1e-4 * alone_gradient.norm()


def share(rank: int, store: str) -> None:
    """One of two processes with different masks."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    task = SparseMask()
    task.masks = {"a": torch.tensor([True, False, rank == 1]), "b": torch.tensor([rank > 0])}
    task._share(torch.device("cpu"))
    assert {name: mask.tolist() for name, mask in task.masks.items()} == {
        "a": [True, False, False],
        "b": [False],
    }
    assert task.sparsity == 0.75


def test_all_processes_have_the_masks_of_the_first(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        share, (str(tmp_path / "store"),), nprocs=2, start_method="fork"
    )


# ---- average and conversion of the checkpoints


def test_an_average_keeps_the_mask(frozen: tuple[Path, str], tmp_path: Path) -> None:
    paths = [frozen[0] / f"checkpoint{epoch}.pt" for epoch in (1, 2)]
    target = tmp_path / "mean.pt"
    assert main(["model", "average", *map(str, paths), str(target)]) == 0
    masks = assert_pruned(target, 0.5)
    assert pruning.same(masks, read_masks(paths[0]))
    mean, one, two = (weights_of(path) for path in (target, *paths))
    for name in masks:
        torch.testing.assert_close(mean[name], (one[name] + two[name]) / 2)


def test_safetensors_and_back(frozen: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint, small = frozen[0] / "checkpoint_last.pt", tmp_path / "model.safetensors"
    assert main(["model", "convert", str(checkpoint), str(small)]) == 0
    assert main(["model", "convert", str(small), str(tmp_path / "back.pt")]) == 0
    masks, expected = read_masks(checkpoint), weights_of(checkpoint)
    for path in (small, tmp_path / "back.pt"):
        assert pruning.same(assert_pruned(path, 0.5), masks)
        assert_equal(weights_of(path), expected, path.name)
    weights = sum(mask.numel() for mask in masks.values())
    saved = 0.5 * 4 * weights - weights / 8  # a bit for each weight, 4 bytes for half of them
    dense = (tmp_path / "back.pt").stat().st_size - weights / 8
    assert small.stat().st_size == pytest.approx(dense - saved, rel=0.05)


def test_a_second_round_prunes_more_and_nothing_comes_back(
    frozen: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    first, start = frozen[0] / "checkpoint_last.pt", tmp_path / "start.safetensors"
    assert main(["model", "prune", str(first), str(start), "--sparsity", "0.7"]) == 0
    options = ("--mask", start, "--finetune-from-model", start, "--max-update", 2)
    run_well(*train(manifests, tmp_path / "out", *options), **ONE_THREAD)
    masks = assert_pruned(tmp_path / "out/checkpoint_last.pt", 0.7)
    assert pruning.same(masks, read_masks(start))
    before = read_masks(first)
    assert not any((masks[name] & ~before[name]).any() for name in masks)
    # Kept weights start from their old values: Adam moves a weight by its rate per update.
    begun, end = (weights_of(path) for path in (start, tmp_path / "out/checkpoint_last.pt"))
    moves = torch.cat([(end[name] - begun[name])[mask].abs() for name, mask in masks.items()])
    assert 0 < moves.max() < 3 * LR


# ---- PARP


# The rate is high enough to change the order of the weights within four updates.
PARP_LR = 5e-3
PARP = ("--sparsity", 0.2, "--regrow", "--bf16", "--lr", PARP_LR)


@pytest.fixture(scope="module")
def regrown(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """PARP in bfloat16: the folder and the log."""
    folder = tmp_path_factory.mktemp("regrown")
    return folder, run_well(*train(manifests, folder, *PARP), **ONE_THREAD)


def test_pruned_weights_regrow_from_zero_until_the_last_update(regrown: tuple[Path, str]) -> None:
    updates = logged(regrown[1])
    assert [update["sparsity"] for update in updates] == [0.2] * 4
    grown = [update["regrown"] for update in updates]
    assert min(grown) > 0.9
    assert_pruned(regrown[0] / "checkpoint_last.pt", 0.2)

    middle = stored(regrown[0] / "checkpoint_1_1.pt")
    masks = pruning.unpack(middle["extra_state"]["SparseVSRTask"]["masks"], "")
    for name, mask in masks.items():
        # Adam's first step is as large as its rate, so pruned weights grow from zero.
        grown = middle["model"][name][~mask].abs()
        assert not len(grown) or grown.max() <= 1.01 * PARP_LR, name


def test_what_regrows_is_dense_until_it_is_pruned(regrown: tuple[Path, str]) -> None:
    for name in ("checkpoint_1_1.pt", "checkpoint1.pt", "checkpoint_2_3.pt"):
        assert read_masks(regrown[0] / name) == {}
    first, last = (
        stored(regrown[0] / name)["extra_state"]["SparseVSRTask"]["masks"]
        for name in ("checkpoint_1_1.pt", "checkpoint_last.pt")
    )
    assert not pruning.same(pruning.unpack(first, ""), pruning.unpack(last, ""))
    with pytest.raises(InputError, match=r"checkpoint1\.pt: pruned in other places"):
        average([regrown[0] / f"checkpoint{e}.pt" for e in (1, 2)], regrown[0] / "mean.pt")


def test_parp_resumed_is_uninterrupted(
    regrown: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    shutil.copy(regrown[0] / "checkpoint_1_1.pt", tmp_path / "checkpoint_last.pt")
    run_well(*train(manifests, tmp_path, *PARP), **ONE_THREAD)
    assert_equal_checkpoints(regrown[0] / "checkpoint_last.pt", tmp_path / "checkpoint_last.pt")


# ---- the other tasks


def test_a_recognizer_with_label_smoothing_in_bfloat16(teacher_data: Path, tmp_path: Path) -> None:
    """The shipped teacher, pruned by the magnitude of its own weights."""
    base = ("--base-criterion", "label_smoothed_cross_entropy")
    command = [
        "fairseq-train", teacher_data, "--user-dir", "fairseq_user_dir", "--save-dir", tmp_path,
        "--task", "av_asr_sparse", "--arch", "av_asr_seq2seq", "--encoder", "teacher-tiny",
        "--decoder", "tiny", "--finetune-from-model", TEACHER, "--criterion", "pruning", *base,
        "--base-options", '{"label_smoothing": 0.1}', "--sentence-avg", *SHARED, "--bf16",
        "--sparsity", 0.3, "--max-update", 2,
    ]  # fmt: skip
    log = run_well(*command, **ONE_THREAD)
    assert [update["sparsity"] for update in logged(log)] == [0.3] * 2
    assert all(update["nll_loss"] < update["loss"] for update in logged(log))
    masks = assert_pruned(tmp_path / "checkpoint_last.pt", 0.3)
    dense = load_model(TEACHER)
    assert pruning.same(masks, pruning.global_magnitude_mask(dense, 0.3))
    name = "encoder.post_extract_proj.weight"
    weight, before = weights_of(tmp_path / "checkpoint_last.pt")[name], dense.state_dict()[name]
    assert (weight != before)[masks[name]].float().mean() > 0.9


@pytest.fixture(scope="module")
def student(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a student distilled with PARP, which ends after an update."""
    folder = tmp_path_factory.mktemp("student")
    command = [
        "fairseq-train", manifests, "--user-dir", "fairseq_user_dir", "--save-dir", folder,
        "--task", "av_distillation_sparse", "--arch", "av_student", "--teacher", TEACHER,
        "--student", "tiny-7", "--criterion", "pruning", "--base-criterion", "av_distillation",
        *SHARED, "--sparsity", 0.6, "--regrow", "--max-update", 2,
    ]  # fmt: skip
    first, second = logged(run_well(*command, **ONE_THREAD))
    assert first["sparsity"] == 0.6 and min(first["regrown"], second["regrown"]) > 0.9
    return folder / "checkpoint_last.pt"


def test_a_distilled_student(student: Path, tmp_path: Path) -> None:
    """Its heads are pruned, too. An encoder file has neither them nor their masks."""
    weights = {n.removeprefix("student."): t for n, t in stored(student)["model"].items()}
    masks = read_masks(student, whole_student=True)
    total = sum(mask.numel() for mask in masks.values())
    assert pruning.count_pruned(masks) == round(0.6 * total)
    assert not any(weights[name][~mask].any() for name, mask in masks.items())
    assert any(name.startswith("heads.") for name in masks)

    for line in (["convert"], ["prune", "--sparsity", "0.8"]):
        target = tmp_path / f"{line[0]}.safetensors"
        assert main([line[0], str(student), str(target), *line[1:]]) == 0
        found, encoder = read_masks(target), load_model(target)
        pruning.check_fits(pruning.prunable_weights(encoder), found)
        for name, weight in pruning.prunable_weights(encoder).items():
            assert torch.equal(weight, weights[f"encoder.{name}"] * found[name])
            assert not (found[name] & ~masks[f"encoder.{name}"]).any()
    assert pruning.mask_sparsity(found) == pytest.approx(0.8, abs=1e-6)


def test_a_second_round_of_a_student(student: Path, manifests: Path) -> None:
    interpolated = {name: INTERPOLATED[name] for name in ("seed", "train_subset", "update_freq")}
    options = {"teacher": str(TEACHER), "student": "tiny-7", "mask": str(student), "sparsity": 0.7}
    cfg = SparseDistillationConfig(data=str(manifests), **ENDS, **interpolated, **options)
    task = SparseDistillationTask.setup_task(cfg)
    model = task.build_model(OmegaConf.create({"_name": "av_student"}))
    task.begin_epoch(1, model)
    before = read_masks(student, whole_student=True)
    assert task.sparsity == pytest.approx(0.7, abs=1e-6)
    for name, mask in before.items():
        assert not (task.masks[f"student.{name}"] & ~mask).any()


# ---- the task and the criterion by themselves

ENDS = {
    "max_epoch": 2, "max_update": 0, "finetune_from_model": None, "patience": -1,
    "stop_min_lr": -1.0, "log_interval": 1,
}  # fmt: skip


def new_task(data: Path, **changes: Any) -> SparseVSRTask:
    return SparseVSRTask.setup_task(
        SparseVSRConfig(data=str(data), **INTERPOLATED | ENDS | changes)
    )


def new_model(task: VSRTask) -> VSRCTCAttention:
    torch.manual_seed(0)
    return task.build_model(OmegaConf.create({"_name": "vsr_ctc_attention", "network": "tiny"}))


def new_criterion(task: VSRTask, **options: Any) -> FairseqCriterion:
    defaults = {"base_criterion": "ctc_attention", "base_options": "{}", "regrow": False}
    whole = {
        "criterion": {"_name": "pruning"} | defaults | options,
        "optimization": {"sentence_avg": True},
    }
    return task.build_criterion(OmegaConf.create(whole).criterion)


def new_optimizer(model: nn.Module) -> FairseqAdam:
    cfg = FairseqAdamConfig(lr=[LR], weight_decay=0.1, tpu=False)
    return FairseqAdam(OmegaConf.structured(cfg), list(model.parameters()))


def sample_of(task: VSRTask) -> dict[str, Any]:
    task.load_dataset("train")
    dataset = task.datasets["train"]
    return dataset.collater([dataset[0], dataset[1]])


def test_pruned_weights_count_in_no_gradient_norm_and_no_step(manifests: Path) -> None:
    task = new_task(manifests, sparsity=0.6)
    model, sample = new_model(task).train(), sample_of(task)
    criterion, optimizer = new_criterion(task), new_optimizer(model)
    task.begin_epoch(1, model)
    weights, gradients = pruning.prunable_weights(model), {}
    for frozen in (False, True):
        task.frozen = frozen
        optimizer.zero_grad()
        task.train_step(sample, model, criterion, optimizer, 0)
        gradients[frozen] = {n: p.grad.clone() for n, p in model.named_parameters()}
    for name, gradient in gradients[False].items():
        kept = task.masks.get(name, torch.ones(()))
        assert torch.equal(gradients[True][name], gradient * kept), name
    norms = [
        torch.cat([g.flatten() for g in gs.values()]).double().norm() for gs in gradients.values()
    ]
    assert norms[1] < 0.95 * norms[0]
    assert optimizer.clip_grad_norm(1.0) == pytest.approx(float(norms[1]), rel=1e-3)

    # Moments from before the pruning would change the pruned weights.
    for weight in weights.values():
        moments = {name: torch.ones_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.optimizer.state[weight].update(step=1, **moments)
    task.optimizer_step(optimizer, model, 0)
    for name, weight in weights.items():
        assert not weight[~task.masks[name]].any(), name


@pytest.mark.parametrize("flat", [False, True])
def test_the_copies_of_half_precision_are_pruned_too(flat: bool) -> None:
    """--bf16 has one copy per weight, --fp16 a single one with the number of its GPU as key."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    masks = pruning.global_magnitude_mask(model, 0.5)
    parameters = list(model.parameters())
    copies: Any = [p.detach().clone() for p in parameters]
    if flat:
        copies = {0: torch.cat([copy.flatten() for copy in copies])}
    mask_master_copies(Namespace(fp16_params=parameters, fp32_params=copies), model, masks)
    found = copies[0].split([p.numel() for p in parameters]) if flat else copies
    for (name, parameter), copy in zip(model.named_parameters(), found, strict=True):
        expected = parameter * masks[name] if name in masks else parameter
        assert torch.equal(copy.view_as(parameter), expected), name


class FlatCopies:
    """The optimizer of --fp16 on a GPU: each step restores the weights from one flat copy."""

    def __init__(self, model: nn.Module) -> None:
        self.fp16_params = list(model.parameters())
        self.fp32_params = {0: torch.cat([p.detach().flatten() for p in self.fp16_params])}

    def step(self) -> None:
        sizes = [p.numel() for p in self.fp16_params]
        for parameter, copy in zip(self.fp16_params, self.fp32_params[0].split(sizes), strict=True):
            parameter.data.copy_(copy.view_as(parameter))


@pytest.mark.parametrize("regrow", [False, True])
def test_copies_from_before_the_pruning_restore_nothing(manifests: Path, regrow: bool) -> None:
    """fairseq makes them before the first epoch. With PARP, too, weights grow from zero."""
    task = new_task(manifests, sparsity=0.5, max_epoch=0, max_update=9)
    task.regrow, task.batches = regrow, Namespace(epoch=1)
    model = new_model(task)
    optimizer = FlatCopies(model)
    task.begin_epoch(1, model)
    pruned = {name: w.detach().clone() for name, w in pruning.prunable_weights(model).items()}
    task.optimizer_step(optimizer, model, 0)
    for name, weight in pruning.prunable_weights(model).items():
        assert torch.equal(weight, pruned[name]) and not weight[~task.masks[name]].any(), name
    # Later changes by the optimizer are pruned again, with PARP only in the last update.
    optimizer.fp32_params[0] += 1
    task.optimizer_step(optimizer, model, 1)
    zeros = sum(int((w == 0).sum()) for w in pruning.prunable_weights(model).values())
    assert (zeros == 0) == regrow
    optimizer.step()
    assert sum(int((w == 0).sum()) for w in pruning.prunable_weights(model).values()) == zeros
    task.optimizer_step(optimizer, model, 8)
    task.end_update(optimizer, 9)
    for name, weight in pruning.prunable_weights(model).items():
        assert not weight[~task.masks[name]].any(), name


def test_an_optimizer_without_copies_has_none_to_prune() -> None:
    model = nn.Linear(2, 2)
    mask_master_copies(new_optimizer(model), model, pruning.global_magnitude_mask(model, 0.5))


def test_the_last_update_is_seen_from_the_data(manifests: Path) -> None:
    """Not from a count, in which updates that a loss scaler skips would be missing."""
    task = new_task(manifests, max_epoch=2)
    task.load_dataset("train")
    for epoch in (1, 2):
        batches = task.get_batch_iterator(task.datasets["train"], max_sentences=6, epoch=epoch)
        last = []
        for _ in batches.next_epoch_itr():
            last.append(task._is_last(1))
        assert last == [False, epoch == 2]
    task = new_task(manifests, max_epoch=0, max_update=7)
    task.batches = batches
    assert [task._is_last(update) for update in (6, 7, 8)] == [False, True, True]


def test_options_of_the_base_criterion(manifests: Path) -> None:
    task = new_task(manifests, sparsity=0.5)
    criterion = new_criterion(task, base_options='{"label_smoothing": 0.25}', regrow=True)
    assert type(criterion) is PruningCriterion and type(criterion.base) is CTCAttentionCriterion
    assert criterion.base.label_smoothing == 0.25 and task.regrow
    # --ctc-weight, which is the task's, is that of the beam search and of the loss.
    shared = new_criterion(new_task(manifests, sparsity=0.5, ctc_weight=0.3))
    assert (shared.base.ctc_weight, criterion.base.ctc_weight) == (0.3, 0.1)
    # An option that refers to a setting of the whole run.
    assert new_criterion(task, base_criterion="cross_entropy").base.sentence_avg is True
    assert not task.regrow


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_criterion": "magic"}, "base_criterion magic: unknown; choose one of .*ctc_attent"),
        (
            {"base_options": '{"smooth": 1}'},
            r"ctc_attention has no option \['smooth'\]; expected .*ctc_w",
        ),
        ({"base_options": '{"label_smoothing": "much"}'}, "base_options: Value 'much' .* Float"),
        ({"base_options": "0.1"}, "base_options 0.1: expected an object"),
        ({"base_options": '{"label_smoothing": 2}'}, "label_smoothing 2"),
    ],
)
def test_an_invalid_base_criterion(manifests: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_criterion(new_task(manifests), **options)


def test_a_dense_task_is_refused(manifests: Path) -> None:
    task = VSRTask.setup_task(VSRTaskConfig(data=str(manifests), **INTERPOLATED))
    with pytest.raises(InputError, match="is for a pruned model: set --task vsr_sparse"):
        new_criterion(task)


def test_outside_a_training_the_criterion_is_its_base(manifests: Path) -> None:
    """As in fairseq-validate, which builds it from the settings in the checkpoint."""
    task = new_task(manifests, sparsity=0.5)
    criterion = new_criterion(task, regrow=True)
    with torch.no_grad(), metrics.aggregate(new_root=True) as found:
        _, _, log = task.valid_step(sample_of(task), new_model(task), criterion)
        task.reduce_metrics([log], criterion)
    assert found["loss"].avg > 0 and not {"sparsity", "regrown", "pruning_batches"} & found.keys()


# ---- mistakes are reported before the first update


@pytest.fixture(scope="module")
def files(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a pruned one, its mask alone, and damaged or other files."""
    folder = tmp_path_factory.mktemp("files")
    names = ("dense", "half", "mask", "other", "truncated")
    paths = {name: folder / f"{name}.safetensors" for name in names}
    model = new_model(new_task(manifests)).recognizer
    save_model(paths["dense"], model)
    prune(paths["dense"], paths["half"], 0.5)
    save_masks(paths["mask"], read_masks(paths["half"]))
    save_model(folder / "small.safetensors", build_vsr("tiny", vocabulary=9))
    prune(folder / "small.safetensors", paths["other"], 0.5)
    paths["truncated"].write_bytes(paths["half"].read_bytes()[:-100])
    prune(paths["dense"], folder / "half.pt", 0.5)
    paths["truncated_pt"] = folder / "cut.pt"
    paths["truncated_pt"].write_bytes((folder / "half.pt").read_bytes()[:-100])
    paths["gone"] = folder / "gone.safetensors"
    return paths


def begin(data: Path, state: dict[str, Any] | None = None, **options: Any) -> SparseVSRTask:
    """A task at the beginning of its first epoch, resumed from `state` if there is one."""
    regrow = options.pop("regrow", False)
    task = new_task(data, **options)
    task.regrow = regrow
    if state is not None:
        task.set_checkpoint_dict(state)
    task.begin_epoch(1, new_model(task))
    return task


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "what to prune: set --mask or --sparsity"),
        ({"sparsity": 1.0}, r"sparsity 1\.0: expected at least 0 and less than 1"),
        ({"sparsity": -0.1}, r"sparsity -0\.1: expected at least 0"),
        ({"mask": "gone"}, "gone.safetensors not found: correct the path"),
        ({"mask": "truncated"}, "truncated.safetensors: truncated or not safetensors"),
        ({"mask": "truncated_pt"}, "cut.pt: truncated"),
        ({"mask": "dense"}, "dense.safetensors: a dense model; name a pruned model"),
        (
            {"mask": "other"},
            r"other.safetensors: the mask does not fit the model: 2 tensors differ",
        ),
        ({"mask": "mask", "sparsity": 0.3}, r"sparsity 0\.3 is below the present 0\.5000"),
        (
            {"finetune_from_model": "half", "sparsity": 0.3},
            r"sparsity 0\.3 is below the present 0\.5000",
        ),
        ({"finetune_from_model": "dense"}, "what to prune: set --mask or --sparsity"),
        ({"sparsity": 0.5, "regrow": True, "max_epoch": 0}, "set --max-update or --max-epoch"),
        ({"sparsity": 0.5, "regrow": True, "patience": 3}, "--patience and --stop-min-lr"),
        ({"sparsity": 0.5, "regrow": True, "stop_min_lr": 0.0}, "--patience and --stop-min-lr"),
    ],
)
def test_wrong_options(
    manifests: Path, files: dict[str, Path], options: dict[str, Any], said: str
) -> None:
    named = options.keys() & {"mask", "finetune_from_model"}
    options = options | {name: str(files[options[name]]) for name in named}
    with pytest.raises(InputError, match=said) as error:
        begin(manifests, **options)
    assert "\n" not in str(error.value)


def test_a_pruned_model_to_start_from_brings_its_mask(
    manifests: Path, files: dict[str, Path]
) -> None:
    start = str(files["half"])
    half = begin(manifests, finetune_from_model=start)
    assert pruning.same(half.masks, begin(manifests, mask=str(files["mask"])).masks)
    more = begin(manifests, finetune_from_model=start, sparsity=0.7)
    assert more.sparsity == pytest.approx(0.7, abs=1e-6)
    assert all(not (more.masks[name] & ~mask).any() for name, mask in half.masks.items())
    # --mask comes before the mask of the model to start from.
    other = begin(manifests, finetune_from_model=start, mask=str(files["mask"]))
    assert pruning.same(other.masks, half.masks)


def test_a_missing_mask_ends_the_command_with_one_line(manifests: Path, tmp_path: Path) -> None:
    result = run(*train(manifests, tmp_path, "--mask", tmp_path / "gone.pt"), **ONE_THREAD)
    line = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 1
    assert line.startswith(f"error: {tmp_path}/gone.pt not found: correct the path")
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_has_the_masks_that_it_was_begun_with(
    manifests: Path, files: dict[str, Path]
) -> None:
    mask = str(files["mask"])
    begun = begin(manifests, mask=mask)
    state = begun.get_checkpoint_dict()["SparseVSRTask"]
    more = begin(manifests, mask=mask, sparsity=0.7).get_checkpoint_dict()["SparseVSRTask"]
    for options, found in (
        ({"mask": mask}, state),
        ({"sparsity": 0.5}, state),
        ({"finetune_from_model": str(files["half"])}, state),
        ({"mask": mask, "sparsity": 0.7}, more),
    ):
        assert pruning.same(
            begin(manifests, found, **options).masks, pruning.unpack(found["masks"], "")
        )
    other = {name: ~kept for name, kept in begun.masks.items()}
    strange = {"masks": pruning.pack(other), "frozen": True}
    for options, found, said in (
        (
            {"sparsity": 0.6},
            state,
            r"sparsity 0\.6: the checkpoint to resume from has 0\.5000; set",
        ),
        ({"sparsity": 0.50001}, state, r"sparsity 0\.50001: the checkpoint"),
        ({"sparsity": 1.5}, state, r"sparsity 1\.5: expected at least 0"),
        ({"mask": mask}, more, "mask.safetensors: not the mask of the checkpoint to resume from"),
        ({"mask": mask}, strange, "mask.safetensors: not the mask of the checkpoint"),
        ({"mask": mask, "sparsity": 0.5}, strange, "mask.safetensors: not the mask of the check"),
        (
            {"sparsity": 0.5},
            {"masks": state["masks"] | {"sha256": "0"}, "frozen": True},
            "the checkpoint to resume from: its pruning masks are damaged",
        ),
    ):
        with pytest.raises(InputError, match=said):
            begin(manifests, found, **options)
    # After its last update PARP has a mask that is not the given one.
    assert begin(manifests, strange, mask=mask, regrow=True).frozen is False


# ---- PARP where a loss scaler skips the last update


# The error with which fairseq's loss scaler skips an update with --fp16 on a GPU. Here it is for
# the update with the given number.
OVERFLOW = """
import sys, torch
from fairseq.trainer import Trainer
torch.Tensor.cuda = lambda self: self  # the norm of a skipped update
clip, count = Trainer.clip_grad_norm, 0
skipped = sys.argv[1]
del sys.argv[1]
def clip_grad_norm(*args):
    global count
    count += 1
    if count == int(skipped):
        raise OverflowError("setting loss scale to: 64.0")
    return clip(*args)
Trainer.clip_grad_norm = clip_grad_norm
from fairseq_cli.train import cli_main
cli_main()
"""


def test_an_overflow_in_the_last_update_leaves_no_dense_model(
    manifests: Path, tmp_path: Path
) -> None:
    command = train(manifests, tmp_path, *PARP)
    log = run_well("python", "-c", OVERFLOW, 4, *command[1:], **ONE_THREAD, PYTHONPATH=str(ROOT))
    assert "gradient overflow detected" in log and "done training" in log
    last = stored(tmp_path / "checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == 3
    assert last["extra_state"]["SparseVSRTask"]["frozen"]
    assert_pruned(tmp_path / "checkpoint_last.pt", 0.2)


def test_regrowth_is_measured_once_an_interval(
    manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each batch, because it reads all weights."""
    task = new_task(manifests, sparsity=0.5, log_interval=3)
    model, sample = new_model(task).train(), sample_of(task)
    criterion, optimizer = new_criterion(task, regrow=True), new_optimizer(model)
    batches = task.get_batch_iterator(task.datasets["train"], max_sentences=1)
    task.begin_epoch(1, model)
    measured, measure = [], pruning.regrown
    monkeypatch.setattr(pruning, "regrown", lambda *a: measured.append(measure(*a)) or measured[-1])
    shown = []
    for update, _ in zip(range(7), batches.next_epoch_itr(), strict=False):
        logs = [task.train_step(sample, model, criterion, optimizer, update)[2] for _ in range(2)]
        task.optimizer_step(optimizer, model, update)
        with metrics.aggregate(new_root=True) as found:
            task.reduce_metrics(logs, criterion)
        shown.append("regrown" in found)
    assert shown == [False, False, True, False, False, True, False]
    assert len(measured) == 2 and min(measured) > 0.9
