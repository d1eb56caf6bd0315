"""What `import caspi` promises."""

import subprocess
import sys

import caspi
import caspi.model


def test_every_public_name_exists():
    for name in caspi.__all__:
        assert getattr(caspi, name) is not None


def test_every_name_of_the_model_is_where_it_is_said_to_be():
    for name in caspi.model.__all__:
        assert getattr(caspi.model, name) is not None


def test_the_plain_core_imports_no_ray_no_torch_no_mlflow():
    """Decoding, text, metrics and the plan run in a REPL without a cluster."""
    code = (
        "import sys, caspi, caspi.audio, caspi.text, caspi.training.plan, caspi.evaluation, caspi.recipe\n"
        "heavy = {'ray', 'torch', 'mlflow', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_model_imports_no_ray():
    code = "import sys, caspi.model, caspi.inference.transcriber\nassert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
