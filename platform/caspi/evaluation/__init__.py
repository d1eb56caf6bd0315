"""How good a model is: error rates with intervals, slices, a report. Importing it imports neither Ray nor MLflow."""

from caspi.evaluation.evaluate import evaluate
from caspi.evaluation.metrics import Score, score

__all__ = ["Score", "evaluate", "score"]
