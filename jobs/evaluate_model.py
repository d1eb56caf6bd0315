"""Transcribe a split of a corpus and compare: WER and CER with intervals, by slice, with every hypothesis kept.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.evaluate_model --model /mnt/caspi/run/model --corpus /mnt/caspi/corpus \\
            --split test --output /mnt/caspi/evaluation
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.evaluate_model", __doc__)
    parser.add_argument("--model", required=True, help=command.SYSTEM)
    command.add_evaluation(parser)
    args = parser.parse_args()
    print(f"{command.describe_evaluation(command.evaluate(args))}, see {args.output}/metrics.json")


if __name__ == "__main__":
    sys.exit(command.run_job(main))
