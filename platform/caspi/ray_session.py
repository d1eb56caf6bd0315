"""Joining a Ray cluster, or starting a quiet one on this machine for as long as a command runs."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from caspi import settings


@contextlib.contextmanager
def connect() -> Iterator[None]:
    """Use the Ray that is already there, the cluster of `RAY_ADDRESS`, or a local one that ends with the block.

    Nested calls share the outermost session, so that `caspi demo` pays for one start-up.
    """
    import ray  # takes a second; recipes and metrics do without

    if ray.is_initialized():
        yield
        return
    configured = settings.read()
    quiet = not configured.verbose
    common = {"log_to_driver": not quiet, "logging_level": logging.ERROR if quiet else logging.INFO}
    if configured.ray_address:
        ray.init(address=configured.ray_address, **common)
    else:
        # A private cluster on loopback: no dashboard to expose, so no token for users to look after.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        with _quiet_start() if quiet else contextlib.nullcontext():
            ray.init(
                address="local",
                num_cpus=configured.num_cpus,
                object_store_memory=configured.object_store_bytes,
                include_dashboard=False,
                **common,
            )
    if quiet:
        tame_logs()
    try:
        yield
    finally:
        ray.shutdown()


def tame_logs() -> None:
    """Keep errors, drop the chatter that a user would have to learn to ignore. `CASPI_VERBOSE=1` brings it back."""
    # Ray Data sets its loggers' levels again whenever it is imported in a process; this it respects. Its errors are
    # raised as well, so the page that it logs of each says nothing more.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "CRITICAL")
    import ray
    import ray.data

    for name in ("ray", "ray.train", "ray.serve", "mlflow", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Start Ray with its C++ side silent.

    That side prints an error for each actor pool of Ray Data which is none (ray-project/ray#53727); what fails is
    raised in Python as well. Asking for silence makes it print a line itself, so what it says while starting is kept
    and shown only when starting fails.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
