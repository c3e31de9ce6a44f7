"""8-bit codebooks: k-means compared with formulas, ADMM, and training with it in fairseq."""

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
from fairseq.utils import import_user_module
from omegaconf import OmegaConf
from test_fairseq_vsr import new_task, train
from torch import nn

from avhubert_ext.checkpoints.model_file import load_model
from avhubert_ext.checkpoints.torch_file import read_torch_file
from avhubert_ext.compression.pruning import global_magnitude_mask
from avhubert_ext.compression.quantization import (
    ADMM,
    fit_codebook,
    look_up,
    nearest,
    on_codebook,
    quantizable_weights,
    quantize,
)
from avhubert_ext.errors import InputError

import_user_module(Namespace(user_dir=str(ROOT / "fairseq_user_dir")))
from fairseq_user_dir.models.vsr_ctc_attention import VSRCTCAttention, VSRModelConfig  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def least_distortion(values: torch.Tensor, size: int) -> float:
    """The smallest sum of squared distances to `size` centers, by dynamic programming."""
    ordered = values.double().sort().values.tolist()
    best = [0.0] + [float("inf")] * len(ordered)
    for _ in range(size):
        new = [0.0] + [float("inf")] * len(ordered)
        for start in range(len(ordered)):
            total = squares = 0.0
            for end in range(start, len(ordered)):
                total, squares = total + ordered[end], squares + ordered[end] ** 2
                cost = squares - total**2 / (end - start + 1)
                new[end + 1] = min(new[end + 1], best[start] + cost)
        best = new
    return best[-1]


def distortion(values: torch.Tensor, codebook: torch.Tensor) -> float:
    """The distance of each value from every entry."""
    distances = (values.double()[:, None] - codebook.double()[None]).abs()
    return float(distances.min(1).values.square().sum())


@pytest.mark.parametrize("scale", [1.0, 1e-4], ids=["large", "small"])
@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy"])
def test_codebooks_are_near_the_best_there_are(shape: str, scale: float) -> None:
    torch.manual_seed(0)
    values = {
        "normal": torch.randn(150),
        "uniform": torch.rand(150),
        "heavy": torch.randn(150) ** 3,
    }
    values = values[shape] * scale
    codebook = fit_codebook(values, size=8)
    assert codebook.dtype == torch.float32 and len(codebook) == 8
    assert (codebook.diff() > 0).all()
    assert distortion(values, codebook) <= 1.25 * least_distortion(values, 8)


def test_a_fitted_codebook_is_the_mean_of_what_is_nearest_to_it() -> None:
    """Brute force: every value against every entry."""
    torch.manual_seed(1)
    values = torch.randn(3000)
    codebook = fit_codebook(values, size=6)
    owner = (values[:, None] - codebook[None]).abs().argmin(1)
    means = torch.stack([values[owner == k].mean() for k in range(6)])
    assert (means - codebook).abs().sum() < 0.02


def test_256_values_lose_what_theory_says() -> None:
    """A normal distribution: sqrt(3)*pi/2 / 256^2 of its variance (Panter and Dite)."""
    torch.manual_seed(0)
    values = torch.randn(100_000) * 0.02
    moved, codebook = on_codebook(values)
    assert len(codebook) == 256
    lost = float((moved - values).square().sum() / values.square().sum())
    assert lost == pytest.approx(3**0.5 * torch.pi / 2 / 256**2, rel=0.05)


def test_an_outlier_does_not_take_the_centers_of_the_others() -> None:
    torch.manual_seed(0)
    values = torch.randn(20_000)
    apart = torch.cat([values, torch.tensor([-300.0, 100.0])])
    moved, _ = on_codebook(apart)
    lost = (moved[:-2] - values).square().sum()
    assert lost < 1.1 * (on_codebook(values)[0] - values).square().sum()
    assert torch.equal(moved[-2:], apart[-2:])


