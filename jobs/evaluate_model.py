"""Transcribe a split of a corpus and compare: WER and CER with intervals, by slice, with every hypothesis kept.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.evaluate_model --model /mnt/caspi/run/model --corpus /mnt/caspi/corpus \\
            --split test --output /mnt/caspi/evaluation
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.evaluate_model", __doc__)
    parser.add_argument("--model", required=True, help="a folder, a Hub id or models:/NAME@alias")
    parser.add_argument("--corpus", required=True, help="a folder that prepare_corpus wrote")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for metrics.json and the hypotheses")
    command.add_recipe_option(parser)
    args = parser.parse_args()

    from caspi import evaluation

    recipe = command.optional_recipe(args)
    limits = recipe.inference if recipe else None
    metrics = evaluation.evaluate(args.model, args.corpus, split=args.split, output=args.output, limits=limits)

    low, high = metrics["wer_interval"]
    print(
        f"WER {metrics['wer']:.1%} ({low:.1%} to {high:.1%}), CER {metrics['cer']:.1%}, see {args.output}/metrics.json"
    )


if __name__ == "__main__":
    sys.exit(command.run_job(main))
