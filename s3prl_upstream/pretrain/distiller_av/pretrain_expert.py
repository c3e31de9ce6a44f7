"""s3prl's contract for `-u distiller_av`; the networks, loss and data are the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from avhubert_ext.checkpoints.model_file import load_avhubert
from avhubert_ext.checkpoints.s3prl_file import student_states
from avhubert_ext.data.batching import BucketBatchSampler
from avhubert_ext.data.corrupt import CorruptUtterances
from avhubert_ext.data.dataset import AVDataset, Batch, collate
from avhubert_ext.errors import InputError
from avhubert_ext.training.distillation import distill_batch, mean_terms
from s3prl_upstream.launch import check_device

from .configuration import check_data_keys, data_config, read_model_config, resolve
from .state import (
    pack_arguments,
    pack_schedules,
    random_state,
    restore_random_state,
    unpack_schedules,
)

REMEDY = (
    "go on from the last state with -a -o config.runner.fp16=False where fp16 was on; else start "
    "again in another folder with a lower learning rate"
)


class UpstreamPretrainExpert(nn.Module):
    """Teacher and student on the same batches; s3prl's runner trains `self.model`."""

    def __init__(
        self,
        datarc: dict[str, Any],
        upstream_config: str | dict[str, Any],
        device: str = "cuda",
        multi_gpu: bool = False,
    ) -> None:
        super().__init__()
        if multi_gpu:
            raise InputError(
                "--multi_gpu: distiller_av runs on one GPU; leave the option out, or distill on "
                "several with fairseq-train --task av_distillation"
            )
        check_device(device)
        check_data_keys(datarc)
        self.datarc = datarc
        self.device = device
        self.config = read_model_config(upstream_config)
        encoder = load_avhubert(self.config.teacher)
        self.model = self.config.new_student(encoder)
        self.teacher = self.config.new_teacher(encoder)
        self.consumed_batches = 0
        self.restored_rng: dict[str, Any] | None = None
        self.validated_step = 0

    def get_train_dataloader(self) -> Batches:
        if self.datarc.get("valid_step"):
            self.valid_batches = Batches(self.datarc, "valid", shuffle=False)
        return Batches(self.datarc, "train", True, self.consumed_batches)

    def forward(
        self, data: Batch, records: dict[str, list], global_step: int, log_step: int, **kwargs: Any
    ) -> tuple[Tensor, dict[str, list]]:
        """The distillation loss of one batch; its terms are collected in `records`."""
        if self.restored_rng is not None:
            # Not earlier: building the data loader draws from the same generator.
            restore_random_state(self.restored_rng)
            self.restored_rng = None
        self.consumed_batches += 1
        loss, terms = distill_batch(self.config, self.teacher, self.model, data.to(self.device))
        if not torch.isfinite(loss):
            raise InputError(f"the loss is {loss.item()} at step {global_step}: {REMEDY}")
        for name, value in {"loss": loss.detach(), **terms}.items():
            records[name].append(value)
        return loss, records

    def on_before_zero_grad(self) -> None:
        """After each update: InputError where the student's weights are no longer finite.

        Here, and not when a state is saved, for the runner first deletes old ones.
        """
        # One norm for each tensor, and one answer from the GPU for all of them.
        weights = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norms = torch._foreach_norm(weights)
        if not torch.stack(norms).isfinite().all():
            raise InputError(f"the student's weights are no longer finite: {REMEDY}")

    def log_records(
        self, records: dict[str, list], logger: Any, prefix: str, global_step: int, **kwargs: Any
    ) -> None:
        """Mean of each term since the last call; a validation where it is due.

        Both go to TensorBoard and, a line a call, to `metrics.jsonl` beside the states.
        """
        means = {f"train-{n}": torch.stack(v).mean().item() for n, v in records.items()}
        valid_step = self.datarc.get("valid_step")
        if valid_step and global_step // valid_step > self.validated_step // valid_step:
            self.validated_step = global_step
            valid = self.validate()
            means |= {f"valid-{name}": value for name, value in valid.items()}
            shown = ", ".join(f"{name} {value:.4f}" for name, value in valid.items())
            tqdm.write(f"[Validation] - step {global_step}: {shown}")
        for name, value in means.items():
            # The runner logs a `train-loss` of its own, that of the last update.
            tag = prefix.removesuffix("train-") + name.replace("train-loss", "train-mean-loss")
            logger.add_scalar(tag, value, global_step=global_step)
        with (Path(logger.logdir) / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": global_step, **means}) + "\n")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and terms on the validation split, in eval mode, averaged over its frames."""
        self.model.eval()
        results = []
        for batch in tqdm(self.valid_batches, desc="valid", leave=False, dynamic_ncols=True):
            data = batch.to(self.device)
            loss, terms = distill_batch(self.config, self.teacher, self.model, data, training=False)
            results.append(({"loss": loss, **terms}, int((~data.padding_mask).sum())))
        self.model.train()
        return mean_terms(results)

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        # The runner counts an update only after saving, which would repeat it on resume.
        all_states["Step"] += 1
        all_states["Args"] = pack_arguments(all_states["Args"])
        pack_schedules(all_states["Optimizer"])
        all_states |= student_states(self.model)
        all_states["Upstream_Config"] = asdict(self.config)
        all_states["Consumed_Batches"] = self.consumed_batches
        all_states["Validated_Step"] = self.validated_step
        all_states["RNG"] = random_state()
        return all_states

    def load_model(self, all_states: dict[str, Any]) -> None:
        """Raises InputError if the state is of another student, after a change of teacher."""
        own, found = student_states(self.model), all_states.get("Student_Description")
        if found != own["Student_Description"]:
            raise InputError(
                f"the state to go on from is of a student {found}, now it is "
                f"{own['Student_Description']}: has the teacher's file {self.config.teacher} "
                "changed? put it back, or start again in another folder"
            )
        self.model.load_state_dict(all_states["Student"])
        unpack_schedules(all_states["Optimizer"])
        self.consumed_batches = all_states["Consumed_Batches"]
        self.validated_step = all_states["Validated_Step"]
        self.restored_rng = all_states["RNG"]


class Batches:
    """Batches of a split, one epoch an iteration, as s3prl's runner wants its data loader.

    Utterances that cannot be read are reported, see `CorruptUtterances`.
    """

    def __init__(
        self, datarc: dict[str, Any], split: str, shuffle: bool, consumed: int = 0
    ) -> None:
        """shuffle: in training, with augmentation; consumed: batches of earlier epochs and runs."""
        rc = datarc
        data = AVDataset(Path(resolve(rc["data"])), split, data_config(rc, augment=shuffle))
        self.corrupt = CorruptUtterances(len(data))
        sampler = BucketBatchSampler(
            data.frames(), rc["train_batch_size"], rc["seed"], consumed, shuffle
        )
        # The runner takes the length of this for the number of batches in an epoch.
        self.dataset = sampler
        self.loader = DataLoader(
            data,
            batch_sampler=sampler,
            num_workers=rc["num_workers"],
            # Forked once, while the process is still small; the epoch comes with each index.
            persistent_workers=rc["num_workers"] > 0,
            collate_fn=collate,
            # Its own generator: each epoch draws a seed for the workers, and the global generator
            # must not notice where epochs begin, or a resumed run would part ways.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.corrupt.add(batch.corrupt)
            yield batch
