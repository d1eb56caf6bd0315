"""The model that a training starts from: under which name, and with which files."""

from dataclasses import dataclass
from pathlib import Path

from caspi.tracking.model_download import uploaded_files
from caspi.tracking.model_files import ModelFiles, read_model_files
from caspi.tracking.model_uri import is_uri


@dataclass(frozen=True, slots=True)
class ParentModel:
    """What `model.init` of a recipe means now."""

    name: str
    files: ModelFiles | None
    """None for what has no files of its own yet, as the toy, or that are somebody else's to hash, as on the Hub."""
    run_id: str | None = None
    """The run that made it, of a model in MLflow."""

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run that starts from it."""
        tags = {"caspi.parent_model": self.name}
        if self.files is not None:
            tags["caspi.parent_digest"] = self.files.digest
        if self.run_id is not None:
            tags["caspi.parent_run"] = self.run_id
        return tags


def parent_model(init: str, *, uri: str) -> ParentModel:
    """What `model.init` names: a model in MLflow, a folder, or something else, of which only the name is known.

    Raises:
        ModelError: MLflow has no such model, or the folder is not one.
        TrackingError: the server does not answer.
    """
    if is_uri(init):
        run_id, files = uploaded_files(init, uri=uri)
        return ParentModel(init, files, run_id)
    is_folder = init != "toy" and Path(init).is_dir()
    return ParentModel(init, read_model_files(Path(init)) if is_folder else None)
