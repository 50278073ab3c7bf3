"""How files are embedded as the records of a model's data were."""

from collections.abc import Mapping, Sequence
from typing import Any

from vcls_model.commands import JobError, UsageError
from vcls_model.embedding import CAPTIONS, NAMES, VECTOR_SUFFIX, EmbeddingConfig, plan_text_encoder, vector_name
from vcls_model.encoders import EncoderInfo, encoder_info
from vcls_model.encoders.screen_texts import SCREEN_TEXT, ReaderInfo, reader_info
from vcls_model.encoders.sentences import TEXT_ENCODERS
from vcls_model.records.schema import RecordSchema


def recorded_config(
    schema: RecordSchema,
    origin: str,
    image_encoder: str | None = None,
    audio_encoder: str | None = None,
    text_encoder: str | None = None,
    **costs: Any,
) -> EmbeddingConfig:
    """The configuration that made the records of a schema, to treat other files in the same way.

    Args:
        schema: of records made from media.
        origin: where it stands, for messages.
        image_encoder, audio_encoder, text_encoder: paths of encoders that are not known by name.
        costs: `seconds_per_minute`, `memory_bytes`, `device`, `file_count`.

    Raises:
        UsageError: the records were not made from media.
        JobError: an encoder is not the recorded one, or has no known name and no path was given.
    """
    if not schema.encoders or not schema.sampling:
        raise UsageError(
            f"{origin} was trained on records ({schema.name}) that were not made from media files: "
            "score records of that kind"
        )
    level = "frame" if schema.has_frames else "video"
    chosen: dict[str, str | None] = {}
    for medium, given, flag in (
        ("picture", image_encoder, "--image_encoder"),
        ("sound", audio_encoder, "--audio_encoder"),
    ):
        recorded = schema.encoders.get(NAMES[level][medium])
        if recorded is None:
            if given is not None:
                raise UsageError(f"{origin} was made without a {medium} encoder: leave {flag} out")
            chosen[medium] = None
            continue
        name = given or str(recorded.get("name"))
        try:
            info = encoder_info(name, medium)  # type: ignore[arg-type]
        except UsageError:
            if given is not None:
                raise
            message = f"{origin} was made by the {medium} encoder {name!r}: give its path by {flag}=PATH"
            raise JobError(message) from None
        info.check_same(recorded, origin)
        chosen[medium] = name
    sampling = schema.sampling
    others = {*NAMES[level].values(), SCREEN_TEXT}
    texts = tuple(name.removesuffix(VECTOR_SUFFIX) for name in schema.encoders if name not in others)
    return EmbeddingConfig.of(
        chosen["picture"],
        chosen["sound"],
        fps=sampling["fps"],
        mode=sampling["mode"],
        max_seconds=sampling["max_seconds"],
        level=level,
        captions=any(modality.name == CAPTIONS for modality in schema.texts),
        ocr=_recorded_reader(schema.encoders.get(SCREEN_TEXT), origin),
        texts=texts,
        text_encoder=_recorded_text_encoder(schema, origin, texts, text_encoder),
        **costs,
    )


def _recorded_reader(recorded: Mapping[str, Any] | None, origin: str) -> ReaderInfo | None:
    """What read the texts in the pictures."""
    if recorded is None:
        return None
    info = reader_info(str(recorded.get("name")))
    info.check_same(recorded, origin)
    return info


def _recorded_text_encoder(
    schema: RecordSchema, origin: str, texts: Sequence[str], given: str | None
) -> tuple[str, EncoderInfo] | None:
    """The text encoder that made the vectors of a schema's texts."""
    if not texts:
        if given is not None:
            raise UsageError(f"{origin} was made without a text encoder: leave --text_encoder out")
        return None
    assert schema.encoders is not None
    recorded = schema.encoders[vector_name(texts[0])]
    name = given or str(recorded.get("name"))
    if given is None and name not in TEXT_ENCODERS:
        raise JobError(f"{origin} was made by the text encoder {name!r}: give its path by --text_encoder=PATH")
    planned = plan_text_encoder(name)
    planned[1].check_same(recorded, origin)
    return planned
