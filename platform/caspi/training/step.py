"""One optimizer update over all workers: gradients summed, divided once by the global number of supervised tokens.

A step in which some rank runs out of memory is done again by all of them in smaller micro-batches. By then nothing
has been changed and nothing but a few totals sent, so the update comes out the same.
"""

import dataclasses
import enum
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from caspi.errors import TrainingError
from caspi.model import Batch, loss_sums
from caspi.model.flops import Workload
from caspi.recipe.sections import Optimizer
from caspi.training import eight_bit, parameters
from caspi.training.profiling import StepClock
from caspi.training.sharding import is_shared, share_of
from caspi.training.transfer import transferred

logger = logging.getLogger(__name__)

_BUCKET_ELEMENTS = 16 * 2**20  # gradients travel in pieces of so many fp32 numbers: 64 MiB


class Stop(enum.IntEnum):
    """Why a run ends before its last step. Where ranks disagree, the largest counts."""

    NO = 0
    PATIENCE = 1  # the model has not become better for long enough
    PREEMPTED = 2  # a machine is about to be taken away
    FAILED = 3  # rank 0 cannot go on, for instance because the disk is full


class DoesNotFit(TrainingError):
    """On every rank at once: one utterance alone does not fit into some rank's memory."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one update did: the same on every rank, but for `seconds`."""

    loss: float  # mean cross-entropy per supervised token of the global batch
    alignment_loss: float  # CTC, per supervised token likewise; zero where its weight is
    grad_norm: float  # of the global gradient, before clipping
    num_tokens: int  # supervised
    audio_s: float
    padded_s: float  # what the micro-batches' rectangles hold
    num_positions: float  # tokens with their padding: what the decoder computes
    work: Workload  # what the utterances gave it to do
    seconds: dict[str, float]  # of this rank, by the parts of a step
    num_halvings: int  # how often memory ran out on some rank before the step was done
    max_padded_s: float | None  # if it did: half of what ran out last, the most to try at once from now on
    stop: Stop  # what some rank asked for


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimized, and how."""

    device: torch.device
    autocast: torch.dtype | None
    max_grad_norm: float
    alignment_weight: float = 0.0
    label_smoothing: float = 0.0
    is_sharded: bool = False  # layers are gathered from all ranks, so none may stop in the middle of a step
    before_forward: Callable[[Batch], None] | None = None  # tests let memory run out here


def train_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    objective: Objective,
    *,
    idle: Sequence[Batch] = (),
    stop: Stop = Stop.NO,
) -> StepResult:
    """Do one update from this rank's micro-batches, of which there may be none.

    Every rank must call this for every step, or the others wait for ever in the reduction.

    Args:
        idle: micro-batches that count for nothing. Ranks of a sharded model need them to run as often as the others.
        stop: this rank's wish to end the run after the step; all learn of it with the totals.

    Raises:
        DoesNotFit: on every rank.
        TrainingError: on this rank: memory ran out, and the model is sharded.
    """
    clock = StepClock(objective.device)
    num_halvings, max_padded_s = 0, None
    while True:
        with clock.part("optimizer"):
            _forget_gradients(model)
        totals = _accumulate(model, batches, objective, clock)
        arriving = transferred(idle, objective.device)
        for batch in idle:
            _forward_backward(model, batch, arriving, objective, clock, weight=0.0)
        totals.ask(stop)
        with clock.part("reduce"):
            _sum_over_ranks([totals.values])
        if not totals["out_of_memory"]:
            break
        if totals["hopeless"]:
            raise DoesNotFit(
                "out of memory: some utterance does not fit even alone; lower data.filters.max_duration_s, turn on "
                "training.gradient_checkpointing, or take GPUs with more memory"
            )
        batches = [half for batch in batches for half in halves(batch)]
        num_halvings += 1
        max_padded_s = totals["failed_s"] / totals["out_of_memory"] / 2
        _release_memory(objective.device)
    gradients = _gradients(model)
    shares = [share_of(gradient) for gradient in gradients if is_shared(gradient)]  # summed by the backward pass
    gradients = [gradient for gradient in gradients if not is_shared(gradient)]
    with clock.part("reduce"):
        _sum_over_ranks(gradients)
    num_tokens = totals["num_tokens"]
    with clock.part("optimizer"):
        torch._foreach_div_([*gradients, *shares], num_tokens)
        grad_norm = _clip(gradients, shares, objective.max_grad_norm)
        optimizer.step()
    return StepResult(
        loss=totals["cross_entropy"] / num_tokens,
        alignment_loss=totals["alignment"] / num_tokens,
        grad_norm=float(grad_norm),  # waits for the device, so the clock below need not
        num_tokens=int(num_tokens),
        audio_s=totals["audio_s"],
        padded_s=totals["padded_s"],
        num_positions=totals["num_positions"],
        work=Workload(*(totals[name] for name in _WORK)),
        seconds=clock.seconds(),
        num_halvings=num_halvings,
        max_padded_s=max_padded_s,
        stop=totals.stop,
    )


def try_batch(model: Any, batch: Batch, objective: Objective) -> bool:
    """Compute a batch forward and backward, to no effect. Whether there was enough memory."""
    totals = _accumulate(model, [batch], objective, StepClock(objective.device))
    _forget_gradients(model)
    return not totals["out_of_memory"]


def halves(batch: Batch) -> Sequence[Batch]:
    """The two halves of a batch; one utterance stays whole."""
    return batch.halves() if batch.num_utterances > 1 else (batch,)


_WORK = tuple(field.name for field in dataclasses.fields(Workload))


class _Totals:
    """Sums over micro-batches and then over ranks, in one message."""

    _NAMES = (
        *("cross_entropy", "alignment", "num_tokens", "audio_s", "padded_s", "num_positions"),
        *_WORK,
        *("out_of_memory", "failed_s", "hopeless"),  # ranks that ran out, over how much audio, and of one utterance
    )

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(len(self._NAMES) + len(Stop), dtype=torch.float64, device=device)

    def __getitem__(self, name: str) -> float:
        return float(self.values[self._NAMES.index(name)])

    def add(self, **amounts: float) -> None:
        added = [amounts.get(name, 0.0) for name in self._NAMES] + [0.0] * len(Stop)
        self.values += torch.tensor(added, dtype=torch.float64, device=self.values.device)

    def ask(self, stop: Stop) -> None:
        self.values[len(self._NAMES) + stop] += 1

    @property
    def stop(self) -> Stop:
        wishes = self.values[len(self._NAMES) :].tolist()
        return max(wish for wish in Stop if wishes[wish])


def _accumulate(model: Any, batches: Sequence[Batch], objective: Objective, clock: StepClock) -> _Totals:
    """Run this rank's micro-batches forward and backward. Stops at the first for which there is no memory."""
    totals = _Totals(objective.device)
    arriving = transferred(batches, objective.device)
    for batch in batches:
        try:
            totals.add(**_forward_backward(model, batch, arriving, objective, clock))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if objective.is_sharded:
                raise TrainingError(
                    f"out of memory with training.sharding: {batch.padded_s:.1f} s of audio at once; the other workers "
                    "wait in the middle of the step, so it cannot be done again in halves. Lower "
                    "training.batches.max_micro_batch_s, or let `auto` measure what fits"
                ) from error
            logger.warning(
                "out of memory: utterances=%d padded_s=%.1f: %s",
                batch.num_utterances,
                batch.padded_s,
                next(iter(str(error).splitlines()), type(error).__name__),
            )
            totals.add(out_of_memory=1, failed_s=batch.padded_s, hopeless=batch.num_utterances == 1)
            break
    return totals