def test_nearest_is_the_nearest() -> None:
    """Also between neighboring float32 numbers, and for the entries themselves."""
    torch.manual_seed(0)
    one = torch.tensor(1.0)
    close = torch.stack([one, torch.nextafter(one, one + 1), torch.nextafter(one, one - 1)])
    codebook = torch.cat([torch.randn(100), close, close * 3, torch.tensor([0.0])]).sort().values
    values = torch.cat([torch.randn(5000) * 2, codebook, (codebook[1:] + codebook[:-1]) / 2])
    indices = nearest(values, codebook)
    assert indices.dtype == torch.uint8
    found = (look_up(codebook, indices).double() - values.double()).abs()
    expected = (values.double()[:, None] - codebook.double()[None]).abs().min(1).values
    assert torch.equal(found, expected)
    assert torch.equal(look_up(codebook, nearest(codebook, codebook)), codebook)


@pytest.mark.parametrize("distinct", [0, 1, 2, 255, 256])
def test_values_that_are_on_a_codebook_stay_as_they_are(distinct: int) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(distinct) * torch.logspace(-12, 3, max(1, distinct))[:distinct]
    values = numbers.repeat(5)[torch.randperm(5 * distinct)].view(5, distinct)
    moved, codebook = on_codebook(values)
    assert torch.equal(moved, values)
    assert torch.equal(codebook, numbers.sort().values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    network = new_network()
    with torch.no_grad():
        network[0].weight[3, 2] = bad
    with pytest.raises(InputError, match=r"0\.weight: NaN or infinite values"):
        quantize(network)


def new_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(30, 40), nn.LayerNorm(300), nn.Embedding(40, 30), nn.Conv1d(8, 20, 5),
        nn.Linear(16, 16),
    )  # fmt: skip


LARGE = ["0.weight", "3.weight"]  # the last linear layer has no more weights than a codebook


def test_weights_of_more_than_256_elements_get_a_codebook_each() -> None:
    network = new_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    codebooks = quantize(network)
    assert list(codebooks) == list(quantizable_weights(network)) == LARGE
    for name, tensor in network.state_dict().items():
        if name in LARGE:
            assert set(tensor.flatten().tolist()) <= set(codebooks[name].tolist())
            assert 0 < (tensor - before[name]).norm() < 0.01 * tensor.norm()
        else:
            assert torch.equal(tensor, before[name])


def test_of_a_pruned_model_the_kept_weights_make_the_codebook() -> None:
    network = new_network()
    masks = global_magnitude_mask(network, 0.5)
    expected = {
        name: fit_codebook(weight.detach()[masks[name]])
        for name, weight in quantizable_weights(network).items()
    }
    codebooks = quantize(network, masks)
    for name, weight in quantizable_weights(network).items():
        assert torch.equal(codebooks[name], expected[name])
        assert torch.equal(weight != 0, masks[name])
        assert set(weight[masks[name]].tolist()) <= set(codebooks[name].tolist())
    assert len(codebooks["0.weight"]) == 256 < int(masks["0.weight"].sum())


@pytest.mark.parametrize("sparsity", [0.0, 0.4], ids=["dense", "sparse"])
def test_admm_follows_its_formulas(sparsity: float) -> None:
    network = new_network()
    masks = global_magnitude_mask(network, sparsity) if sparsity else None
    kept = {name: masks[name] if masks else torch.ones(()).bool() for name in LARGE}
    weights = quantizable_weights(network)
    for name, weight in weights.items():
        weight.data *= kept[name]
    admm = ADMM(rho=0.3, interval=2)
    admm.advance(0, network, masks)
    dual = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    target = {name: projected(weight.detach(), kept[name]) for name, weight in weights.items()}
    check_admm(admm, network, dual, target, 0.3)
    for updates, due in ((1, False), (2, True), (2, False), (3, False), (4, True)):
        for name, weight in weights.items():
            weight.data += 0.01 * torch.randn_like(weight) * kept[name]
        admm.advance(updates, network, masks)
        for name, weight in weights.items() if due else ():
            target[name] = projected(weight.detach() + dual[name], kept[name])
            dual[name] = dual[name] + weight.detach() - target[name]
        check_admm(admm, network, dual, target, 0.3)
    for name in LARGE:
        assert dual[name].any()
        assert not admm.dual[name][~kept[name].expand_as(dual[name])].any()
        assert not admm.target[name][~kept[name].expand_as(dual[name])].any()


