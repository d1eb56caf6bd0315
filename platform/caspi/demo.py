"""`caspi demo`: the whole way on this machine. Speech in, an endpoint that understands it out.

OUTPUT/
  speech/       what was spoken, as two hub datasets, and the truth about it
  corpus/       what `prepare` made of it
  run/          the training run; the best model is run/model
  untrained/    evaluation of the model before training
  evaluation/   evaluation of the fine-tuned model, with report.html
  demo.json     every figure of the closing screen
"""

import concurrent.futures
import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import caspi
from caspi import evaluation, ray_session, synthesis, tracking
from caspi.console import Console
from caspi.corpus import Corpus, prepare
from caspi.errors import RequestError, ServingError
from caspi.memory import PeakMemory, watch_memory
from caspi.recipe import Recipe, load_recipe

MODEL_NAME = "caspi-demo"
NUM_STAGES = 7

# Clips sent at once to measure the endpoint: enough to fill batches.
_CLIPS_ASKED = 48
_CONCURRENT = 16


@dataclass
class Demo:
    """What one run of the demo knows."""

    output: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Announce a stage and time it."""
        print(f"[{len(self.seconds) + 1}/{NUM_STAGES}] {title}", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def run_demo(output: Path, *, num_utterances: int | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run all stages, write `output/demo.json`, print the closing screen.

    Raises:
        RequestError: `output` holds something that is not an earlier demo.
        CaspiError: whatever a stage meets.
    """
    output = output.absolute()
    recipe = _recipe(output, overrides)
    _claim(output)
    demo = Demo(output, Console())
    started = time.perf_counter()
    with watch_memory() as memory, ray_session.connect(), tracking.server() as uri:
        _speak(demo, num_utterances)
        corpus = _prepare(demo, recipe)
        _train(demo, recipe, corpus)
        _evaluate(demo, recipe, corpus)
        _promote(demo, uri)
        _ask(demo, recipe, corpus)
    _finish(demo, memory, time.perf_counter() - started)
    return demo.figures


def _recipe(output: Path, overrides: Sequence[str]) -> Recipe:
    """jobs/recipes/demo.yaml, reading what this demo speaks."""
    path = Path(caspi.__file__).parents[2] / "jobs" / "recipes" / "demo.yaml"
    speech = [f"data.sources.{i}.path={output / 'speech' / place}" for i, place in enumerate(_SPEECH)]
    return load_recipe(path, overrides=[*speech, *overrides])


_SPEECH = (
    "crowd-transcribe-v5/data/train-*.parquet",
    "crowd-transcribe-v5/data/test-*.parquet",
    "crowd-recital-whisper-training/data/train-*.parquet",
)


