"""The options of a training with `--task av_asr`."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run, run_well
from fairseq.utils import import_user_module
from omegaconf import OmegaConf
from test_fairseq import train_command

from avhubert_ext.checkpoints.model_file import load_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.data.manifest import read_manifest, write_manifest
from avhubert_ext.errors import InputError

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.models.av_asr_seq2seq import (  # noqa: E402
    AVASRSeq2Seq,
    AVASRSeq2SeqConfig,
)
from fairseq_user_dir.tasks.av_asr import AVASRConfig, AVASRTask  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TEACHER = ROOT / "scripts/models/tiny-teacher/model.safetensors"
SHALLOW = json.dumps({"layers": 1})
TWO_PROCESSES = [
    "--distributed-world-size", 2, "--distributed-init-method", "env://", "--distributed-rank", -1,
    "--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp",
]  # fmt: skip


def stored(folder: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    return read_torch_file(folder / name)


# The settings that fairseq takes from the configuration of the whole run.
INTERPOLATED = {
    "seed": 3, "train_subset": "train", "best_checkpoint_metric": "loss", "results_path": None,
    "update_freq": [1],
}  # fmt: skip


def new_task(data: Path, **changes: Any) -> AVASRTask:
    return AVASRTask.setup_task(AVASRConfig(data=str(data), **INTERPOLATED | changes))


def new_model(task: AVASRTask, **changes: Any) -> AVASRSeq2Seq:
    settings = {"encoder": "student-tiny-7", "decoder": "tiny", "encoder_changes": SHALLOW}
    torch.manual_seed(0)
    return AVASRSeq2Seq.build_model(AVASRSeq2SeqConfig(**settings | changes), task)


def batch(task: AVASRTask, split: str = "train", count: int = 2) -> dict[str, Any]:
    task.load_dataset(split)
    dataset = task.datasets[split]
    return dataset.collater([dataset[index] for index in range(count)])


def statistics(model: AVASRSeq2Seq) -> torch.Tensor:
    buffers = model.encoder.w2v_model.named_buffers()
    return torch.cat([b.flatten() for name, b in buffers if "running" in name])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_mode_of_a_frozen_encoder(manifests: Path, mode: str) -> None:
    """In `eval` there is no dropout and statistics stay; bridge and decoder learn in any case."""
    task = new_task(manifests)
    model = new_model(task, freeze_encoder_updates=5, frozen_encoder=mode).train()
    inputs = batch(task)["net_input"]
    encoded, before = [], statistics(model)
    for _ in range(2):
        encoded.append(model.encoder(**{k: v for k, v in inputs.items() if "tokens" not in k}))
    same = torch.equal(encoded[0]["memory"], encoded[1]["memory"])
    moved = not torch.equal(before, statistics(model))
    assert (same, moved) == ((True, False) if mode == "eval" else (False, True))
    model(**inputs)[0].sum().backward()
    assert all(p.grad is None for p in model.encoder.w2v_model.parameters())
    assert model.encoder.bridge.weight.grad.any()
    assert model.decoder.network.embed_tokens.weight.grad.any()

    model.set_num_updates(5)
    model(**inputs)[0].sum().backward()
    assert model.encoder.w2v_model.training
    assert model.encoder.w2v_model.post_extract_proj.weight.grad.any()


def test_invalid_settings_of_the_model(manifests: Path) -> None:
    task = new_task(manifests)
    for changes, said in (
        ({"frozen_encoder": "asleep"}, "frozen_encoder 'asleep'"),
        ({"encoder_changes": "{layers"}, "encoder_changes .* not JSON"),
        ({"encoder_changes": "[1]"}, "expected an object"),
        ({"encoder_changes": '{"color": 1}'}, "color unknown"),
        ({"encoder_checkpoint": str(TEACHER), "encoder_changes": SHALLOW}, "another network"),
    ):
        with pytest.raises(InputError, match=said):
            new_model(task, **changes)


def test_dropouts_of_a_trained_encoder_can_be_changed(manifests: Path) -> None:
    changes = {"dropout": 0.25, "activation_dropout": 0.0, "layerdrop": 0.5}
    model = new_model(
        new_task(manifests), encoder_checkpoint=str(TEACHER), encoder_changes=json.dumps(changes)
    )
    encoder, expected = model.encoder.w2v_model, load_model(TEACHER).encoder
    assert encoder.config == replace(expected.config, modality_dropout=0.0, **changes)
    for (name, found), weight in zip(
        encoder.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(found, weight), name


def test_every_student_trains_from_scratch_by_name_alone(manifests: Path) -> None:
    task = new_task(manifests)
    sample = batch(task)
    for number in range(1, 8):
        model = new_model(task, encoder=f"student-tiny-{number}", encoder_changes=None).train()
        model(**sample["net_input"])[0].sum().backward()
        assert all(p.grad is not None for p in model.parameters()), number


def test_long_utterances_are_left_out_of_the_training_and_of_nothing_else(manifests: Path) -> None:
    frames = sorted(u.frames for u in read_manifest(manifests / "train.tsv"))
    task = new_task(manifests, max_train_frames=frames[-3])
    for split in ("train", "test"):
        task.load_dataset(split)
    kept = [task.datasets["train"].size(i) for i in task.datasets["train"].ordered_indices()]
    assert sorted(kept) == [n for n in frames if n <= frames[-3]] and len(kept) < len(frames)
    assert len(task.datasets["test"].ordered_indices()) == len(task.datasets["test"])
    with pytest.raises(InputError, match="max_train_frames 1: every utterance"):
        new_task(manifests, max_train_frames=1).load_dataset("train")


def test_no_utterance_is_lost_in_batches_too_small_for_it(manifests: Path) -> None:
    task = new_task(manifests)
    task.load_dataset("train")
    batches = task.get_batch_iterator(
        task.datasets["train"], max_tokens=50, max_positions=50, ignore_invalid_inputs=True
    ).next_epoch_itr(shuffle=False)
    assert sorted(int(i) for b in batches for i in b["id"]) == list(range(12))


def test_what_cannot_be_read_is_replaced_with_its_own_transcript(
    manifests: Path, tmp_path: Path
) -> None:
    """The target belongs to the utterance that is used. One of 120 has a damaged video."""
    for name in ("dict.wrd.txt", "spm_bpe64.model"):
        (tmp_path / name).write_bytes((manifests / name).read_bytes())
    utterances = read_manifest(manifests / "train.tsv") * 10
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"not a video")
    utterances[5] = replace(utterances[5], video=torn)
    write_manifest(tmp_path / "train.tsv", utterances)
    (tmp_path / "train.wrd").write_text((manifests / "train.wrd").read_text() * 10)
    task = new_task(tmp_path)
    task.load_dataset("train")
    dataset = task.datasets["train"]
    item = dataset[5]
    other = item["sample"].utterance
    assert other != 5 and str(torn) in item["sample"].corrupt[0]
    assert torch.equal(item["target"], dataset[other]["target"])
    assert not torch.equal(item["target"], dataset.targets[5])


def test_bf16_trains_float32_weights(manifests: Path, tmp_path: Path) -> None:
    """Losses differ from float32, but only a little, and weights stay in float32."""
    losses = {}
    for precision in ((), ("--bf16",)):
        folder = tmp_path / f"run{len(precision)}"
        log = run_well(
            *train_command(
                manifests, folder, *precision, "--encoder-changes", SHALLOW, "--max-update", 2,
                "--disable-validation",
            ), **ONE_THREAD,
        )  # fmt: skip
        losses[precision] = [float(v) for v in re.findall(r"train_inner.* loss=([\d.]+)", log)]
    exact, rounded = losses.values()
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.02)
    weights = stored(tmp_path / "run1")["model"]
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}
    name = "encoder.w2v_model.post_extract_proj.weight"
    assert not torch.equal(weights[name], weights[name].bfloat16().float())


def test_best_checkpoint_by_word_error_rate(teacher_data: Path, tmp_path: Path) -> None:
    """A huge learning rate ruins the shipped teacher in the second epoch, so the first is best."""
    command = train_command(
        teacher_data, tmp_path, "--finetune-from-model", TEACHER, "--encoder", "teacher-tiny",
        "--best-checkpoint-metric", "wer", "--valid-beam", 2, "--max-tokens", 800,
        "--lr", "1e-6,3e-2", "--lr-scheduler", "fixed", "--clip-norm", 0,
    )  # fmt: skip
    place = command.index("--total-num-update")  # of the other scheduler
    del command[place : place + 2]
    log = run_well(*command, **ONE_THREAD)
    found = [float(v) for v in re.findall(r"valid on 'valid' subset.*? \| wer ([\d.]+)", log)]
    assert found[0] < 50 < max(found)
    best = stored(tmp_path, "checkpoint_best.pt")
    assert best["extra_state"]["best"] == pytest.approx(min(found), abs=0.01)


def test_two_processes_are_one_with_accumulated_batches(manifests: Path, tmp_path: Path) -> None:
    """With an encoder that is frozen at first, dropped streams, and no noise."""
    settings = (
        "--encoder-changes", SHALLOW, "--batch-size", 3, "--max-update", 2, "--disable-validation",
        "--freeze-encoder-updates", 1, "--frozen-encoder", "eval",
        "--optimizer", "sgd", "--lr", "0.1",
    )  # fmt: skip
    two = train_command(manifests, tmp_path / "two", *settings, *TWO_PROCESSES)
    run_well("torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *two, **ONE_THREAD)
    run_well(
        *train_command(manifests, tmp_path / "one", *settings, "--update-freq", 2), **ONE_THREAD
    )
    found, expected = (stored(tmp_path / name)["model"] for name in ("two", "one"))
    start = stored_start(manifests, tmp_path, settings)
    for name, tensor in expected.items():
        if "running" in name or not tensor.is_floating_point():
            continue  # each process has its own until they are averaged for a validation
        moved = (tensor - start[name]).norm()
        assert (found[name] - tensor).norm() <= 1e-3 * moved + 1e-6, name


@pytest.mark.parametrize(
    "options",
    [("--bf16",), ("--memory-efficient-bf16",), TWO_PROCESSES],
    ids=["bf16", "mem", "two"],
)
def test_a_frozen_encoder_does_not_decay(
    manifests: Path, tmp_path: Path, options: list[object]
) -> None:
    """Copies for half precision and legacy DDP have zero gradients for frozen weights."""
    command = train_command(
        manifests, tmp_path, "--encoder-checkpoint", TEACHER, "--freeze-encoder-updates", 2,
        "--max-update", 2, "--weight-decay", 0.1, "--lr", 0.1, "--batch-size", 3,
        "--disable-validation", *options,
    )  # fmt: skip
    if options is TWO_PROCESSES:
        command = ["torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *command]
    run_well(*command, **ONE_THREAD)
    state, start = stored(tmp_path), load_model(TEACHER).encoder
    for name, weight in start.named_parameters():
        assert torch.equal(state["model"][f"encoder.w2v_model.{name}"], weight), name
    moments = [s["exp_avg"] for s in state["last_optimizer_state"]["state"].values()]
    assert any(m.any() for m in moments), "the decoder learns"


class FlatAdam:
    """The optimizer of --fp16 on a GPU: one flat copy of all weights, which it copies back."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.fp16_params = list(model.parameters())
        flat = torch.cat([p.detach().flatten() for p in self.fp16_params])
        self.fp32_params = {0: torch.nn.Parameter(flat)}
        self.adam = torch.optim.AdamW(self.fp32_params.values(), lr=0.1, weight_decay=0.1)

    def step(self) -> None:
        copies = self.fp32_params[0]
        copies.grad = torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for p in self.fp16_params
            ]
        )
        self.adam.step()
        parts = copies.detach().split([p.numel() for p in self.fp16_params])
        for parameter, part in zip(self.fp16_params, parts, strict=True):
            parameter.data.copy_(part.view_as(parameter))