def _forward_backward(
    model: Any, batch: Batch, arriving: Iterator[Batch], objective: Objective, clock: StepClock, *, weight: float = 1.0
) -> dict[str, float]:
    """Forward and backward of the next batch that arrives on the device; `batch` is the same one on the CPU."""
    if objective.before_forward is not None:
        objective.before_forward(batch)
    with_alignment = objective.alignment_weight > 0
    autocast = torch.autocast(objective.device.type, dtype=objective.autocast, enabled=objective.autocast is not None)
    with clock.part("forward"), autocast:
        losses = loss_sums(
            model,
            next(arriving),
            with_alignment=with_alignment,
            label_smoothing=objective.label_smoothing,
        )
    with clock.part("backward"):
        (weight * (losses.objective + objective.alignment_weight * losses.alignment)).backward()
    # The rest is asked of the batch on the CPU: nothing waits for the device but the two sums.
    return {
        "cross_entropy": losses.cross_entropy.item(),
        "alignment": losses.alignment.item(),
        "num_tokens": batch.num_supervised,
        "audio_s": batch.audio_s,
        "padded_s": batch.padded_s,
        "num_positions": batch.num_tokens,
        **dataclasses.asdict(Workload.of_batch(model.config, batch, with_alignment=with_alignment)),
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and cuBLAS raise plain RuntimeErrors.
    said = str(error)
    return "can't allocate memory" in said or "out of memory" in said or "CUBLAS_STATUS_ALLOC_FAILED" in said


def _release_memory(device: torch.device) -> None:
    """Give cached blocks back, so that smaller ones fit where large ones were."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """bf16 where asked for, or where `auto` finds a GPU that has it. Never fp16: its range needs loss scaling."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else None
    return torch.bfloat16 if precision == "bf16" else None


def build_optimizer(model: Any, settings: Optimizer) -> torch.optim.Optimizer:
    """AdamW on the fp32 weights that are trained.

    Gradients and moments exist from the start: what the optimizer needs is taken before the first step finds out what
    is left, and never in the middle of an update.

    Raises:
        RequestError: `settings.states` needs a package that is not installed.
    """
    groups = parameters.groups(model, settings)
    trained = [parameter for group in groups for parameter in group["params"]]
    for parameter in trained:
        # A rank whose share of a step is empty must bring zeros to the reduction, not nothing.
        parameter.grad = _zeros(parameter)
    if settings.states == "8bit":
        return eight_bit.adamw(groups, betas=settings.betas, embedding=model.get_input_embeddings().weight)
    optimizer = torch.optim.AdamW(groups, betas=settings.betas, fused=True)
    for parameter in trained:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            **{moment: _zeros(parameter) for moment in ("exp_avg", "exp_avg_sq")},
        }
    return optimizer


