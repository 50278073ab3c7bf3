"""How calm live labels are, and what that costs: flips and mean average precision on real frame-level data.

    python bench/hysteresis.py [--input=DIRECTORY] [--work=DIRECTORY] [--model=NAME] [--clips=N] [--window=S,…]
        [--scene=N,…] [--part=report|choose]

AudioSet's training shards train a frame-level model with the thresholds that training chooses; clips of its evaluation
shards, ten seconds each, one after the other, are a broadcast: what is true of a second is what is true of its clip.
A scene is so many clips that share a class, drawn at random; `--scene=1` is random order, where everything changes
every ten seconds. The defaults of `LabelRules` were chosen on half of the evaluation shards (`--part=choose`), and what
is reported comes from the other half. The model is asked each second about the last seconds, as a live stream's is. A
class is on

* `raw`: while its probability is at or above its threshold;
* `calm`: while a stream's messages call it active;
* `timeline`: from the start to the end that its events tell, which is known only afterwards.

Flips are the times at which a class goes on or off. The mean average precision of seconds is that of the probabilities
of what is on, 0 for what is not; `ranking` is that of all probabilities, which nothing changes.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from project_commands import SHARED_DATA, run_command, train

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vcls_model.metrics.binning import sigmoid  # noqa: E402
from vcls_model.records.decoding import FrameBatch  # noqa: E402
from vcls_model.records.shards import read_batches  # noqa: E402
from vcls_model.serving.live.events import END, LabelRules, LabelTracker, flips  # noqa: E402
from vcls_model.serving.live.models import ServedModel  # noqa: E402
from vcls_model.serving.live.stream import FrameRing  # noqa: E402

CALL_WINDOWS = 64


def broadcast(
    model: ServedModel, shards: list[Path], clips: int, scene: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Clips one after the other: by modality codes uint8 (S, D) of S seconds, and what is true of each, bool (S, C)."""
    parts: list[tuple[dict[str, np.ndarray], list[int]]] = []
    for shard in shards:
        for batch, _ in read_batches(
            str(shard), model.schema, class_count=len(model.classes), drop_unknown_labels=True
        ):
            rows = {name: frames for name, frames in batch.features.items() if isinstance(frames, FrameBatch)}
            ends = np.cumsum(next(iter(rows.values())).lengths)[:-1]
            split = {name: np.split(frames.codes, ends) for name, frames in rows.items()}
            labels = np.split(batch.label_values, np.cumsum(batch.label_lengths)[:-1])
            for number, true in enumerate(labels):
                parts.append(({name: values[number] for name, values in split.items()}, true.tolist()))
    chosen = in_scenes([true for _, true in parts], scene)[:clips]
    codes = {name: np.concatenate([parts[clip][0][name] for clip in chosen]) for name in parts[0][0]}
    truth = np.zeros((len(next(iter(codes.values()))), len(model.classes)), bool)
    second = 0
    for clip in chosen:
        rows_of_clip, true = parts[clip]
        length = len(next(iter(rows_of_clip.values())))
        truth[second : second + length, true] = True
        second += length
    return codes, truth


