"""Fine-tune a model on a prepared corpus. Run the same command with `--resume` to go on where a run stopped.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.train_model jobs/recipes/hebrew_1_7b_8xa100.yaml \\
            --corpus /mnt/caspi/corpus --output /mnt/caspi/run
"""

import sys
from typing import Any

from caspi import command


def main() -> None:
    parser = command.parser("jobs.train_model", __doc__)
    command.add_recipe(parser)
    parser.add_argument("--corpus", required=True, help=f"{command.CORPUS}; every node must see it")
    parser.add_argument("--output", type=command.folder, required=True, metavar="RUN", help="every node must see it")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    args = parser.parse_args()

    from caspi import training
    from caspi.recipe import load_recipe

    recipe = load_recipe(args.recipe, overrides=args.overrides)
    result = training.train(recipe, corpus=args.corpus, output=args.output, resume=args.resume, on_progress=show)

    print(f"loss {result.loss_first:.3f} -> {result.loss_last:.3f}, {result.rtfx:.0f} times real time")
    print(f"model: {result.model}")


def show(line: dict[str, Any]) -> None:
    """One line of the job's log for each point of a curve."""
    print(*(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in line.items()))


if __name__ == "__main__":
    sys.exit(command.run_job(main))