def test_frozen_weights_stay_in_the_flat_copy_of_fp16(manifests: Path) -> None:
    """Also with momentum from earlier updates. Without freezing they learn."""
    task = new_task(manifests)
    model = new_model(task, freeze_encoder_updates=9)
    optimizer = FlatAdam(model)
    task.begin_epoch(1, model)
    encoder = model.encoder.w2v_model

    def update(number: int) -> list[torch.Tensor]:
        model.set_num_updates(number)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = [p.detach().clone() for p in encoder.parameters()]
        task.optimizer_step(optimizer, model, number)
        return before

    bridge = model.encoder.bridge.weight.detach().clone()
    for number, frozen in ((9, False), (3, True), (4, True), (10, False)):
        before = update(number)
        same = [torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True)]
        assert all(same) if frozen else not any(same)
    assert not torch.equal(bridge, model.encoder.bridge.weight)


def stored_start(manifests: Path, folder: Path, settings: tuple) -> dict[str, torch.Tensor]:
    """The weights before the first update."""
    command = train_command(manifests, folder / "start", *settings, "--max-update", 1, "--lr", "0")
    run_well(*command, **ONE_THREAD)
    return stored(folder / "start")["model"]


def test_two_processes_resume_where_they_stopped(manifests: Path, tmp_path: Path) -> None:
    """fairseq sends the objects of the checkpoint from the first process to the other."""
    settings = ("--encoder-changes", SHALLOW, "--batch-size", 3, "--disable-validation")
    for folder, updates in (("stopped", 1), ("stopped", 2), ("straight", 2)):
        command = train_command(
            manifests, tmp_path / folder, *settings, "--max-update", updates, *TWO_PROCESSES
        )
        log = run_well(
            "torchrun", "--standalone", "--nproc_per_node", 2, "--no-python", *command, **ONE_THREAD
        )
        assert ("@ 1 updates" in log) == (updates == 2 and folder == "stopped") or updates == 1
    found, expected = (stored(tmp_path / name)["model"] for name in ("stopped", "straight"))
    for name, tensor in expected.items():
        assert torch.allclose(found[name].float(), tensor.float(), atol=1e-6), name