def _claim(output: Path) -> None:
    """Start afresh: remove an earlier demo, and nothing else."""
    marker = output / "demo.json"
    if output.exists() and any(output.iterdir()):
        if not marker.exists():
            raise RequestError(f"{output}: exists and is not an earlier demo; give another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    marker.write_text("{}", encoding="utf-8")


def _speak(demo: Demo, num_utterances: int | None) -> None:
    with demo.stage("synthesize", "speaking Hebrew sentences in many voices (eSpeak NG)"):
        made = synthesis.synthesize(
            demo.output / "speech",
            num_utterances=num_utterances or synthesis.NUM_UTTERANCES,
            on_progress=demo.console.synthesis,
        )
        demo.console.line(
            f"{made.num_utterances} utterances, {made.hours['train']:.2f} h to train on, "
            f"{made.hours['test']:.2f} h of new sentences in new voices to test with, {made.num_bad} bad rows"
        )


def _prepare(demo: Demo, recipe: Recipe) -> Corpus:
    with demo.stage("prepare", "preparing: decode, resample, cut, normalize, judge, shuffle (Ray Data)"):
        corpus = prepare(recipe, demo.output / "corpus", on_progress=demo.console.preparation)
        tracking.record_preparation(recipe, corpus)
        demo.console.manifest(corpus.manifest)
    speed = json.loads((corpus.path / "prepare.json").read_text(encoding="utf-8"))
    demo.figures |= {
        "hours_prepared": corpus.manifest["hours"],
        "rejected_by_reason": corpus.manifest["rejected_by_reason"],
        "prepare_rtfx": speed["rtfx"],
    }
    return corpus


def _train(demo: Demo, recipe: Recipe, corpus: Corpus) -> None:
    from caspi.training import train

    workers = recipe.training.workers.most
    with demo.stage("train", f"fine-tuning a toy Qwen3-ASR on {workers} workers (Ray Train), curves in MLflow"):
        result = train(recipe, corpus=corpus.path, output=demo.output / "run", on_progress=demo.console.training)
    demo.figures |= {"loss_first": result.loss_first, "loss_last": result.loss_last, "train_rtfx": result.rtfx}


def _evaluate(demo: Demo, recipe: Recipe, corpus: Corpus) -> None:
    with demo.stage("evaluate", "evaluating on held-out sentences and voices, before and after training"):
        for key, model, folder in (("wer_untrained", "start", "untrained"), ("wer", "model", "evaluation")):
            metrics = evaluation.evaluate(
                demo.output / "run" / model,
                corpus,
                output=demo.output / folder,
                limits=recipe.inference,
                on_progress=demo.console.evaluation,
            )
            tracking.record_evaluation(demo.output / folder)
            how_sure = evaluation.intervals.describe(metrics["wer_interval"])
            demo.console.line(f"run/{model}: WER {metrics['wer']:.1%} ({how_sure})")
            demo.figures[key] = metrics["wer"]
    demo.figures["cer"] = metrics["cer"]


def _promote(demo: Demo, uri: str) -> None:
    with demo.stage("promote", "registering the model in MLflow"):
        # Without the gate: an earlier demo's champion may have been tested on other sentences, and this one is wanted.
        promotion = tracking.promote(
            demo.output / "run" / "model", MODEL_NAME, uri=uri, evaluation=demo.output / "evaluation", ask_gate=False
        )
        demo.console.line(f"models:/{MODEL_NAME}@champion is version {promotion.version}")


def _ask(demo: Demo, recipe: Recipe, corpus: Corpus) -> None:
    """Serve the champion and ask it, as a user would."""
    from caspi.inference.serving import endpoint

    utterances = [row for _, row in zip(range(_CLIPS_ASKED), corpus.iter_utterances("test"), strict=False)]
    with contextlib.ExitStack() as stack:
        with demo.stage("serve", "serving models:/caspi-demo@champion (Ray Serve)"):
            url = stack.enter_context(
                endpoint(f"models:/{MODEL_NAME}@champion", port=0, serving=recipe.serving, inference=recipe.inference)
            )
            demo.console.line(f"{url}/v1/audio/transcriptions answers")
        with demo.stage("ask", "asking it with OpenAI's client"):
            answers, seconds = _transcribe_all(url, [row.audio for row in utterances])
            demo.console.line(f"{len(answers)} clips, {_CONCURRENT} at a time, in {seconds:.1f} s")
    demo.figures |= {
        "serve_rtfx": sum(row.duration_s for row in utterances) / seconds,
        "reference": utterances[0].text,
        "answer": answers[0],
    }


def _transcribe_all(url: str, clips: Sequence[bytes]) -> tuple[list[str], float]:
    """The endpoint's text for each clip, and the seconds all of them took together."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=120.0, max_retries=2)

    def ask(clip: bytes) -> str:
        answer = client.audio.transcriptions.create(
            file=("clip.flac", clip), model="caspi", language="he", response_format="json"
        )
        return answer.text

    try:
        ask(clips[0])  # the first answer also pays for the connection and the model's first steps
        started = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(_CONCURRENT) as pool:
            return list(pool.map(ask, clips)), time.perf_counter() - started
    except openai.OpenAIError as error:
        raise ServingError(f"the endpoint at {url} did not answer: {error}") from error


def _finish(demo: Demo, memory: PeakMemory, seconds: float) -> None:
    demo.figures |= {"seconds_by_stage": demo.seconds, "seconds": seconds, "peak_memory_bytes": memory.bytes}
    content = json.dumps(demo.figures, indent=1, ensure_ascii=False)
    (demo.output / "demo.json").write_text(content, encoding="utf-8")
    _show(demo)


def _show(demo: Demo) -> None:
    """The closing screen."""
    figures, place = demo.figures, _short(demo.output)
    rejected = figures["rejected_by_reason"]
    rows = {
        "prepared": f"{figures['hours_prepared']:.2f} hours, and {sum(rejected.values())} rejected: "
        + ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())),
        "loss": f"{figures['loss_first']:.3f} -> {figures['loss_last']:.3f} per supervised token",
        "WER": f"{figures['wer_untrained']:.1%} untrained -> {figures['wer']:.1%} fine-tuned "
        f"(CER {figures['cer']:.1%}), on new sentences in new voices",
        "speed": f"{figures['prepare_rtfx']:.0f} x real time preparing, {figures['train_rtfx']:.0f} x training, "
        f"{figures['serve_rtfx']:.0f} x serving",
        "took": f"{figures['seconds']:.0f} s and {figures['peak_memory_bytes'] / 2**30:.1f} GiB of memory",
        "said": figures["reference"],
        "understood": figures["answer"],
    }
    print("\nCaspi, the whole way")
    for name, value in rows.items():
        print(f"  {name:<12}{value}")
    print(f"\nTo go on (report: {place}/evaluation/report.html)")
    for command, why in (
        ("caspi mlflow", "curves, reports and models in the browser"),
        (f"caspi serve --model models:/{MODEL_NAME}@champion", "the endpoint and its page again"),
        ("caspi prepare RECIPE --output CORPUS", "your own data; then `caspi train`, see README.md"),
    ):
        print(f"  {command:<50}  {why}")


def _short(path: Path) -> str:
    """Relative to where the user is, where that is possible."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
