"""What can be wrong with a video or a list of videos.

Each class is also the builtin error that a caller would expect.
"""


class PipelineError(Exception):
    """A video or an annotation that cannot be used; the message says why and what to do."""


class NotAVideoError(PipelineError, ValueError):
    """The file holds no video that could be decoded: text, audio, an image, nothing."""


class BitstreamError(PipelineError, ValueError):
    """A stream whose content is not what the caller needs, such as motion in other units."""


class TranscodeError(PipelineError, RuntimeError):
    """FFmpeg could not make the canonical stream."""


class AnnotationError(PipelineError, ValueError):
    """A list of videos that cannot be read; the message names the file and the line."""


class SourceError(PipelineError, OSError):
    """A video that cannot be fetched from where it is, though others there can."""


class StoreError(OSError):
    """A place, object storage or a disk, that cannot be used; no fault of one video."""
