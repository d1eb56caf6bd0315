"""The command line: parse, call, print. Each command is a page of some module, imported when it is called."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from caspi import command
from caspi.errors import RequestError

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 the request was wrong."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows `--` belongs to the job that `submit` starts. argparse's own REMAINDER would swallow our options too.
    place = words.index("--") if words[:1] == ["submit"] and "--" in words else len(words)
    args = build_parser().parse_args(words[:place])
    args.job_arguments = words[place + 1 :]
    return command.run(lambda: args.function(args))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caspi", description="Teach Qwen3-ASR a language it does not know, and serve it."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = _add(commands, "demo", _demo, "the whole way on this machine, in a few minutes")
    demo.add_argument("--output", type=command.folder, default=Path("runs/demo"), help="default: %(default)s")
    demo.add_argument("--utterances", type=int, help="sentences to speak; fewer are quicker and teach less")
    command.add_overrides(demo)
    _add_corpus_commands(commands)
    _add_training_commands(commands)
    _add_judging_commands(commands)
    _add_serving_commands(commands)
    _add_surrounding_commands(commands)
    return parser


def _add_corpus_commands(commands: _Commands) -> None:
    synthesize = _add(commands, "synthesize", _synthesize, "a spoken Hebrew corpus with known texts, from nothing")
    synthesize.add_argument("--output", type=command.folder, required=True)
    synthesize.add_argument("--utterances", type=int, help="sentences to speak")
    synthesize.add_argument("--seed", type=int, help="the same seed gives the same bytes")

    prepare = _add(commands, "prepare", _prepare, "sources to corpus")
    command.add_recipe(prepare)
    prepare.add_argument("--output", type=command.folder, required=True, metavar="CORPUS")
    instead = prepare.add_mutually_exclusive_group()
    instead.add_argument("--overwrite", action="store_true", help="replace a corpus that is there already")
    instead.add_argument("--update", action="store_true", help="prepare only what the corpus does not hold yet")

    export = _add(commands, "export", _export, "a corpus or a model in a format that other tools read")
    what = export.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", help=command.CORPUS)
    what.add_argument("--model", help=command.MODEL)
    export.add_argument(
        "--output", type=command.folder, required=True, metavar="DIR", help="a folder that is not there yet"
    )
    formats = ("qwen_jsonl", "nemo", "webdataset", "hf_parquet")
    export.add_argument("--format", choices=formats, help="of a corpus; default: qwen_jsonl")
    splits = ("train", "validation", "test", "all")
    export.add_argument("--split", choices=splits, help="of a corpus; default: all")
    export.add_argument("--layout", choices=("native", "qwen"), help="of a model: transformers' own, or the original")
    export.add_argument("--language", help="a language that the model has learnt, to be listed in the layout qwen")


def _add_training_commands(commands: _Commands) -> None:
    train = _add(commands, "train", _train, "corpus to model; the best one is at RUN/model")
    command.add_recipe(train)
    train.add_argument("--corpus", required=True, help=command.CORPUS)
    train.add_argument("--output", type=command.folder, required=True, metavar="RUN")
    train.add_argument("--resume", action="store_true", help="go on with the run that RUN holds")
    train.add_argument(
        "--profile", type=int, nargs="?", const=3, default=0, metavar="STEPS",
        help="trace so many steps on each worker into RUN/profile; without a number, 3",
    )  # fmt: skip

    plan = _add(commands, "plan", _plan, "steps, memory, hours and cost of a training run, before it is paid for")
    command.add_recipe(plan)
    plan.add_argument("--corpus", required=True, help=command.CORPUS)
    plan.add_argument("--gpu", required=True, help="a100-40, a100-80, h100, h200, l4 ..., or cpu: measure this machine")
    plan.add_argument("--price", type=float, help="of one GPU, or of one worker on CPUs, for an hour")
    plan.add_argument("--mfu", type=float, help="from 0 to 1: train/mfu of a run like it, instead of what is assumed")
    plan.add_argument("--lora-rank", type=int, default=16, help="of the variants with LoRA; default: %(default)s")


def _add_judging_commands(commands: _Commands) -> None:
    evaluate = _add(commands, "evaluate", _evaluate, "WER and CER of a model on a corpus or a source, with a report")
    evaluate.add_argument("--model", required=True, help=command.SYSTEM)
    command.add_evaluation(evaluate)

    compare = _add(commands, "compare", _compare, "models on the same utterances: who is better, and how sure that is")
    command.add_comparison(compare)

    promote = _add(commands, "promote", _promote, "register a model; champion it becomes if the gate lets it")
    _add_model(promote)
    command.add_promotion(promote)

    rollback = _add(commands, "rollback", _rollback, "make the champion the model that it was before")
    rollback.add_argument("--name", required=True, help="the registered model's name")
    rollback.add_argument("--alias", default="champion", help="default: %(default)s")


def _add_serving_commands(commands: _Commands) -> None:
    transcribe = _add(commands, "transcribe", _transcribe, "audio files to text on standard output")
    _add_model(transcribe)
    transcribe.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of any length; - is standard input")
    transcribe.add_argument("--language", help="code or name, for instance he; default: the model decides")
    transcribe.add_argument("--prompt", help="names and terms that are likely to occur")
    transcribe.add_argument("--format", default="text", choices=("text", "json", "verbose_json", "srt", "vtt"))

    serve = _add(commands, "serve", _serve, "the transcription endpoint on this machine, until Ctrl-C")
    _add_model(serve)
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the network; then set CASPI_API_KEYS")
    serve.add_argument(
        "--follow", action="store_true", help="exchange the model when the alias of MODEL has moved, without a restart"
    )
    command.add_recipe_option(serve)

    keys = _add(commands, "keys", _keys, "API keys of the endpoint, in a file that it reads again when it changes")
    _add_key_commands(keys)


def _add_surrounding_commands(commands: _Commands) -> None:
    submit = _add(commands, "submit", _submit, "run one of jobs/ on a cluster; its own arguments follow after --")
    submit.add_argument("job", help="the name of a file in jobs/, such as train_model")
    submit.add_argument("recipe", type=Path, nargs="?", help="for the jobs that take one")
    command.add_overrides(submit)
    submit.add_argument("--address", required=True, help="the cluster's dashboard, for instance http://127.0.0.1:8265")
    submit.add_argument("--id", help="submitting again with the same id follows the job instead of starting another")

    mlflow = _add(commands, "mlflow", _mlflow, "MLflow's pages over the embedded database, until Ctrl-C")
    mlflow.add_argument("--port", type=int, default=5000)

    recipe = _add(commands, "recipe", _recipe, "look at a recipe")
    recipe.add_argument("action", choices=("show",), help="show: print the resolved whole, defaults included")
    command.add_recipe(recipe)


def _demo(args: argparse.Namespace) -> None:
    from caspi.demo import run_demo

    run_demo(args.output, num_utterances=args.utterances, overrides=args.overrides)


def _synthesize(args: argparse.Namespace) -> None:
    from caspi import synthesis
    from caspi.console import Console

    console = Console()
    made = synthesis.synthesize(
        args.output,
        num_utterances=args.utterances or synthesis.NUM_UTTERANCES,
        seed=synthesis.SEED if args.seed is None else args.seed,
        on_progress=console.synthesis,
    )
    hours = made.hours
    print(f"{made.num_utterances} utterances: {hours['train']:.2f} h to train on, {hours['test']:.2f} h to test with")
    print(f"{made.num_bad} bad rows on purpose; the truth is in {made.output / 'words.parquet'}")


def _prepare(args: argparse.Namespace) -> None:
    from caspi import tracking
    from caspi.console import Console
    from caspi.corpus import prepare
    from caspi.recipe import load_recipe

    recipe = load_recipe(args.recipe, overrides=args.overrides)
    console = Console()
    corpus = prepare(recipe, args.output, on_progress=console.preparation, overwrite=args.overwrite, update=args.update)
    tracking.record_preparation(recipe, corpus)
    console.manifest(corpus.manifest)
    print(f"corpus: {corpus.path}")
    print(f"report: {corpus.path / 'report.html'}")


def _export(args: argparse.Namespace) -> None:
    belongs = {"--corpus": ("format", "split"), "--model": ("layout", "language")}
    given = "--corpus" if args.corpus is not None else "--model"
    for owner, options in belongs.items():
        for option in options:
            if owner != given and getattr(args, option) is not None:
                raise RequestError(f"--{option} belongs to {owner}, and {given} was given")
    if given == "--corpus":
        _export_corpus(args)
    else:
        _export_model(args)


def _export_corpus(args: argparse.Namespace) -> None:
    from caspi.console import Console
    from caspi.corpus.exporting import export

    console = Console()
    format = args.format or "qwen_jsonl"
    exported = export(
        args.corpus,
        args.output,
        format=format,
        split=args.split or "all",
        on_progress=lambda done, total: console.line(f"exported {done}/{total} utterances"),
    )
    counts = ", ".join(f"{split} {count}" for split, count in exported.num_utterances.items())
    print(f"{format}: {exported.output} ({counts})")


def _export_model(args: argparse.Namespace) -> None:
    if args.layout is None:
        raise RequestError("--layout is missing; expected native or qwen")
    if args.language is not None and args.layout != "qwen":
        raise RequestError("--language belongs to --layout qwen: the native layout lists no languages")
    from caspi import text, tracking
    from caspi.model import find, to_native, to_qwen

    languages = [] if args.language is None else [text.language_name(text.language_code(args.language))]
    folder = find(tracking.locate_model(args.model))
    if args.layout == "qwen":
        to_qwen(folder, args.output, languages=languages)
    else:
        to_native(folder, args.output)
    print(f"{args.layout}: {args.output}")


def _train(args: argparse.Namespace) -> None:
    from caspi import training
    from caspi.console import Console
    from caspi.recipe import load_recipe

    recipe = load_recipe(args.recipe, overrides=args.overrides)
    result = training.train(
        recipe,
        corpus=args.corpus,
        output=args.output,
        resume=args.resume,
        on_progress=Console().training,
        profile_steps=args.profile,
    )
    best = "no validation split" if result.best_wer is None else f"best WER {result.best_wer:.1%} on validation"
    print(f"loss {result.loss_first:.3f} -> {result.loss_last:.3f}, {best}, {result.rtfx:.0f} x real time")
    print(f"model: {result.model}")


def _plan(args: argparse.Namespace) -> None:
    from caspi.recipe import load_recipe
    from caspi.training import cost, measuring, plan_report

    recipe = load_recipe(args.recipe, overrides=args.overrides)
    if args.gpu == "cpu":
        print(plan_report.of_machine(measuring.measure(recipe, args.corpus), price_per_hour=args.price))
        return
    planned = cost.plan_cost(recipe, args.corpus, gpu=args.gpu, mfu=args.mfu, lora_rank=args.lora_rank)
    print(plan_report.of_gpu(planned, price_per_hour=args.price))


def _evaluate(args: argparse.Namespace) -> None:
    from caspi.console import Console

    console = Console()
    metrics = command.evaluate(args, on_progress=console.evaluation, on_preparation=console.preparation)
    print(command.describe_evaluation(metrics))
    if on_test_sets := command.describe_test_sets(args.output):
        print(on_test_sets)
    print(f"report: {args.output / 'report.html'}")


def _transcribe(args: argparse.Namespace) -> None:
    from caspi.inference.formats import render
    from caspi.inference.transcriber import Transcriber

    transcriber = Transcriber.load(args.model)
    for file in args.files:
        recording = sys.stdin.buffer.read() if str(file) == "-" else file
        transcript = transcriber.transcribe(recording, language=args.language, prompt=args.prompt)
        print(render(transcript, args.format), end="", flush=True)


def _compare(args: argparse.Namespace) -> None:
    from caspi.console import Console

    command.compare(args, on_progress=Console().evaluation)


def _promote(args: argparse.Namespace) -> None:
    command.promote(args)


def _rollback(args: argparse.Namespace) -> None:
    from caspi import tracking

    with tracking.server() as uri:
        left, now = tracking.rollback(args.name, alias=args.alias, uri=uri)
    print(f"models:/{args.name}@{args.alias} was version {left} and is version {now} again")


def _serve(args: argparse.Namespace) -> None:
    from caspi.inference.serving import serve_until_stopped

    def announce(url: str) -> None:
        print(
            f"serving {args.model}\n  web page  {url}/\n  API       {url}/v1/audio/transcriptions\nCtrl-C stops it",
            flush=True,
        )

    recipe = command.optional_recipe(args)
    sections = {"serving": recipe.serving, "inference": recipe.inference} if recipe else {}
    serve_until_stopped(args.model, host=args.host, port=args.port, follow=args.follow, on_ready=announce, **sections)


def _add_key_commands(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key, and print it this once: the file keeps its hash")
    add.add_argument("name", help="whose it is; a second key of the same name replaces the first without a gap")
    add.add_argument("--days", type=float, help="how long it is good for; default: for ever")
    add.add_argument("--requests-per-minute", type=int, metavar="N")
    add.add_argument("--audio-seconds-per-minute", type=float, metavar="S")
    add.add_argument("--concurrent-requests", type=int, metavar="N")
    remove = actions.add_parser("remove", help="refuse it from now on")
    remove.add_argument("which", metavar="NAME|ID", help="all keys of a name, or one by its id")
    for action in (add, remove, actions.add_parser("list", help="names, ids, limits and last days")):
        action.add_argument("--file", type=Path, help="default: CASPI_API_KEYS_FILE")


def _keys(args: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from caspi import settings
    from caspi.inference import api_keys

    file = args.file or settings.read().api_keys_file
    if file is None:
        raise RequestError("no key file is named; say --file keys.yaml, or set CASPI_API_KEYS_FILE")
    match args.action:
        case "add":
            key = api_keys.add_key(
                file,
                args.name,
                expires=None if args.days is None else datetime.now(UTC) + timedelta(days=args.days),
                requests_per_minute=args.requests_per_minute,
                audio_s_per_minute=args.audio_seconds_per_minute,
                concurrent_requests=args.concurrent_requests,
            )
            print(key)
        case "remove":
            for removed in api_keys.remove_keys(file, args.which):
                print(f"removed {removed.name} ({removed.id})")
        case "list":
            for known in api_keys.read_keys(file):
                print(api_keys.describe(known))


def _submit(args: argparse.Namespace) -> int | None:
    from caspi.submit import submit

    job = submit(
        args.job,
        args.recipe,
        address=args.address,
        overrides=args.overrides,
        arguments=args.job_arguments,
        submission_id=args.id,
    )
    print(f"{job.id}: {job.status}" + (f": {job.message}" if job.message and job.exit_code else ""))
    return job.exit_code


def _mlflow(args: argparse.Namespace) -> None:
    import threading

    from caspi import tracking

    with tracking.server(port=args.port) as uri:
        print(f"MLflow: {uri}\nCtrl-C stops it", flush=True)
        threading.Event().wait()


def _recipe(args: argparse.Namespace) -> None:
    from caspi.recipe import load_recipe, show

    print(show(load_recipe(args.recipe, overrides=args.overrides)), end="")


def _add(commands: _Commands, name: str, function: object, about: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(function=function)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=command.MODEL)


if __name__ == "__main__":
    sys.exit(main())
