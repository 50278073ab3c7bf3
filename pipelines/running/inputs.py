"""Input files that change while a job reads them: what was read is of neither state, so that the job must not go on."""

from vcls_model import storage
from vcls_model.commands import JobError


def check_unchanged(path: str, size_bytes: int, modified_seconds: float, digest: str | None = None) -> None:
    """Compares an input, once it was read, with what it was before.

    Args:
        path: of the file.
        size_bytes, modified_seconds: when the job listed its input; a time of 0 is not known.
        digest: its `storage.content_digest` before it was read; None leaves the content out.

    Raises:
        JobError: its size, its time of modification or its content is another one.
    """
    size, modified = storage.status_of(path) or (-1, 0.0)
    if size < 0:
        change = "is gone"
    elif size != size_bytes:
        change = f"had {size_bytes:,} bytes when the job began and has {size:,} now"
    elif modified_seconds and not storage.is_object_store(path) and modified != modified_seconds:
        change = "was written again"
    elif digest is not None and storage.content_digest(path) != digest:
        change = "holds other bytes than when the job began to read it"
    else:
        return
    raise JobError(
        f"{path} changed while it was read: it {change}. Wait until it is complete; then the same command with "
        "--resume continues"
    )
