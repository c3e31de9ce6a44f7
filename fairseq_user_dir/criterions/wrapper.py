"""Criterions that add something to another one: `--base-criterion NAME --base-options JSON`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fairseq.criterions import (
    CRITERION_DATACLASS_REGISTRY,
    CRITERION_REGISTRY,
    FairseqCriterion,
)
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avhubert_ext.errors import InputError

from ..base import parse_json


@dataclass
class WrapperConfig(FairseqDataclass):
    base_criterion: str = field(
        default="cross_entropy", metadata={"help": "the criterion that is wrapped, by name"}
    )
    base_options: str = field(
        default="{}",
        metadata={"help": 'its options as JSON: {"label_smoothing": 0.1}'},
    )


Logs = list[dict[str, Any]]


def without(logs: Logs, names: Sequence[str]) -> Logs:
    """The logs as the base made them."""
    return [{k: v for k, v in log.items() if k not in names} for log in logs]


def log_means(logs: Logs, names: Sequence[str], batches: str, digits: int) -> None:
    """Log the means over batches of what a wrapper added; `batches` is their number in a log."""
    count = sum(float(log.get(batches, 0)) for log in logs)
    for name in (name for name in names if name in logs[0]):
        mean = sum(float(log[name]) for log in logs) / count
        metrics.log_scalar(name, mean, weight=count, round=digits)


class Wrapper(FairseqCriterion):
    """Becomes, when it is built, a subclass of the criterion it wraps too; wrappers nest."""

    @classmethod
    def build_criterion(cls, cfg: WrapperConfig, task: FairseqTask) -> FairseqCriterion:
        name = cfg.base_criterion
        base, config = CRITERION_REGISTRY.get(name), CRITERION_DATACLASS_REGISTRY.get(name)
        if base is None or config is None:
            raise InputError(
                f"base_criterion {name}: unknown; choose one of "
                f"{', '.join(sorted(CRITERION_DATACLASS_REGISTRY))}"
            )
        options = parse_json(cfg.base_options, "base_options")
        known = [f.name for f in fields(config) if f.name != "_name"]
        if unknown := options.keys() - set(known):
            raise InputError(f"base_options: {name} knows no {sorted(unknown)}; expected {known}")
        # What the task knows by the same name, as --ctc-weight, is one option for both.
        shared = {name: getattr(task.cfg, name) for name in known if hasattr(task.cfg, name)}
        try:
            base_cfg = OmegaConf.merge(OmegaConf.structured(config()), shared, options)
        except OmegaConfBaseException as error:
            raise InputError(f"base_options: {str(error).splitlines()[0]}") from None
        # Below the same parent, for options that stand for others, as ${optimization.sentence_avg}.
        base_cfg._set_parent(cfg._get_parent())
        # The base, if it is a wrapper too, takes up its own options by its own way.
        own = {"prepare": base.prepare} if issubclass(base, Wrapper) else {}
        both = type(f"{cls.__name__}Of{base.__name__}", (cls, base), own)
        criterion = base.build_criterion.__func__(both, base_cfg, task)
        cls.prepare(criterion, cfg)
        return criterion

    def prepare(self, cfg: WrapperConfig) -> None:
        """Take up the wrapper's own options."""
        raise NotImplementedError
