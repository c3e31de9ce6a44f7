"""A small lip reader learns from a large one through fairseq's stock command lines."""

from __future__ import annotations

import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run_well
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.utils import has_parameters, import_user_module
from omegaconf import OmegaConf
from test_fairseq_vsr import new_task, train
from torch import Tensor

from avhubert_ext import build_vsr, load_auto_avsr
from avhubert_ext.checkpoints.fairseq_file import save_fairseq
from avhubert_ext.checkpoints.model_file import save_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.compression.pruning import apply_masks, global_magnitude_mask
from avhubert_ext.data.text import dictionary_digest
from avhubert_ext.errors import InputError

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.criterions.ctc_attention import CTCAttentionCriterion  # noqa: E402
from fairseq_user_dir.criterions.ctc_attention_distillation import (  # noqa: E402
    CTCAttentionDistillationCriterion,
)
from fairseq_user_dir.criterions.pruning import PruningConfig, PruningCriterion  # noqa: E402
from fairseq_user_dir.models.vsr_ctc_attention import VSRCTCAttention, VSRModelConfig  # noqa: E402
from fairseq_user_dir.tasks.sparse import SparseVSRConfig, SparseVSRTask  # noqa: E402
from fairseq_user_dir.tasks.vsr import VSRTask  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
UPDATES = 4


