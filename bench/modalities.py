"""What a missing modality costs on YouTube-8M's video-level records, and what each modality is worth.

    python bench/modalities.py [--model=NAME] [--shards=N] [--input=VIDEO_DIRECTORY] [--work=DIRECTORY]

The first N shards (80: `validate0000` to `validate0079`) train, `0080` to `0089` tune. Models, all by their recipe:

* `both`: with the recipe's modality dropout; `undropped`: without it, as before there was any;
* `mean_rgb`, `mean_audio`: trained on records of that modality alone;
* `third`: as `both`, on records of which a third, chosen by a hash of the id, lack their sound.

Printed are GAP and mAP of each on the tuning shards, and the differences that docs/BENCHMARKS.md has requirements for.
Models that a work directory holds are not trained again. Every step is one of the project's own commands, which are
printed.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from project_commands import SHARED_DATA, run_command, score, train  # noqa: E402

from vcls_model.records import examples  # noqa: E402
from vcls_model.records.framing import read_chunks  # noqa: E402
from vcls_model.records.schema import BUILT_IN  # noqa: E402

NAMES = ("mean_rgb", "mean_audio")
METRICS = ("gap_at_20", "map")
# (what it is, one model, another, the most that the other may be ahead)
REQUIRED = (
    ("pictures of both", "both without mean_audio", "mean_rgb", 0.005),
    ("sound of both", "both without mean_rgb", "mean_audio", 0.005),
    ("both of both", "both", "undropped", 0.003),
    ("a third without sound", "third", "both", 0.005),
)


def lacks_sound(video_id: bytes) -> bool:
    """A third of the videos, whatever their order."""
    return int.from_bytes(hashlib.sha256(b"sound" + video_id).digest()[:8], "big") % 3 == 0


def write_third(source: Path, target: Path) -> None:
    """Copies a shard without the sound of a third of its records."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(target)) as writer:
        for chunk in read_chunks(str(source)):
            for start, length in zip(chunk.starts.tolist(), chunk.lengths.tolist(), strict=True):
                payload = chunk.buffer[start : start + length].tobytes()
                features = dict(examples.parse_record(payload).features)
                if lacks_sound(bytes(features["id"].values[0])):  # type: ignore[arg-type]
                    del features["mean_audio"]
                writer.write(examples.write_example(features))


def preprocess(name: str, work: Path, shards: str, tuning: str, vocabulary: Path) -> Path:
    """A dataset for one of the models."""
    output = work / "data" / name
    flags = [f"--train_input={shards}", f"--validate_input={tuning}", f"--vocabulary={vocabulary}"]
    if name in NAMES:
        layout = BUILT_IN["yt8m-video"].to_dict()
        layout["modalities"] = [entry for entry in layout["modalities"] if entry["name"] == name]
        schema = work / f"{name}.json"
        schema.write_text(json.dumps(layout))
        flags.append(f"--schema={schema}")
    if not (output / "info.json").exists():
        run_command("pipelines.preprocess", *flags, f"--output={output}", "--overwrite")
    return output


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Metrics of every model, and of `both` without one modality, by name."""
    work: Path = args.work / f"{args.model}-{args.shards}"
    work.mkdir(parents=True, exist_ok=True)
    paths = [args.input / f"validate{number:04d}.tfrecord" for number in range(args.shards)]
    tuning = f"{args.input}/validate008?.tfrecord"
    third = work / "third_raw"
    if not third.exists():
        partial = work / "third_raw.partial"
        partial.mkdir(exist_ok=True)
        for path in paths:
            write_third(path, partial / path.name)
        partial.rename(third)
    whole = ",".join(map(str, paths))
    found: dict[str, dict[str, Any]] = {}
    for name in ("both", "undropped", *NAMES, "third"):
        shards = f"{third}/*.tfrecord" if name == "third" else whole
        data = preprocess("both" if name == "undropped" else name, work, shards, tuning, args.vocabulary)
        model = work / name
        dropout = ["--modality_dropout=0"] if name == "undropped" else []
        train(model, f"--data={data}", f"--model={args.model}", *dropout)
        schema = [f"--schema={work / name}.json"] if name in NAMES else []
        found[name] = score(tuning, model, work / f"{name}_scores", *schema)
        for missing in NAMES if name in ("both", "undropped", "third") else ():
            flag = f"--without={missing}"
            found[f"{name} without {missing}"] = score(tuning, model, work / f"{name}_{missing}", flag)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wide", help="(default: %(default)s)")
    parser.add_argument("--shards", type=int, default=80, help="training shards, at most 80 (default: %(default)s)")
    parser.add_argument("--input", type=Path, default=SHARED_DATA / "yt8m" / "video", help="validate0000.tfrecord, …")
    parser.add_argument("--vocabulary", type=Path, default=SHARED_DATA / "yt8m" / "vocabulary.csv")
    parser.add_argument("--work", type=Path, default=Path("bench_output") / "modalities", help="data and models")
    args = parser.parse_args()
    if not (args.input / "validate0089.tfrecord").exists():
        print(f"modalities  skipped: {args.input} does not hold validate0000.tfrecord to validate0089.tfrecord")
        return
    found = measure(args)
    for name, metrics in found.items():
        shown = " ".join(f"{key}={metrics[key]:.4f}" for key in METRICS)
        print(f"modalities {args.model} {name.replace(' ', '_')} {shown}", flush=True)
    for what, one, other, most in REQUIRED:
        gaps = {key: found[other][key] - found[one][key] for key in METRICS}
        shown = " ".join(f"{key}={-gap:+.4f}" for key, gap in gaps.items())
        verdict = "holds" if max(gaps.values()) <= most else "MISSED"
        print(f"modalities {args.model} {what}: against {other} {shown}; at most {most} less: {verdict}")


if __name__ == "__main__":
    main()
