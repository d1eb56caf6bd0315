"""Where our code begins in a worker of Ray Train."""

from caspi.garbage import importing
from caspi.training.job import Job, Outcome


def train_worker(job: Job) -> Outcome:
    """This worker's part of a run. Everything large is imported here: Ray pickles functions by their modules' names."""
    with importing():
        from caspi.training.loop import train_loop
    return train_loop(job)