@pytest.fixture(scope="module")
def teacher(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained lip reader for the subwords of the corpus."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    outputs = new_task(manifests).outputs
    torch.manual_seed(0)
    origin = {"dictionary": dictionary_digest(outputs)}
    save_model(path, build_vsr("tiny", vocabulary=len(outputs)), origin=origin)
    return path


def distill(data: Path, folder: Path, teacher: Path) -> list[object]:
    return [
        *train(data, folder), "--network", "tiny-s", "--criterion", "ctc_attention_distillation",
        "--teacher", teacher, "--distillation-weight", 0.25, "--temperature", 2,
        "--batch-size", 2, "--max-update", UPDATES,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def distilled(
    manifests: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A folder with checkpoints after three and four updates, and the log."""
    folder = tmp_path_factory.mktemp("distilled")
    command = [w for w in distill(manifests, folder, teacher) if w != "--disable-validation"]
    return folder, run_well(*command, **ONE_THREAD)


def new_criterion(
    task: VSRTask, teacher: Path | None, weight: float = 0.5, temperature: float = 1.0
) -> CTCAttentionDistillationCriterion:
    path = None if teacher is None else str(teacher)
    return CTCAttentionDistillationCriterion(task, 0.1, 0.1, path, weight, temperature)


def new_student(task: VSRTask, network: str = "tiny-s") -> VSRCTCAttention:
    torch.manual_seed(1)
    return VSRCTCAttention.build_model(VSRModelConfig(network=network), task)


def batch(task: VSRTask, split: str, *indices: int) -> dict[str, Any]:
    if split not in task.datasets:
        task.load_dataset(split)
    dataset = task.datasets[split]
    return dataset.collater([dataset[index] for index in indices])


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def logged(log: str, key: str) -> list[dict[str, float]]:
    """The metrics of all log lines that contain `key`."""
    lines = [json.loads(line) for line in re.findall(r"\{.*\}", log) if f'"{key}"' in line]
    return [{name: float(value) for name, value in line.items()} for line in lines]


def test_the_log_has_all_parts_of_the_loss(distilled: tuple[Path, str]) -> None:
    """For each update, and for the validations after updates 3 and 4."""
    found = [("", logged(distilled[1], "kl_ctc")), ("valid_", logged(distilled[1], "valid_kl_ctc"))]
    assert [len(lines) for _, lines in found] == [UPDATES, 2]
    for prefix, lines in found:
        for line in lines:
            ctc, attention, kl_ctc, kl_attention = (
                line[prefix + name]
                for name in ("loss_ctc", "loss_attention", "kl_ctc", "kl_attention")
            )
            hard, soft = (0.1 * c + 0.9 * a for c, a in ((ctc, attention), (kl_ctc, kl_attention)))
            expected = 0.75 * hard + 0.25 * 2**2 * soft
            assert line[prefix + "loss"] == pytest.approx(expected, rel=1e-3)
            assert kl_ctc > 0 and kl_attention > 0


def test_the_teacher_is_in_no_checkpoint(distilled: tuple[Path, str], manifests: Path) -> None:
    path = distilled[0] / "checkpoint_last.pt"
    stored = read_torch_file(path)
    student = new_student(new_task(manifests))
    assert stored["model"].keys() == student.state_dict().keys()
    assert stored.get("criterion") is None
    moments = stored["last_optimizer_state"]["state"]
    parameters = list(student.parameters())
    assert [m["exp_avg"].numel() for m in moments.values()] == [p.numel() for p in parameters]
    # The weights and two moments in float32, plus names and statistics.
    size = sum(p.numel() for p in parameters) * 4 * 3
    assert size < path.stat().st_size < 1.3 * size
    assert load_auto_avsr(path).encoder.config == student.recognizer.encoder.config


def test_resumed_is_uninterrupted(
    distilled: tuple[Path, str], manifests: Path, teacher: Path, tmp_path: Path
) -> None:
    shutil.copy(distilled[0] / "checkpoint_1_3.pt", tmp_path / "checkpoint_last.pt")
    log = run_well(*distill(manifests, tmp_path, teacher), **ONE_THREAD)
    assert len(logged(log, "kl_ctc")) == UPDATES - 3
    one, two = (
        read_torch_file(folder / "checkpoint_last.pt")["model"]
        for folder in (distilled[0], tmp_path)
    )
    assert same(one, two)


def test_the_teacher_is_frozen_and_no_part_of_the_criterion(manifests: Path, teacher: Path) -> None:
    task = new_task(manifests, time_mask=True)
    model, criterion = new_student(task).train(), new_criterion(task, teacher).train()
    assert not has_parameters(criterion) and not criterion.state_dict()
    own = criterion.teacher.model
    before, student_before = weights(own), weights(model)
    optimizer = torch.optim.AdamW(model.parameters())
    loss, _, _ = criterion(model, batch(task, "train", 0, 1))
    loss.backward()
    optimizer.step()
    assert same(before, own.state_dict()) and not same(student_before, model.state_dict())
    assert not own.training and not any(p.requires_grad for p in own.parameters())
    # The fused teacher gives the same output as the one in the file.
    inputs = batch(task, "test", 0)["net_input"]
    ctc, logits = load_auto_avsr(teacher)(
        inputs["video"], inputs["padding_mask"], inputs["prev_output_tokens"]
    )
    found = criterion.teacher(inputs, model.precision)
    torch.testing.assert_close(found, (ctc, logits), rtol=1e-4, atol=1e-4)


def test_a_teacher_like_the_student_teaches_nothing(manifests: Path, tmp_path: Path) -> None:
    task = new_task(manifests)
    model = new_student(task).eval()
    save_fairseq(tmp_path / "self.pt", model.recognizer)
    criterion = new_criterion(task, tmp_path / "self.pt", weight=1.0, temperature=2.0)
    sample = batch(task, "test", 0, 1)
    log, hard = (c(model, sample)[2] for c in (criterion, CTCAttentionCriterion(task, 0.1, 0.1)))
    for name in ("loss", "kl_ctc", "kl_attention"):
        assert float(log.pop(name)) == pytest.approx(0, abs=1e-4), name
    del hard["loss"]
    assert log == hard


def test_padding_is_ignored(manifests: Path, teacher: Path) -> None:
    """The loss of a batch is the sum of the losses of its utterances."""
    task = new_task(manifests)
    model, criterion = new_student(task).eval(), new_criterion(task, teacher, temperature=2.0)
    with torch.no_grad():
        together = criterion(model, batch(task, "test", 0, 1))[2]
        apart = [criterion(model, batch(task, "test", index))[2] for index in range(2)]
    for name in criterion.logged:
        parts = sum(float(log[name]) for log in apart)
        assert float(together[name]) == pytest.approx(parts, rel=1e-4), name


def test_the_teacher_computes_in_the_student_s_precision(manifests: Path, teacher: Path) -> None:
    task = new_task(manifests)
    model, criterion = new_student(task).eval(), new_criterion(task, teacher)
    sample = batch(task, "test", 0)
    exact = criterion.teacher(sample["net_input"], model.precision)[1]
    model.to(dtype=torch.bfloat16)
    rounded = criterion.teacher(sample["net_input"], model.precision)[1]
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert 0 < float((rounded - exact).abs().max()) < 0.3
    assert criterion(model, sample)[0].isfinite()


def test_a_pruned_student_learns_from_a_pruned_teacher(manifests: Path, tmp_path: Path) -> None:
    settings = vars(new_task(manifests).cfg)
    task = SparseVSRTask.setup_task(
        SparseVSRConfig(
            **settings, sparsity=0.5, max_epoch=1, max_update=0, finetune_from_model=None
        )
    )
    large = build_vsr("tiny", vocabulary=len(task.outputs))
    masks = global_magnitude_mask(large, 0.8)
    apply_masks(large, masks)
    path = tmp_path / "sparse.safetensors"
    save_model(path, large, masks=masks)
    model = new_student(task).train()
    task.model_name = "vsr_ctc_attention"
    task.begin_epoch(1, model)
    config = PruningConfig(
        base_criterion="ctc_attention_distillation",
        base_options=json.dumps({"teacher": str(path), "temperature": 2.0}),
    )
    criterion = PruningCriterion.build_criterion(OmegaConf.structured(config), task)
    base = criterion.base
    assert isinstance(base, CTCAttentionDistillationCriterion)
    assert (base.distillation_weight, base.temperature) == (0.5, 2.0)
    loss, _, log = criterion(model, batch(task, "train", 0))
    loss.backward()
    assert log["sparsity"] == pytest.approx(0.5, abs=1e-4) and log["kl_ctc"] > 0
    assert same(weights(base.teacher.model), weights(VSRCTCAttention(large.fuse())))


def test_what_does_not_fit_is_refused(
    manifests: Path, teacher_data: Path, teacher: Path, tmp_path: Path
) -> None:
    task = new_task(manifests)
    outputs = len(task.outputs)
    stranger = tmp_path / "stranger.safetensors"
    save_model(
        stranger,
        build_vsr("tiny-s", vocabulary=outputs),
        origin={"dictionary": dictionary_digest(task.outputs[::-1])},
    )
    encoder = ROOT / "scripts/models/tiny-teacher/model.safetensors"
    for data, path, said in (
        (manifests, None, "teacher missing; name its file with --teacher"),
        (manifests, tmp_path / "none.pt", r"none\.pt not found"),
        (manifests, encoder, "holds no CTC/attention recognizer: name another file"),
        (manifests, stranger, r"teacher .*stranger.*: not the subwords that the model was trained"),
        (teacher_data, teacher, rf"teacher .*: .*subwords .*, the model has {outputs}"),
    ):
        with pytest.raises(InputError, match=said):
            new_criterion(new_task(data), path)
    with pytest.raises(InputError, match="reads video, its student audio: name another teacher"):
        new_criterion(new_task(manifests, modalities="audio"), teacher)
    for values, said in (
        ({"weight": 1.5}, r"distillation_weight 1\.5: expected 0 to 1"),
        ({"temperature": 0.0}, r"temperature 0\.0: expected a number above 0"),
    ):
        with pytest.raises(InputError, match=said):
            new_criterion(task, teacher, **values)


@pytest.mark.parametrize(
    ("names", "network"),
    [
        ("lrs3/vsr lrs3/vsr_dense lrs3/vsr_base_s lrs3/vsr_distill", "base-s"),
        ("tiny/vsr tiny/vsr_dense tiny/vsr_distill", "tiny-s"),
    ],
)
def test_settings_are_the_dense_model_s_but_for_the_teacher(names: str, network: str) -> None:
    lines = [
        line
        for name in names.split()
        for line in (ROOT / f"scripts/config/{name}.args").read_text().splitlines()
    ]
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    args = options.parse_args_and_arch(
        options.get_training_parser(),
        ["data", "--user-dir", str(ROOT / "fairseq_user_dir"), *words, "--teacher", "t.pt"],
    )
    cfg = convert_namespace_to_omegaconf(args)
    assert cfg.model.network == network and cfg.criterion._name == "ctc_attention_distillation"
    assert (cfg.criterion.distillation_weight, cfg.criterion.temperature) == (0.5, 1.0)
    assert (cfg.criterion.ctc_weight, cfg.criterion.teacher) == (0.1, "t.pt")
    assert cfg.task._name == "vsr" and cfg.lr_scheduler._name == "cosine_epochs"


def test_the_tiny_student_is_a_third_of_its_teacher() -> None:
    small, large = (
        sum(p.numel() for p in build_vsr(name, vocabulary=130).parameters())
        for name in ("tiny-s", "tiny")
    )
    assert small / large == pytest.approx(1 / 3, abs=0.02)