def projected(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Each kept value at the nearest entry of their codebook, against every entry."""
    kept = kept.expand_as(values)
    codebook = fit_codebook(values[kept])
    result = torch.zeros_like(values)
    result[kept] = codebook[(values[kept][:, None] - codebook[None]).abs().argmin(1)]
    return result


def check_admm(admm: ADMM, network: nn.Module, dual: dict, target: dict, rho: float) -> None:
    weights = quantizable_weights(network)
    for name in weights:
        assert torch.equal(admm.target[name], target[name]), name
        assert torch.equal(admm.dual[name], dual[name]), name
    network.zero_grad()
    penalty = admm.penalty(network)
    penalty.backward()
    penalty = penalty.detach()
    apart = {name: (w + dual[name] - target[name]).detach() for name, w in weights.items()}
    expected = rho / 2 * sum(float(part.square().sum()) for part in apart.values())
    assert float(penalty) == pytest.approx(expected, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, rho * apart[name])
    with torch.no_grad():
        away = sum(float((w - target[n]).square().sum()) for n, w in weights.items())
        whole = sum(float(w.square().sum()) for w in weights.values())
    assert float(admm.distance(network)) == pytest.approx((away / whole) ** 0.5, rel=1e-5)


def test_the_penalty_draws_weights_to_their_codebooks() -> None:
    network = new_network()
    admm = ADMM(rho=1.0, interval=5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    distances = []
    for updates in range(40):
        admm.advance(updates, network)
        distances.append(float(admm.distance(network)))
        optimizer.zero_grad()
        admm.penalty(network).backward()
        optimizer.step()
    assert distances[-1] < 0.3 * distances[0]


def test_admm_goes_on_from_its_state() -> None:
    network, admm = new_network(), ADMM(0.1, 1)
    admm.advance(0, network)
    network[0].weight.data.normal_()
    admm.advance(1, network)
    other = ADMM(0.1, 1)
    other.load_state_dict(admm.state_dict())
    network[0].weight.data.normal_()
    for each in (admm, other):
        each.advance(2, network)
    assert torch.equal(admm.penalty(network), other.penalty(network))
    for name in LARGE:
        assert torch.equal(admm.dual[name], other.dual[name])


@pytest.mark.parametrize(("rho", "interval"), [(0.0, 10), (-1.0, 10), (0.1, 0)])
def test_settings_that_make_no_sense_are_refused(rho: float, interval: int) -> None:
    with pytest.raises(InputError, match=f"rho {rho:g}, interval {interval}: expected"):
        ADMM(rho, interval)


def new_criterion(task: Any, **changes: Any) -> Any:
    settings = {"_name": "quantization", "base_criterion": "ctc_attention"} | changes
    return task.build_criterion(OmegaConf.create(settings))


def test_the_penalty_counts_once_however_an_update_is_split(manifests: Path) -> None:
    """The trainer divides the sum of the losses by the sum of the sizes."""
    task = new_task(manifests)
    torch.manual_seed(0)
    model = VSRCTCAttention.build_model(VSRModelConfig(network="tiny"), task)
    criterion = new_criterion(task, rho=20.0)
    task.begin_epoch(1, model)
    task.load_dataset("train")
    dataset = task.datasets["train"]
    batches = [dataset.collater([dataset[i] for i in part]) for part in ((0, 1, 2), (3,))]
    with torch.no_grad():
        model.eval()
        loss, _, log = criterion(model, batches[0])
        assert "penalty" not in log and float(loss) == float(log["loss"])
        model.train()
        results = [criterion(model, batch) for batch in batches]
    added = sum(float(loss - log["loss"]) for loss, _, log in results)
    penalty = float(criterion.admm.penalty(model).detach())
    assert penalty > 0.5
    assert added / sum(size for _, size, _ in results) == pytest.approx(penalty, rel=1e-3)


@pytest.fixture(scope="module")
def trained(manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Four updates of a model that is pruned to half as well: the folder and the log."""
    folder = tmp_path_factory.mktemp("quantized")
    return folder, run_well(*command(manifests, folder), **ONE_THREAD)


def command(data: Path, folder: Path) -> list[object]:
    base = {"base_criterion": "ctc_attention", "base_options": '{"ctc_weight": 0.3}',
            "quantization_interval": 2}  # fmt: skip
    words = train(
        data, folder, "--max-update", 4, "--sparsity", 0.5,
        "--base-criterion", "quantization", "--base-options", json.dumps(base),
    )  # fmt: skip
    words[words.index("vsr")] = "vsr_sparse"
    words[words.index("ctc_attention")] = "pruning"
    return words


@pytest.mark.slow
def test_training_logs_what_it_pulls_at(trained: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in re.findall(r"\{\"epoch.*\}", trained[1])]
    lines = [line for line in lines if "penalty" in line]
    assert len(lines) == 4
    for line in lines:
        assert float(line["sparsity"]) == pytest.approx(0.5, abs=1e-4)
        assert 0 < float(line["codebook_distance"]) < 0.2 and float(line["penalty"]) > 0
        assert float(line["loss"]) > float(line["loss_attention"]) > 0


@pytest.mark.slow
def test_resumed_is_uninterrupted(
    trained: tuple[Path, str], manifests: Path, tmp_path: Path
) -> None:
    """A run resumes between two steps of ADMM with its state."""
    shutil.copy(trained[0] / "checkpoint_2_3.pt", tmp_path / "checkpoint_last.pt")
    log = run_well(*command(manifests, tmp_path), **ONE_THREAD)
    assert "@ 3 updates" in log
    one, two = (read_torch_file(f / "checkpoint_last.pt") for f in (trained[0], tmp_path))
    assert [n for n in one["model"] if not torch.equal(one["model"][n], two["model"][n])] == []
    states = [stored["extra_state"]["SparseVSRTask"]["quantization"] for stored in (one, two)]
    for part in ("dual", "target"):
        assert states[0][part].keys() == states[1][part].keys()
        for name, tensor in states[0][part].items():
            assert tensor.any() and torch.equal(tensor, states[1][part][name]), name


@pytest.mark.slow
def test_training_is_on_the_codebooks_of_the_kept_weights(trained: tuple[Path, str]) -> None:
    stored = read_torch_file(trained[0] / "checkpoint_last.pt")
    target = stored["extra_state"]["SparseVSRTask"]["quantization"]["target"]
    model = load_model(trained[0] / "checkpoint_last.pt")
    for name, weight in quantizable_weights(model).items():
        values = target[f"recognizer.{name}"]
        assert torch.equal(values == 0, weight == 0), name
        assert len(values[values != 0].unique()) <= 256


@pytest.mark.parametrize(("folder", "size"), [("lrs3", ["vsr_base_l"]), ("tiny", [])])
def test_the_settings_files(folder: str, size: list[str]) -> None:
    words = [
        word
        for name in ("vsr", *size, "quantize")
        for line in (ROOT / f"scripts/config/{folder}/{name}.args").read_text().splitlines()
        if not line.startswith("#")
        for word in line.split()
    ]
    parser = options.get_training_parser()
    arguments = ["data", "--user-dir", str(ROOT / "fairseq_user_dir"), *words]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
    criterion = cfg.criterion
    assert (criterion.rho, criterion.quantization_interval) == (0.1, 10)
    assert criterion.base_criterion == "ctc_attention"
    assert json.loads(criterion.base_options).get("label_smoothing", 0.1) == 0.1
    schedule = {"lrs3": "cosine_epochs", "tiny": "cosine"}[folder]
    assert cfg.task._name == "vsr" and cfg.lr_scheduler._name == schedule
    if folder == "lrs3":
        assert (cfg.optimization.max_epoch, cfg.model.network) == (75, "base-l")
