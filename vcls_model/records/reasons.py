"""Reasons for rejecting that jobs tell apart; they load without the kernels that find them."""

from collections.abc import Mapping

NOT_TFRECORD = "not_tfrecord"


def cut_short_note(rejected: Mapping[str, int], where: str) -> str:
    """A warning that files lack their ends, which no count of records shows; empty if none does."""
    count = sum(rejected.get(reason, 0) for reason in ("truncated", "corrupt_gzip", "inflates_too_much"))
    if not count:
        return ""
    return (
        f"warning: input that ends too early or cannot be decompressed to its end, {count:,} "
        f"{'file' if count == 1 else 'files'}: what is missing is in no count; see {where}"
    )
