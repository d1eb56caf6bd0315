"""Recordings that wait for their jobs, in a folder and in a store behind a URL."""

import io
import time
from pathlib import Path

import pytest

from serve.job_recordings import JobRecordings


@pytest.fixture(params=["folder", "url"])
def recordings(request: pytest.FixtureRequest, tmp_path: Path) -> JobRecordings:
    return JobRecordings(str(tmp_path / "jobs") if request.param == "folder" else f"memory://{tmp_path}/jobs")


def test_what_is_saved_is_there_as_a_local_file_until_it_is_deleted(recordings: JobRecordings) -> None:
    assert recordings.save("job_1", io.BytesIO(b"sound")) == 5
    with recordings.local("job_1") as path:
        assert path.read_bytes() == b"sound"
    recordings.delete("job_1")
    recordings.delete("job_1")
    with pytest.raises(FileNotFoundError), recordings.local("job_1") as path:
        path.read_bytes()


def test_recordings_that_no_job_wants_are_swept_once_they_are_old(recordings: JobRecordings) -> None:
    for job_id in ("job_1", "job_2"):
        recordings.save(job_id, io.BytesIO(b"sound"))
    assert recordings.sweep({"job_1"}, older_than_s=3600) == 0
    time.sleep(0.05)
    assert recordings.sweep({"job_1"}, older_than_s=0.01) == 1
    with recordings.local("job_1") as path:
        assert path.exists()
