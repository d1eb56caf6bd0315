"""MLflow: what was run and what came of it, and which model is in use. Importing this imports no MLflow."""

from caspi.tracking.checkpoint_record import Checkpoint, forget_checkpoint, record_checkpoint
from caspi.tracking.comparison import log_comparison, record_comparison
from caspi.tracking.evaluation import log_evaluation, record_evaluation
from caspi.tracking.model_download import locate_model, resolve
from caspi.tracking.model_uri import is_uri
from caspi.tracking.node import NodeMonitor, hardware
from caspi.tracking.preparation import log_preparation, record_preparation
from caspi.tracking.promotion import Promotion, promote
from caspi.tracking.registry import log_model_files, register, rollback, set_alias
from caspi.tracking.run import finish_run, resume_run, start_run
from caspi.tracking.server import server
from caspi.tracking.writer import MetricWriter

__all__ = [
    "Checkpoint",
    "MetricWriter",
    "NodeMonitor",
    "Promotion",
    "finish_run",
    "forget_checkpoint",
    "hardware",
    "is_uri",
    "locate_model",
    "log_comparison",
    "log_evaluation",
    "log_model_files",
    "log_preparation",
    "promote",
    "record_checkpoint",
    "record_comparison",
    "record_evaluation",
    "record_preparation",
    "register",
    "resolve",
    "resume_run",
    "rollback",
    "server",
    "set_alias",
    "start_run",
]
