"""Turn a recipe's sources into a corpus: decoded, cut, normalized, judged and split.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.prepare_corpus jobs/recipes/hebrew_1_7b_8xa100.yaml --output /mnt/caspi/corpus

or, which also checks the recipe before anything starts: `caspi submit prepare_corpus RECIPE --address URL`.
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.prepare_corpus", __doc__)
    command.add_recipe(parser)
    parser.add_argument("--output", type=command.folder, required=True, metavar="CORPUS", help="every node must see it")
    parser.add_argument("--update", action="store_true", help="prepare only what the corpus does not hold yet")
    args = parser.parse_args()

    from caspi import corpus, tracking
    from caspi.console import Console
    from caspi.recipe import load_recipe

    recipe = load_recipe(args.recipe, overrides=args.overrides)
    prepared = corpus.prepare(recipe, args.output, update=args.update, on_progress=Console().preparation)
    tracking.record_preparation(recipe, prepared)

    manifest = prepared.manifest
    print(f"{manifest['num_utterances']} utterances, {manifest['hours']:.2f} h in {prepared.path}")
    print(f"rejected: {manifest['rejected_by_reason'] or 'nothing'}")


if __name__ == "__main__":
    sys.exit(command.run_job(main))
