"""Compare models on the same utterances: who is better, by how much, where, and how sure that is.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.compare_models before=/mnt/caspi/before after=/mnt/caspi/run/model \\
            --corpus /mnt/caspi/corpus --output /mnt/caspi/compared
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.compare_models", __doc__)
    command.add_comparison(parser)
    command.compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(command.run_job(main))
