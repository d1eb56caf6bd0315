"""A report page in MLflow: with its sound, where that lies beside the page.

MLflow shows a page of a run as a blob in a frame, which has no folder beside it. It plays sound by its full address
nevertheless (3.17), so a page that is stored is told its run. `templates/utterances.js` makes the address of it.
"""

import html
import logging
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

logger = logging.getLogger(__name__)

# Two days of FLAC. A thousand utterances take two seconds to a server on the same machine.
_MAX_SOUND_BYTES = 4 * 2**30

_BEGINNING = '<html lang="en"'


def log_page(mlflow: Any, run_id: str, page: Path, place: str = "") -> None:
    """Log a page to a folder of a run's artifacts, and PAGE_audio with it. For within `client`.

    Sound of more than 4 GiB stays where it is.
    """
    sound = page.with_name(f"{page.stem}_audio")
    if sound.is_dir() and (size := sum(path.stat().st_size for path in sound.iterdir())) <= _MAX_SOUND_BYTES:
        mlflow.log_artifacts(run_id, str(sound), "/".join(filter(None, (place, sound.name))))
        with tempfile.TemporaryDirectory() as temporary:
            stored = Path(temporary) / page.name
            stored.write_text(_told(page.read_text(encoding="utf-8"), run_id, place), encoding="utf-8")
            mlflow.log_artifact(run_id, str(stored), place or None)
        return
    if sound.is_dir():
        logger.warning("%s stays here: %.1f GiB of sound are more than a run should hold", sound, size / 2**30)
    mlflow.log_artifact(run_id, str(page), place or None)


def _told(page: str, run_id: str, place: str) -> str:
    """The page with where it is stored, as the query by which MLflow's server finds the folder that it lies in."""
    query = f"{urlencode({'run_uuid': run_id})}&path={quote(place + '/' if place else '')}"
    return page.replace(_BEGINNING, f'{_BEGINNING} data-stored="{html.escape(query)}"', 1)
