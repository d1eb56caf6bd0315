"""What every entry point has in common: the command line and the jobs."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caspi import garbage
from caspi.errors import CaspiError, RequestError

if TYPE_CHECKING:
    from caspi.recipe import Recipe

CORPUS = "a folder that `caspi prepare` wrote, or the URL of its copy in an object store"
MODEL = "a folder, models:/NAME@alias, runs:/ID/model, or a Hub id"
SYSTEM = f"{MODEL}; or hf:FOLDER, https://HOST/v1#MODEL, file:HYPOTHESES"


def run(main: Callable[[], int | None]) -> int:
    """Call `main` and return the exit code: its own, or 0. A CaspiError becomes its message and its code.

    Any other exception is our bug and keeps its traceback.
    """
    garbage.look_seldom()
    try:
        return main() or 0
    except CaspiError as error:
        print(f"caspi: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("caspi: interrupted", file=sys.stderr)
        return 130  # what a shell reports for a command that Ctrl-C ended
    except BrokenPipeError:
        # `caspi ... | head` closed our output. Without this Python would complain about it once more while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # likewise, for SIGPIPE


def run_job(main: Callable[[], int | None]) -> int:
    """As `run`, with Caspi's own log lines shown: in a job's log they are the progress."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("caspi").setLevel(logging.INFO)
    return run(main)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The argument parser of `python -m module`, with the module's docstring as its help."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def folder(path: str) -> Path:
    """The type of an argument that names a folder to write. As a path a URL would lose a slash, and lead nowhere."""
    if "://" in path:
        raise argparse.ArgumentTypeError(f"{path}: expected a folder; write to one, and copy it to the store then")
    return Path(path)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The recipe, and `--set`, which overrides it everywhere."""
    parser.add_argument("recipe", type=Path, help="a recipe, for instance jobs/recipes/demo.yaml")
    add_overrides(parser)


def add_recipe_option(parser: argparse.ArgumentParser) -> None:
    """`--recipe`, for commands that can do without one."""
    parser.add_argument("--recipe", type=Path, help="take the sections `inference` and `serving` from this recipe")
    add_overrides(parser)


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` asks for, besides the model."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--corpus", help=CORPUS)
    what.add_argument(
        "--source", metavar="NAME", help="judge this source of --recipe instead, all of it; `all`: every one"
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), help="of the corpus; default: test")
    parser.add_argument(
        "--output", type=folder, required=True, metavar="DIR", help="for metrics.json and the hypotheses"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin anew, whatever evaluation is there already")
    parser.add_argument("--limit", type=int, help="only so many utterances")
    parser.add_argument(
        "--lenient", action="store_true", help="add scores that forgive spelled numbers and vowel letters"
    )
    add_recipe_option(parser)


def evaluate(args: argparse.Namespace, **on_progress: Callable[..., None]) -> dict[str, Any]:
    """Evaluate as `add_evaluation`'s arguments say, and let MLflow know; returns the metrics.

    Raises:
        RequestError: the arguments do not go together, or whatever is wrong with what they name.
    """
    from caspi import evaluation, tracking

    recipe = optional_recipe(args)
    options = {"limit": args.limit, "lenient": args.lenient, "overwrite": args.overwrite, **on_progress}
    if args.source is None:
        limits = recipe.inference if recipe else None
        options.pop("on_preparation", None)
        metrics = evaluation.evaluate(
            args.model, args.corpus, output=args.output, split=args.split or "test", limits=limits, **options
        )
    elif recipe is None:
        raise RequestError(f"--source {args.source}: give the recipe that describes it too, with --recipe")
    elif args.split is not None:
        raise RequestError("--split belongs to --corpus: of a source all is judged")
    else:
        metrics = evaluation.evaluate_source(args.model, recipe, args.source, output=args.output, **options)
    tracking.record_evaluation(args.output)
    return metrics


def describe_test_sets(output: Path) -> str:
    """What an evaluation found on public test sets, beside what others published on them; nothing if it had none."""
    from caspi.evaluation import Results, public_numbers

    row = public_numbers.measured_row(Results.read(output))
    return public_numbers.describe(row) if row else ""


def describe_evaluation(metrics: dict[str, Any]) -> str:
    """One line for people."""
    from caspi.evaluation import intervals

    return (
        f"WER {metrics['wer']:.1%} ({intervals.describe(metrics['wer_interval'])}), CER {metrics['cer']:.1%}, "
        f"{metrics['num_utterances']} utterances, {metrics['num_failed']} could not be used"
    )


def optional_recipe(args: argparse.Namespace) -> "Recipe | None":
    """The recipe that was given with `--recipe`, if one was.

    Raises:
        RecipeError: it is wrong, or there is `--set` and nothing to set it in.
    """
    from caspi.errors import RecipeError
    from caspi.recipe import load_recipe

    if args.recipe is not None:
        return load_recipe(args.recipe, overrides=args.overrides)
    if args.overrides:
        raise RecipeError(f"--set {args.overrides[0]}: nothing to set it in; give --recipe RECIPE too")
    return None


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """What `compare` asks for."""
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="[NAME=]SYSTEM",
        help=f"a folder that `caspi evaluate` wrote, or {SYSTEM}",
    )
    parser.add_argument("--output", type=folder, required=True, metavar="DIR", help="for comparison.json and the page")
    parser.add_argument("--corpus", help="what to evaluate models on that are no evaluations yet")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--overwrite", action="store_true", help="evaluate anew what was evaluated for it already")
    add_recipe_option(parser)


def compare(args: argparse.Namespace, *, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Compare as `add_comparison`'s arguments say, and say what came of it."""
    from caspi import tracking
    from caspi.evaluation.compare_systems import compare_systems, describe

    recipe = optional_recipe(args)
    comparison = compare_systems(
        args.systems,
        output=args.output,
        corpus=args.corpus,
        split=args.split,
        limits=recipe.inference if recipe else None,
        overwrite=args.overwrite,
        on_progress=on_progress,
    )
    print(describe(comparison))
    tracking.record_comparison(args.output, comparison)
    print(f"report: {args.output / 'comparison.html'}")


def add_promotion(parser: argparse.ArgumentParser) -> None:
    """What `caspi promote` and its job ask, besides the model."""
    parser.add_argument("--name", required=True, help="the registered model's name")
    parser.add_argument("--alias", default="champion", help="the alias that serving resolves; default: %(default)s")
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="what `caspi evaluate` wrote for it; default: RUN/evaluation"
    )
    parser.add_argument(
        "--champion-evaluation", type=Path, metavar="DIR", help="the same of the champion; default: what is stored"
    )
    parser.add_argument("--recipe", type=Path, help="whose `gate` holds; default: that of the training run")
    add_overrides(parser)
    parser.add_argument("--no-gate", action="store_true", help="set the alias without asking the gate")


def promote(args: argparse.Namespace) -> None:
    """Promote as `add_promotion` was answered, and say what came of it."""
    from caspi import tracking

    recipe = optional_recipe(args)
    with tracking.server() as uri:
        promotion = tracking.promote(
            args.model,
            args.name,
            alias=args.alias,
            uri=uri,
            evaluation=args.evaluation,
            champion_evaluation=args.champion_evaluation,
            gate=recipe.gate if recipe else None,
            ask_gate=not args.no_gate,
        )
    for check in promotion.verdict.checks if promotion.verdict else ():
        print(f"{check.name}: {check.explanation}")
    print(f"models:/{args.name}@{args.alias} is version {promotion.version}")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY.PATH=VALUE",
        help="override one value of the recipe; may be repeated",
    )
