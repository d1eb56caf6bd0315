"""Keep the endpoint up for as long as the job runs; stopping the job stops the endpoint.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}' -- \\
        python -m jobs.serve_model --model models:/caspi-he@champion

For an endpoint that outlives jobs and replaces itself without a gap use cluster/kuberay/ray-service.transcription.yaml.
"""

import sys

from caspi import command


def main() -> None:
    parser = command.parser("jobs.serve_model", __doc__)
    parser.add_argument("--model", required=True, help="a folder, a Hub id or models:/NAME@alias")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 opens it to the network, which wants CASPI_API_KEYS"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    command.add_recipe_option(parser)
    args = parser.parse_args()

    from caspi.inference import serving

    recipe = command.optional_recipe(args)
    sections = {"serving": recipe.serving, "inference": recipe.inference} if recipe else {}
    serving.serve_until_stopped(
        args.model,
        host=args.host,
        port=args.port,
        on_ready=lambda url: print(f"answering at {url}", flush=True),
        **sections,
    )


if __name__ == "__main__":
    sys.exit(command.run_job(main))
