"""Ids of videos as people read them. Ids are bytes; most are text, none need be."""


def printable_id(video_id: bytes) -> str:
    """An id as text; bytes that are not UTF-8 are escaped, `\\xff`."""
    return video_id.decode("utf-8", "backslashreplace")