def in_scenes(labels: list[list[int]], scene: int) -> list[int]:
    """Clips in random order, but that each scene's first is followed by up to `scene` - 1 that share a class of it."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels)).tolist()
    of_class: dict[int, list[int]] = {}
    for clip in order:
        for label in labels[clip]:
            of_class.setdefault(label, []).append(clip)
    left = dict.fromkeys(order)
    chosen: list[int] = []
    while left:
        first = next(iter(left))
        del left[first]
        shared = of_class[labels[first][rng.integers(len(labels[first]))]] if labels[first] else []
        others = [clip for clip in shared if clip in left][: scene - 1]
        for clip in others:
            del left[clip]
        chosen += [first, *others]
    return chosen


def probabilities_now(model: ServedModel, codes: dict[str, np.ndarray], window: float) -> np.ndarray:
    """float32 (S, C): what a stream shows each second."""
    ring = FrameRing(model.modalities, masks=model.masks)
    shown, waiting = [], []
    seconds = len(next(iter(codes.values())))
    for second in range(seconds):
        ring.append({name: values[second] for name, values in codes.items()}, second)
        waiting.append(ring.now(window))
        if len(waiting) == CALL_WINDOWS or second == seconds - 1:
            shown.append(sigmoid(model.logits(waiting)))
            waiting = []
    return np.concatenate(shown)


def states(probabilities: np.ndarray, rules: LabelRules) -> dict[str, np.ndarray]:
    """By way bool (S, C): which classes are on."""
    tracker = LabelTracker(rules)
    calm, timeline = np.zeros(probabilities.shape, bool), np.zeros(probabilities.shape, bool)
    events = []
    for second, row in enumerate(probabilities):
        events += tracker.update(row, second)
        calm[second, tracker.active] = True
    for event in [*events, *tracker.finish()]:
        if event.kind == END:
            timeline[int(event.start) : int(event.at) + 1, event.index] = True
    return {"raw": probabilities >= rules.thresholds, "calm": calm, "timeline": timeline}


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Over the classes that are true of any second."""
    from sklearn.metrics import average_precision_score

    classes = np.flatnonzero(truth.any(axis=0))
    return float(np.mean([average_precision_score(truth[:, each], scores[:, each]) for each in classes]))


def main() -> None:
    """Prints a line per window and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=SHARED_DATA / "audioset", help="AudioSet's shards")
    parser.add_argument("--work", type=Path, help="directory that keeps the model (default: a temporary one)")
    parser.add_argument("--model", default="average", help="architecture (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=1000, help="of the evaluation shards (default: %(default)s)")
    parser.add_argument("--window", default="10,3", metavar="S,…", help="seconds of now (default: %(default)s)")
    parser.add_argument("--scene", default="6,1", metavar="N,…", help="clips that share a class (default: %(default)s)")
    parser.add_argument("--part", choices=("report", "choose"), default="report", help="which half of the shards")
    default = LabelRules(np.zeros(0))
    for name, value in (("hold", default.hold_seconds), ("hysteresis", default.hysteresis)):
        parser.add_argument(
            f"--{name}", type=float, default=value, metavar="X", help="see serve (default: %(default)s)"
        )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        if not (work / "data" / "info.json").exists():
            vocabulary = args.input / "class_labels_indices.csv"
            splits = ["--split_ratios=0.9,0.1,0", f"--vocabulary={vocabulary}", f"--output={work / 'data'}"]
            run_command("pipelines.preprocess", f"--input={args.input}/train-*.tfrecord", *splits, "--overwrite")
        train(work / args.model, f"--data={work / 'data'}", f"--model={args.model}")
        model = ServedModel.load(str(work / args.model))
        rules = LabelRules(model.thresholds(0.5), args.hold, args.hysteresis)
        shards = sorted(args.input.glob("eval-*.tfrecord"))
        part = shards[: len(shards) // 2] if args.part == "choose" else shards[len(shards) // 2 :]
        for scene in map(int, args.scene.split(",")):
            codes, truth = broadcast(model, part, args.clips, scene)
            print(f"scenes of {scene} clips, {len(truth):,} seconds: {flips(list(truth)):,} flips are true", flush=True)
            for window in map(float, args.window.split(",")):
                show(probabilities_now(model, codes, window), truth, rules, window)


def show(probabilities: np.ndarray, truth: np.ndarray, rules: LabelRules, window: float) -> None:
    """Prints a line per way."""
    print(f"window {window:g} s: mAP of the ranking {mean_average_precision(truth, probabilities):.4f}")
    raw = 0
    for way, on in states(probabilities, rules).items():
        count, right = flips(list(on)), (on & truth).sum()
        raw = raw or count
        precision, recall = right / max(1, on.sum()), right / truth.sum()
        print(
            f"  {way}: {count:,} flips ({raw / max(1, count):.1f}× fewer); "
            f"mAP {mean_average_precision(truth, probabilities * on):.4f}; precision {precision:.3f}, "
            f"recall {recall:.3f}, F1 {2 * precision * recall / max(1e-9, precision + recall):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