def test_what_is_trained_on_is_augmented_whatever_its_name(manifests: Path) -> None:
    task = new_task(manifests, train_subset="valid")
    for split in ("train", "valid"):
        task.load_dataset(split)
    augmented = {s: d.dataset.config.augment for s, d in task.datasets.items()}
    corrupt = {s: d.dataset.config.corrupt for s, d in task.datasets.items()}
    assert augmented == {"train": False, "valid": True}
    assert corrupt == {"train": "blank", "valid": "replace"}


def test_a_bad_clip_of_the_validation_is_named_once(
    manifests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("dict.wrd.txt", "spm_bpe64.model", "valid.wrd"):
        (tmp_path / name).write_bytes((manifests / name).read_bytes())
    first, *others = read_manifest(manifests / "valid.tsv")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"not a video")
    write_manifest(tmp_path / "valid.tsv", [replace(first, video=torn), *others])
    task = new_task(tmp_path, best_checkpoint_metric="wer", allow_unreadable=True)
    network = {"_name": "av_asr_seq2seq", "encoder": "student-tiny-3", "decoder": "tiny"}
    model = task.build_model(OmegaConf.create(network))
    sample = batch(task, "valid", count=len(others) + 1)
    loss = {"_name": "cross_entropy", "sentence_avg": True}
    criterion = task.build_criterion(OmegaConf.create(loss))
    for _ in range(2):
        _, _, log = task.valid_step(sample, model, criterion)
    assert caplog.text.count(f"left blank, its words count as deleted: {torn}") == 1
    assert log["wer_edits"] >= len(task.text(sample["target"][0]).split())
    task.cfg.allow_unreadable = False
    with pytest.raises(InputError, match=f"1 of 4 utterances cannot be read.*{torn}"):
        task.valid_step(sample, model, criterion)


