"""What `caspi plan` prints."""

from collections.abc import Sequence

from caspi.model.flops import Parts
from caspi.training import devices
from caspi.training.cost import CostPlan, Estimate
from caspi.training.footprint import GIB
from caspi.training.measuring import MeasuredPlan
from caspi.training.survey import Survey


def of_gpu(plan: CostPlan, *, price_per_hour: float | None) -> str:
    """A table with a row for each variant. Without a price, the examples that Caspi knows are taken."""
    gpu = plan.gpu
    prices = {"cost": price_per_hour} if price_per_hour is not None else {"on demand": gpu.on_demand, "spot": gpu.spot}
    head = ("variant", "weights", "trained", "recompute", "GiB a GPU", "fits", "MFU", "bound by", "hours", *prices)
    rows = [_row(plan, estimate, list(prices.values())) for estimate in plan.estimates]
    used = ", ".join(f"{price:.2f} {name}" for name, price in prices.items())
    what = (
        "as given" if price_per_hour is not None else f"examples of {devices.prices_as_of()}; give yours with --price"
    )
    return "\n".join(
        [
            *_lines(plan.survey),
            f"{gpu.name}: {gpu.peak_flops / 1e12:.0f} TFLOP/s, {gpu.memory_gib:.0f} GiB",
            f"USD per GPU and hour: {used} ({what})",
            "",
            *_aligned([head, *rows]),
            "",
            "MFU is assumed. Once a run has shown its own as train/mfu, give it with --mfu.",
        ]
    )


def of_machine(plan: MeasuredPlan, *, price_per_hour: float | None) -> str:
    """What a few steps on this machine say of the whole run."""
    speed = plan.speed
    seconds = sorted(speed.seconds)
    money = "" if price_per_hour is None else f", {plan.cost(price_per_hour):,.2f} at {price_per_hour:.2f} a worker"
    return "\n".join(
        [
            *_lines(plan.survey),
            f"measured: {len(seconds)} steps, {seconds[len(seconds) // 2]:.3f} s each (median); "
            f"{speed.memory_bytes / GIB:.1f} GiB a worker; a validation {speed.validation_s:.1f} s",
            f"together: {plan.hours:.2f} h ({plan.steps_s / 3600:.2f} h of steps, "
            f"{plan.validations_s / 3600:.2f} h of validations at most){money}",
        ]
    )


def _lines(survey: Survey) -> list[str]:
    return [
        f"{survey.num_steps:,} steps of {survey.num_utterances:,} utterances, {survey.audio_s / 3600:,.1f} h of audio, "
        f"on {survey.num_workers} workers",
        f"{survey.num_micro_batches:,} micro-batches, at most {survey.largest.positions:,} tokens each; "
        f"packing efficiency {survey.packing_efficiency:.1%}",
    ]


def _row(plan: CostPlan, estimate: Estimate, prices: Sequence[float]) -> tuple[str, ...]:
    variant = estimate.variant
    return (
        variant.name,
        f"{variant.num_weights / 1e6:,.0f} M",
        f"{variant.num_trained / 1e6:,.1f} M",
        _layers(estimate.recomputed),
        f"{estimate.footprint.total / GIB:.1f}",
        "yes" if estimate.fits else "no",
        f"{estimate.mfu:.0%}",
        "reading" if estimate.reading_s > estimate.computing_s else "computing",
        f"{estimate.hours:.2f}",
        *(f"{plan.cost(estimate, price):,.2f}" for price in prices),
    )


def _layers(recomputed: Parts) -> str:
    """Of encoder and decoder, how much of the layers."""
    if recomputed.encoder == recomputed.decoder:
        return {0.0: "no", 1.0: "all"}.get(recomputed.encoder, f"{recomputed.encoder:.0%}")
    return f"{recomputed.encoder:.0%}/{recomputed.decoder:.0%}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
