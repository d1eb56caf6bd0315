"""Register a model in MLflow and set its alias, if it passes the gate.

    ray job submit --working-dir . \\
        --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}}' -- \\
        python -m jobs.promote_model --model /mnt/caspi/run/model --name caspi-he --alias champion
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.promote_model", __doc__)
    parser.add_argument("--model", required=True, help="a folder, runs:/... or models:/NAME@alias")
    command.add_promotion(parser)
    command.promote(parser.parse_args())


if __name__ == "__main__":
    sys.exit(command.run_job(main))