def share_validation(rank: int, store: str, data: str) -> None:
    """One of two processes; the other one has an unreadable utterance."""
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    task = new_task(Path(data))
    task.load_dataset("valid")
    task.begin_valid_epoch(1, torch.nn.Linear(1, 1))
    task._check_everywhere(0)
    with pytest.raises(InputError, match="1 of 4 utterances cannot be read"):
        task._check_everywhere(1)


def test_all_processes_know_what_one_cannot_read(manifests: Path, tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        share_validation, (str(tmp_path / "store"), str(manifests)), nprocs=2, start_method="fork"
    )


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(
    manifests: Path, tmp_path: Path
) -> None:
    command = train_command(
        manifests, tmp_path, "--encoder-changes", SHALLOW, "--lr", "1e30", "--disable-validation"
    )
    result = run(*command, **ONE_THREAD)
    assert result.returncode == 1
    assert re.match(r"error: the loss is (nan|inf) after \d", result.stdout.splitlines()[-1])


def test_hydra_trains_with_the_paper_configuration(
    manifests: Path, noise: Path, tmp_path: Path
) -> None:
    run_well(
        "fairseq-hydra-train", "--config-dir", ROOT / "scripts/config/lrs3", "--config-name",
        "finetune", f"task.data={manifests}", f"task.noise_manifests={noise}/babble",
        "model.encoder=student-tiny-7", "model.decoder=tiny", "common.fp16=false",
        "common.cpu=true", "dataset.num_workers=0", "optimization.max_update=2",
        "optimization.update_freq=[1]", f"checkpoint.save_dir={tmp_path}",
        "dataset.disable_validation=true", "model.freeze_encoder_updates=1",
        f"hydra.run.dir={tmp_path}", "hydra.job.chdir=false", **ONE_THREAD,
    )  # fmt: skip
    state = stored(tmp_path)
    assert state["cfg"]["task"]["noise_prob"] == 0.25
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert load_model(tmp_path / "checkpoint_last.pt").decoder.config.dim == 128


