"""The expert that s3prl loads for `-u distiller_av`. Networks, loss and data are the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from avhubert_ext.checkpoints.model_file import load_avhubert
from avhubert_ext.checkpoints.s3prl_file import student_states
from avhubert_ext.data.batching import BucketBatchSampler
from avhubert_ext.data.corrupt import CorruptUtterances
from avhubert_ext.data.dataset import AVDataset, Batch, collate
from avhubert_ext.errors import InputError
from avhubert_ext.progress import Progress
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
    "if fp16 was on, resume from the last state with -a -o config.runner.fp16=False; if not, start "
    "again in another folder with a lower learning rate"
)


class UpstreamPretrainExpert(nn.Module):
    """Teacher and student on the same batches. s3prl's runner trains `self.model`."""

    def __init__(
        self,
        datarc: dict[str, Any],
        upstream_config: str | dict[str, Any],
        device: str = "cuda",
        multi_gpu: bool = False,
    ) -> None:
        """Build teacher and student.

        Args:
            datarc: The section of the run configuration.
            upstream_config: The model configuration, or its file.
            device: The device of the training.
            multi_gpu: Not supported.

        Raises:
            InputError: A setting is invalid, there is no such device, or the teacher cannot be
                loaded.
        """
        super().__init__()
        if multi_gpu:
            raise InputError(
                "--multi_gpu: distiller_av runs on one GPU; leave the option out, or use several "
                "with fairseq-train --task av_distillation"
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
        """Compute the loss of one batch.

        Args:
            data: The batch.
            records: Lists to which the loss and its terms are appended.
            global_step: The number of the update.
            log_step: Ignored, as are `kwargs`.

        Returns:
            The loss, a scalar, and `records`.

        Raises:
            InputError: The loss is NaN or infinite.
        """
        if self.restored_rng is not None:
            # Only now, because building the data loader uses the same generator.
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
        """Check the weights of the student after each update.

        The runner deletes old states before it saves a new one, so that a check there is too late.

        Raises:
            InputError: A weight is NaN or infinite.
        """
        # One norm per tensor, and a single transfer from the GPU for all of them.
        weights = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norms = torch._foreach_norm(weights)
        if not torch.stack(norms).isfinite().all():
            raise InputError(f"the student's weights are no longer finite: {REMEDY}")

    def log_records(
        self, records: dict[str, list], logger: Any, prefix: str, global_step: int, **kwargs: Any
    ) -> None:
        """Log the mean of each term since the last call, and validate every `valid_step` steps.

        The values go to TensorBoard and to `metrics.jsonl` beside the states, one line per call.
        """
        means = {f"train-{n}": torch.stack(v).mean().item() for n, v in records.items()}
        valid_step = self.datarc.get("valid_step")
        if valid_step and global_step // valid_step > self.validated_step // valid_step:
            self.validated_step = global_step
            valid = self.validate()
            means |= {f"valid-{name}": value for name, value in valid.items()}
            shown = ", ".join(f"{name} {value:.4f}" for name, value in valid.items())
            Progress.write(f"[Validation] - step {global_step}: {shown}")
        for name, value in means.items():
            # The runner logs `train-loss`, the loss of the last update.
            tag = prefix.removesuffix("train-") + name.replace("train-loss", "train-mean-loss")
            logger.add_scalar(tag, value, global_step=global_step)
        with (Path(logger.logdir) / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": global_step, **means}) + "\n")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss and its terms on the validation split, in eval mode, averaged over frames."""
        self.model.eval()
        results = []
        for batch in Progress(self.valid_batches, desc="valid", unit="batch", leave=False):
            data = batch.to(self.device)
            loss, terms = distill_batch(self.config, self.teacher, self.model, data, training=False)
            results.append(({"loss": loss, **terms}, int((~data.padding_mask).sum())))
        self.model.train()
        return mean_terms(results)

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        # The runner counts an update only after it saves, so a resumed run would repeat it.
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
        """Restore student, schedules and random state.

        Raises:
            InputError: The state is of another student, for example because the teacher's file has
                changed.
        """
        own, found = student_states(self.model), all_states.get("Student_Description")
        if found != own["Student_Description"]:
            raise InputError(
                f"the state to resume from has another student: {found}, expected "
                f"{own['Student_Description']}; restore the teacher's file {self.config.teacher} "
                "if it has changed, or start again in another folder"
            )
        self.model.load_state_dict(all_states["Student"])
        unpack_schedules(all_states["Optimizer"])
        self.consumed_batches = all_states["Consumed_Batches"]
        self.validated_step = all_states["Validated_Step"]
        self.restored_rng = all_states["RNG"]


class Batches:
    """The batches of a split, with the interface that s3prl's runner expects of a data loader.

    Each iteration is one epoch. Unreadable utterances are reported, see `CorruptUtterances`.
    """

    def __init__(
        self, datarc: dict[str, Any], split: str, shuffle: bool, consumed: int = 0
    ) -> None:
        """Open a split.

        Args:
            datarc: The section of the run configuration.
            split: The name of the split.
            shuffle: Whether to shuffle and augment, as for training.
            consumed: How many batches earlier epochs and runs have used.
        """
        rc = datarc
        data = AVDataset(Path(resolve(rc["data"])), split, data_config(rc, augment=shuffle))
        self.corrupt = CorruptUtterances(len(data))
        sampler = BucketBatchSampler(
            data.frames(), rc["train_batch_size"], rc["seed"], consumed, shuffle
        )
        # Its length is what the runner uses as the number of batches in an epoch.
        self.dataset = sampler
        self.loader = DataLoader(
            data,
            batch_sampler=sampler,
            num_workers=rc["num_workers"],
            # Workers start once, while the process is small. The epoch is part of each index.
            persistent_workers=rc["num_workers"] > 0,
            collate_fn=collate,
            # A separate generator: the loader draws a seed for the workers in each epoch. From the
            # global generator this would change the results of a resumed run.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            self.corrupt.add(batch.corrupt)
            yield batch