def _zeros(parameter: torch.Tensor) -> torch.Tensor:
    """Written, so that they are in memory: the system gives what `torch.zeros` asks for when it is first touched."""
    return torch.empty_like(parameter).zero_()


def learning_rate(settings: Optimizer, *, step: int, num_steps: int) -> float:
    """The rate of update `step`, counted from 0: a linear warm-up, then the schedule down to `final_share`."""
    warmup = max(1, round(settings.warmup_share * num_steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - 1 - warmup)
    remaining = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
    floor = settings.final_share if settings.schedule != "constant" else 0.0
    return settings.learning_rate * (floor + (1 - floor) * remaining[settings.schedule])


def _gradients(model: Any) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _forget_gradients(model: Any) -> None:
    """Zeros, and not nothing, see `build_optimizer`."""
    torch._foreach_zero_([*map(share_of, _gradients(model))])


def _clip(gradients: Sequence[torch.Tensor], shares: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Clip by the norm of all gradients together, which comes back: those that are whole here, and shares of others."""
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if shares:
        squares = torch.nn.utils.get_total_norm(shares, foreach=True) ** 2
        _sum_over_ranks([squares])
        norm = (norm**2 + squares).sqrt()
    # As torch.nn.utils.clip_grads_with_norm_ does.
    torch._foreach_mul_([*gradients, *shares], torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def _sum_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Sum in place over all ranks, in a few large messages.

    Not DistributedDataParallel, whose reduction is woven into the backward pass: ranks here may run different numbers
    of micro-batches, and a rank that fails in one can still tell the others before anything is sent.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > _BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
