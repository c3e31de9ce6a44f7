"""The settings files of the recipes, for fairseq-train and for fairseq-hydra-train."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, run_well
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from avhubert_ext.checkpoints.model_file import read_masks
from avhubert_ext.compression.pruning import mask_sparsity
from avhubert_ext.errors import InputError

CONFIG = ROOT / "scripts/config"
RECOGNIZER = "--task av_asr --arch av_asr_seq2seq"
VSR, PRUNE = "lrs3/vsr lrs3/vsr_base_s", "tiny/vsr tiny/prune"
# Every set of files that a recipe or the documentation starts a training with, and its options.
SETS = {
    "lrs3/finetune": RECOGNIZER,
    "lrs3/distill": "--task av_distillation",
    f"{VSR} lrs3/vsr_dense lrs3/vsr_noise": "",
    "lrs3/vsr lrs3/vsr_base_l lrs3/vsr_dense": "",
    f"{VSR} lrs3/vsr_dense lrs3/vsr_distill": "",
    f"{VSR} lrs3/prune lrs3/prune_finetune": "--regrow",
    f"{VSR} lrs3/prune lrs3/prune_retrain": "",
    f"{VSR} lrs3/prune lrs3/prune_round": "",
    "lrs3/vsr lrs3/vsr_base_l lrs3/quantize": "",
    "tiny/common tiny/teacher": RECOGNIZER,
    "tiny/common tiny/finetune": RECOGNIZER,
    "tiny/common tiny/prune_one_shot": "--task av_asr_sparse --arch av_asr_seq2seq",
    "tiny/common tiny/table_1_generic": RECOGNIZER,
    "tiny/common tiny/table_1_teacher": RECOGNIZER,
    "tiny/common tiny/student/prune tiny/student/prune_round": "",
    "tiny/vsr tiny/vsr_dense": "",
    "tiny/vsr tiny/vsr_dense tiny/vsr_distill": "",
    "tiny/vsr tiny/prune_dense": "",
    f"{PRUNE} tiny/prune_finetune": "--sparsity 0.5",
    f"{PRUNE} tiny/prune_retrain": "",
    f"{PRUNE} tiny/prune_round": "",
    "tiny/vsr tiny/quantize": "",
}


def words_of(names: str) -> list[str]:
    """The words of .args files, which a shell would make of them."""
    lines = [
        line
        for name in names.split()
        for line in (CONFIG / f"{name}.args").read_text().splitlines()
        if not line.startswith("#")
    ]
    return [word for line in lines for word in line.split()]


def hydra_module() -> Any:
    """`scripts/hydra_config.py`, which is in no package."""
    path = ROOT / "scripts/hydra_config.py"
    spec = importlib.util.spec_from_file_location("hydra_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_settings_file_is_in_a_set() -> None:
    named = {name for names in SETS for name in names.split()}
    assert named == {str(p.relative_to(CONFIG).with_suffix("")) for p in CONFIG.rglob("*.args")}


@pytest.mark.parametrize("names", SETS)
def test_hydra_gets_the_settings_of_the_command_line(names: str) -> None:
    """Every option of the files is in the configuration, and no value is another."""
    words = [*words_of(names), *SETS[names].split()]
    hydra = hydra_module()
    cfg = hydra.command_line(words)
    found = yaml.safe_load(hydra.as_yaml(hydra.hydra_config(cfg, words)))
    assert found.pop("hydra")["job"] == {"chdir": False}
    assert found["task"].pop("data") == "???" and found["common"].pop("user_dir")
    expected = OmegaConf.to_container(cfg, enum_to_str=True)
    for group, values in found.items():
        for name, value in values.items():
            assert value == expected[group][name], f"{group}.{name}"
    known = {name for values in found.values() for name in values}
    options_named = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    assert options_named - {"task", "arch", "criterion", "optimizer", "lr_scheduler"} <= known


def test_the_stored_configuration_is_that_of_finetune_args() -> None:
    text = (CONFIG / "lrs3/finetune.yaml").read_text()
    body = "".join(line for line in text.splitlines(True) if not line.startswith("#"))
    words = [*words_of("lrs3/finetune"), *RECOGNIZER.split()]
    hydra = hydra_module()
    assert body == hydra.as_yaml(hydra.hydra_config(hydra.command_line(words), words))


def test_every_help_text_is_a_sentence() -> None:
    """Of all options that the plugin adds to fairseq's commands."""
    hydra_module().command_line(words_of("tiny/vsr tiny/vsr_dense"))  # imports the plugin
    registries = [TASK_DATACLASS_REGISTRY, MODEL_DATACLASS_REGISTRY]
    registries += [found["dataclass_registry"] for found in REGISTRIES.values()]
    configs = {c for registry in registries for c in registry.values() if c is not None}
    own = [c for c in configs if c.__module__.startswith("fairseq_user_dir")]
    assert len(own) > 10
    for field in (field for config in own for field in fields(config)):
        text = field.metadata.get("help")
        assert text is None or re.fullmatch(r"[A-Z0-9].*\.", text), (field.name, text)


def test_values_may_have_blanks(tmp_path: Path) -> None:
    path = tmp_path / "some.args"
    path.write_text("# a comment\n--data my data\n\n--flag\n")
    assert hydra_module().read_args(path) == ["--data", "my data", "--flag"]
    with pytest.raises(InputError, match=r"none\.args not found"):
        hydra_module().read_args(tmp_path / "none.args")


def test_a_pruning_recipe_starts_with_hydra(manifests: Path, tmp_path: Path) -> None:
    """From .args files to a pruned model; with an option on Hydra's command line."""
    files = [CONFIG / f"tiny/{name}.args" for name in ("vsr", "prune", "prune_finetune")]
    script = ROOT / "scripts/hydra_config.py"
    config = run_well("python", script, *files)
    (tmp_path / "prune.yaml").write_text(config[config.index("common:") :])
    run_well(
        "fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "prune",
        f"task.data={manifests}", f"checkpoint.save_dir={tmp_path}/model", "common.cpu=true",
        "optimization.max_update=1", "task.sparsity=0.5", OMP_NUM_THREADS="1",
    )  # fmt: skip
    masks = read_masks(tmp_path / "model/checkpoint_last.pt")
    assert mask_sparsity(masks) == pytest.approx(0.5, abs=1e-4)