def test_worker_processes_end_without_a_traceback(manifests: Path, tmp_path: Path) -> None:
    """Some have no batch, and the training stops in the middle of an epoch."""
    log = run_well(
        *train_command(
            manifests, tmp_path, "--num-workers", 3, "--encoder-changes", SHALLOW, "--max-tokens",
            60, "--max-update", 8, "--save-interval-updates", 4,
        ), **ONE_THREAD,
    )  # fmt: skip
    assert "done training" in log and log.count("| valid on 'valid' subset |") >= 2
    assert "Traceback" not in log and "Exception" not in log


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a GPU can do is not refused")
@pytest.mark.parametrize("option", ["--fp16", "--memory-efficient-fp16", "--amp"])
def test_float16_without_a_gpu_ends_with_one_line(
    manifests: Path, tmp_path: Path, option: str
) -> None:
    result = run(*train_command(manifests, tmp_path, option), **ONE_THREAD)
    line = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 1 and "Traceback" not in result.stdout
    assert line.startswith("error: --") and "needs a GPU: set --bf16, or leave it out" in line


def test_reading_threads_end_before_the_process(tmp_path: Path) -> None:
    """A slow reader with a full queue, and one that is in the middle of an item."""
    script = tmp_path / "read.py"
    script.write_text("""
import time
from argparse import Namespace
from fairseq.data.iterators import BufferedIterator
from fairseq.utils import import_user_module
import_user_module(Namespace(user_dir="fairseq_user_dir"))

class Slow(list):
    def __iter__(self):
        for item in super().__iter__():
            time.sleep(0.3)
            yield item

iterators = [BufferedIterator(1, Slow(range(50))), BufferedIterator(99, Slow(range(50)))]
print([next(i) for i in iterators])
while not iterators[0]._queue.full():
    time.sleep(0.01)
threads = [i._consumer for i in iterators]
assert all(t.is_alive() for t in threads)
from fairseq_user_dir.patches import stop_reading_ahead
stop_reading_ahead()
print("alive:", [t.is_alive() for t in threads], "few:", max(t.count for t in threads) < 25)
""")
    printed = run_well("python", script, PYTHONPATH=str(ROOT), **ONE_THREAD)
    assert "alive: [False, False] few: True" in printed
