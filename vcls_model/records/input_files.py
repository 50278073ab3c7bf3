"""Which files an input names; imports nothing that takes long, so that a wrong name is refused at once."""

from vcls_model import storage
from vcls_model.commands import UsageError
from vcls_model.patterns import is_pattern

# Beside the shards of records made from media: their layout, and their classes.
SCHEMA_FILE, VOCABULARY_FILE = "schema.json", "vocabulary.csv"


def input_files(pattern: str) -> list[tuple[str, int, float]]:
    """The files of `storage.list_files`, and for a directory of records made from media its shards.

    Raises:
        UsageError: nothing has that name, or it is a directory, such as one that another job than extract has left, a
            pipe, a socket or a device.
    """
    if storage.is_object_store(pattern) and is_pattern(pattern):
        return storage.list_files(pattern)  # to ask for directories of such names would be requests in vain
    if storage.exists(storage.join(pattern, "info.json")):
        from vcls_model.states import RECORDS, kind_of

        if (kind := kind_of(pattern)) not in (None, RECORDS):
            raise UsageError(f"{pattern} is {kind}, not records or media: name files, as in 'records/*.tfrecord'")
    if storage.exists(storage.join(pattern, SCHEMA_FILE)):
        pattern = storage.join(pattern, "*.tfrecord")
    return storage.list_files(pattern)
