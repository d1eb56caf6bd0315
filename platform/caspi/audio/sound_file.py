"""`soundfile.SoundFile`, closed once."""

import soundfile


class SoundFile(soundfile.SoundFile):
    """Forgets libsndfile's handle before it closes it, not after.

    Of an exception that comes from outside in between (Ctrl-C, Ray cancelling a task), `soundfile.SoundFile` keeps a
    handle that is closed. It closes it again when it is deleted, which frees memory twice and ends the interpreter.
    """

    def close(self) -> None:
        """Close the file. Can be called several times.

        Raises:
            soundfile.LibsndfileError: what was still to be written could not be.
        """
        handle, self._file = getattr(self, "_file", None), None
        if handle is not None:
            soundfile._error_check(soundfile._snd.sf_close(handle))
