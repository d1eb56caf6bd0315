"""What MLflow knows of a comparison."""

from pathlib import Path

import pytest

from caspi.evaluation.comparing import Comparison, compare
from caspi.evaluation.comparison_report import write_comparison_report
from caspi.tracking import log_comparison, record_comparison
from caspi.tracking.client import client
from tests.evaluation.hearing import hear


@pytest.fixture
def compared(tmp_path: Path) -> tuple[Path, Comparison]:
    """Two systems on four words: one has all of them right, the other half."""
    one = hear([("א ב", "א ג"), ("א ב", "א ד")])
    other = hear([("א ב", "א ב"), ("א ב", "א ב")])
    comparison = compare([one, other], ["before", "after"])
    folder = tmp_path / "compared"
    comparison.write(folder)
    write_comparison_report(folder, {"before": one, "after": other}, comparison.summary)
    return folder, comparison


def test_a_comparison_is_a_run_with_its_figures_and_its_page(
    mlflow_uri: str, compared: tuple[Path, Comparison], tmp_path: Path
):
    folder, comparison = compared
    run_id = log_comparison(folder, comparison, uri=mlflow_uri)
    with client(mlflow_uri) as mlflow:
        run = mlflow.get_run(run_id)
        stored = Path(mlflow.download_artifacts(run_id, "", str(tmp_path)))
    assert (run.info.status, run.info.run_name) == ("FINISHED", "before / after")
    assert {"before/wer": 0.5, "after/wer": 0.0, "after against before/wer_difference": -0.5}.items() <= (
        run.data.metrics.items()
    )
    assert run.data.tags["caspi.test_set"] == comparison.summary["test_set"]["fingerprint"]
    for name in ("comparison.html", "comparison.json", "comparison.parquet"):
        assert (stored / name).read_bytes() == (folder / name).read_bytes()


def test_no_server_is_started_where_there_is_nothing_to_add_to(compared: tuple[Path, Comparison], home: Path):
    assert record_comparison(*compared) is None
    assert not home.exists()
