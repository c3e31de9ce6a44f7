"""Criterions that add a term or metrics to another criterion.

Such a criterion has the other one as its part, which `--base-criterion NAME` names and
`--base-options JSON` configures. The other one may be of the same kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

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
from torch import Tensor, nn

from avhubert_ext.errors import InputError

from ..options import parse_json

Logs = list[dict[str, Any]]


@dataclass
class WrapperConfig(FairseqDataclass):
    """The options that select the criterion to add to."""

    base_criterion: str = field(
        default="cross_entropy",
        metadata={"help": "The criterion that this one adds to, by its name in --criterion."},
    )
    base_options: str = field(
        default="{}",
        metadata={
            "help": "The options of the base criterion as JSON, for example "
            '{"label_smoothing": 0.1}.'
        },
    )


class Wrapper(FairseqCriterion):
    """A criterion with another one, `base`, as its part.

    A subclass adds to what `base` computes, and logs only what it added: the task logs the rest
    with `base` (`AVTask.reduce_metrics`).
    """

    added: ClassVar[Sequence[str]] = ()  # the metrics that a subclass adds to a batch's log
    batches: ClassVar[str]  # the key in a log with the number of batches that have them
    digits: ClassVar[int] = 4

    def __init__(self, task: FairseqTask, base: FairseqCriterion) -> None:
        super().__init__(task)
        self.base = base

    @classmethod
    def build_criterion(cls, cfg: WrapperConfig, task: FairseqTask) -> "Wrapper":
        """Build the criterion and its base.

        Args:
            cfg: The options of the subclass.
            task: The task of the run.

        Returns:
            The criterion, with its base in `base`.

        Raises:
            InputError: The base criterion or one of its options is unknown or invalid, or the
                subclass cannot be used with this task.
        """
        return cls.with_base(cfg, task, build_base(cfg, task))

    @classmethod
    def with_base(cls, cfg: WrapperConfig, task: FairseqTask, base: FairseqCriterion) -> "Wrapper":
        """Make the criterion from its own options and its base, as `build_criterion`."""
        raise NotImplementedError

    def forward(
        self, model: nn.Module, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """What the base computes: the loss, the sample size and the metrics of one batch."""
        return self.base(model, sample, *args, **kwargs)

    def logging_outputs_can_be_summed(self) -> bool:
        return self.base.logging_outputs_can_be_summed()

    @classmethod
    def base_logs(cls, logging_outputs: Logs) -> Logs:
        """The logs as the base made them."""
        own = (cls.batches, *cls.added)
        return [{k: v for k, v in log.items() if k not in own} for log in logging_outputs]

    @classmethod
    def reduce_metrics(cls, logging_outputs: Logs) -> None:
        """Log the means over batches of the added metrics, without those of the base."""
        count = sum(float(log.get(cls.batches, 0)) for log in logging_outputs)
        for name in (name for name in cls.added if name in logging_outputs[0]):
            mean = sum(float(log[name]) for log in logging_outputs) / count
            metrics.log_scalar(name, mean, weight=count, round=cls.digits)


def build_base(cfg: WrapperConfig, task: FairseqTask) -> FairseqCriterion:
    """Build the criterion that another one adds to.

    Args:
        cfg: Its name in `base_criterion`, its options in `base_options`. An option that the task
            has by the same name, for example `ctc_weight`, has the task's value by default.
        task: The task of the run.

    Returns:
        The criterion.

    Raises:
        InputError: The criterion or one of its options is unknown, or a value is invalid.
    """
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
        raise InputError(
            f"base_options: {name} has no option {sorted(unknown)}; expected some of {known}"
        )
    shared = {name: getattr(task.cfg, name) for name in known if hasattr(task.cfg, name)}
    try:
        base_cfg = OmegaConf.merge(OmegaConf.structured(config()), shared, options)
    except OmegaConfBaseException as error:
        raise InputError(f"base_options: {str(error).splitlines()[0]}") from None
    # Under the same parent, for options that refer to others: ${optimization.sentence_avg}.
    base_cfg._set_parent(cfg._get_parent())
    return base.build_criterion(base_cfg, task)
