"""How good a model is: error rates with intervals, slices, a report. Importing it imports neither Ray nor MLflow."""

from caspi.evaluation.evaluate import evaluate
from caspi.evaluation.metrics import Score, score
from caspi.evaluation.results import Results
from caspi.evaluation.sources import evaluate_source

__all__ = ["Results", "Score", "evaluate", "evaluate_source", "score"]
