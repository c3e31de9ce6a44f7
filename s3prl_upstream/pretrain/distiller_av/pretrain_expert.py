"""s3prl's contract for `-u distiller_av`; the networks, loss and data are the library's."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from avhubert_ext.data.batching import ResumableBatchSampler, bucket_by_length
from avhubert_ext.data.dataset import AVDataset, Batch, DataConfig, collate
from avhubert_ext.data.noise import NoiseConfig
from avhubert_ext.errors import InputError
from avhubert_ext.losses import distillation_loss
from avhubert_ext.models.checkpoint import load_avhubert, student_from_states, student_states
from avhubert_ext.models.encoder import AVHubertEncoder
from avhubert_ext.models.presets import STUDENTS, preset
from avhubert_ext.models.student import Student, build_student

HERE = Path(__file__).parent
MODEL_KEYS = ("student", "teacher", "cosine_weight", "modality_dropout")
OPTIONAL_MODEL_KEYS = ("imagenet",)
DATA_KEYS = ("data", "train_batch_size", "max_frames", "num_workers", "seed")


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
        check_keys(datarc, DATA_KEYS, "pretrain_expert.datarc of the run configuration")
        self.datarc = datarc
        self.device = device
        self.config = read_config(upstream_config)
        self.teacher = load_avhubert(resolve(self.config["teacher"])).requires_grad_(False)
        if multi_gpu:
            raise InputError("--multi_gpu: distiller_av runs on one GPU; leave the option out")
        self.model = new_student(self.config, self.teacher)
        self.consumed_batches = 0
        self.restored_rng: Tensor | None = None

    def train(self, mode: bool = True) -> UpstreamPretrainExpert:
        super().train(mode)
        self.teacher.eval()
        return self

    def get_train_dataloader(self) -> DataLoader:
        rc = self.datarc
        cache = rc.get("cache_dir")
        config = DataConfig(
            augment=True,
            noise=noise_config(rc),
            cache=resolve(cache) if cache else None,
            max_frames=rc["max_frames"],
            seed=rc["seed"],
        )
        dataset = AVDataset(resolve(rc["data"]), "train", config)
        batches = bucket_by_length(dataset.frames(), rc["train_batch_size"])
        return DataLoader(
            dataset,
            batch_sampler=ResumableBatchSampler(batches, rc["seed"], self.consumed_batches),
            num_workers=rc["num_workers"],
            # Forked once, while the process is still small; the epoch comes with each index.
            persistent_workers=rc["num_workers"] > 0,
            collate_fn=collate,
            # Its own generator: each epoch draws a seed for the workers, and the global generator
            # must not notice where epochs begin, or a resumed run would part ways.
            generator=torch.Generator(),
        )

    def forward(
        self, data: Batch, records: dict[str, list], global_step: int, log_step: int, **kwargs: Any
    ) -> tuple[Tensor, dict[str, list]]:
        """The distillation loss of one batch; its terms are collected in `records`."""
        if self.restored_rng is not None:
            # Not earlier: building the data loader draws from the same generator.
            torch.set_rng_state(self.restored_rng)
            self.restored_rng = None
        audio, video = data.audio.to(self.device), data.video.to(self.device)
        padding_mask = data.padding_mask.to(self.device)
        with torch.no_grad():
            targets = self.teacher(audio, video, padding_mask).hidden_states
        predictions = self.model(audio, video, padding_mask).predictions
        loss, terms = distillation_loss(
            predictions, targets, padding_mask, self.config["cosine_weight"]
        )
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {global_step}: lower the learning rate or the "
                "precision's risk (fp16), then go on from the last state with -a"
            )
        self.consumed_batches += 1
        for name, value in terms.items():
            records[name].append(value)
        return loss, records

    def on_before_zero_grad(self) -> None:
        """Nothing to do between the optimizer's step and the next update."""

    def log_records(
        self,
        records: dict[str, list],
        logger: Any,
        prefix: str,
        global_step: int,
        **kwargs: Any,
    ) -> None:
        for name, values in records.items():
            logger.add_scalar(f"{prefix}{name}", sum(values) / len(values), global_step=global_step)

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        # The runner counts an update only after saving, which would repeat it on resume.
        all_states["Step"] += 1
        all_states |= student_states(self.model)
        all_states["Upstream_Config"] = self.config
        all_states["Consumed_Batches"] = self.consumed_batches
        all_states["RNG"] = torch.get_rng_state()
        return all_states

    def load_model(self, all_states: dict[str, Any]) -> None:
        self.model.load_state_dict(student_from_states(all_states).state_dict())
        self.consumed_batches = all_states["Consumed_Batches"]
        self.restored_rng = all_states["RNG"]


def read_config(upstream_config: str | dict[str, Any]) -> dict[str, Any]:
    """The model configuration: a dict, or the path of a YAML file."""
    if isinstance(upstream_config, dict):
        return upstream_config
    config = yaml.safe_load(Path(upstream_config).read_text(encoding="utf-8"))
    check_keys(config, MODEL_KEYS, f"{upstream_config}")
    unknown = sorted(config.keys() - {*MODEL_KEYS, *OPTIONAL_MODEL_KEYS})
    if unknown:
        raise InputError(f"{upstream_config}: {', '.join(unknown)} unknown; mend or remove them")
    return config


def check_keys(section: object, keys: tuple[str, ...], where: str) -> None:
    """Raise an InputError that names the missing keys of a configuration section."""
    missing = [key for key in keys if not isinstance(section, dict) or key not in section]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; see the configurations in {HERE}")


def resolve(path: str) -> Path:
    """Relative paths belong to where the launcher was started."""
    return Path(os.environ.get("S3PRL_START_FOLDER", ".")) / path


def noise_config(datarc: dict[str, Any]) -> NoiseConfig | None:
    """The `noise` section of the run configuration, or None."""
    noise = datarc.get("noise")
    if not noise:
        return None
    low, high = noise["snr_db"]
    folders = tuple(resolve(folder) for folder in noise["manifests"])
    return NoiseConfig(folders, noise["probability"], (low, high))


def new_student(config: dict[str, Any], teacher: AVHubertEncoder) -> Student:
    """The student that the model configuration names, with its modality dropout."""
    chosen = preset(STUDENTS, str(config["student"]), "student")
    encoder = replace(chosen.encoder, modality_dropout=config["modality_dropout"])
    imagenet = config.get("imagenet")
    return build_student(
        replace(chosen, encoder=encoder), teacher, resolve(imagenet) if imagenet else None
    )
