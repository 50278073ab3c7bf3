"""How fast files become pictures: `vcls_model.media` beside a plain cv2 loop and PyAV decoding every frame.

Makes 20 one-minute files (360p and 720p; H.264 with and without B-frames and key frames every 1, 2 and 10 s, HEVC and
VP9) and takes up to 30 real clips. Every way yields one picture per second of each, ready for the encoder, with one
thread per process. The ways take turns within each round; figures are medians of seconds of video per second of one
process, by its processor time (which other programs on the machine disturb less) and by wall clock.

    python -m bench.extract_pictures --directory=/tmp/extract_bench
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 224
RATE = 30
CLIPS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "media" / "clips"
HEIGHTS = {360: (640, 360), 720: (1280, 720)}


def kinds() -> dict[str, tuple[str, str, dict[str, str]]]:
    """Name -> suffix, encoder, options."""
    table = {}
    for b_frames in (0, 3):
        for seconds in (1, 2, 10):
            options = {
                "preset": "veryfast",
                "crf": "24",
                "bf": str(b_frames),
                "g": str(seconds * RATE),
                "sc_threshold": "0",
            }
            table[f"h264_{'b' if b_frames else 'p'}_key{seconds}"] = (".mp4", "libx264", options)
    for seconds in (2, 10):
        hevc = f"keyint={seconds * RATE}:log-level=none"
        table[f"hevc_key{seconds}"] = (".mp4", "libx265", {"preset": "ultrafast", "x265-params": hevc})
        vp9 = {"deadline": "realtime", "cpu-used": "8", "b": "1M", "g": str(seconds * RATE), "lag-in-frames": "16"}
        table[f"vp9_key{seconds}"] = (".webm", "libvpx-vp9", vp9)
    return table


def scenes(width: int, height: int, seconds: int) -> Iterator[Any]:
    """`av.VideoFrame`s in yuv420p: a window that wanders over real clips, or over a made texture."""
    import av

    clips = sorted(CLIPS.glob("V_*.mp4"))[:: len(list(CLIPS.glob("V_*.mp4"))) // 6 or 1]
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (90, 160, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    count = 0
    while count < seconds * RATE:
        source: Iterator[Any] = iter([av.VideoFrame.from_ndarray(texture, format="rgb24")] * 300)
        if clips:
            source = av.open(str(clips[count // 300 % len(clips)])).decode(video=0)
        for frame in source:
            picture = frame.reformat(width * 5 // 4, height * 5 // 4 // 2 * 2, format="rgb24").to_ndarray()
            left = int((1 + np.sin(count / 40)) / 2 * (picture.shape[1] - width))
            top = int((1 + np.cos(count / 55)) / 2 * (picture.shape[0] - height))
            window = np.ascontiguousarray(picture[top : top + height, left : left + width])
            yield av.VideoFrame.from_ndarray(window, format="rgb24").reformat(format="yuv420p")
            count += 1
            if count == seconds * RATE or count % 300 == 0:
                break


def make_files(directory: Path, seconds: int) -> list[Path]:
    """The 20 files; those that are there already are kept."""
    import av

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for height, (width, _) in HEIGHTS.items():
        kinds_by_path = {directory / f"{name}_{height}{kind[0]}": kind for name, kind in kinds().items()}
        paths += list(kinds_by_path)
        missing = {path: kind for path, kind in kinds_by_path.items() if not path.exists()}
        outputs = []
        for path, (_, codec, options) in missing.items():
            container = av.open(str(path.with_name("partial_" + path.name)), "w")
            stream: Any = container.add_stream(codec, rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            outputs.append((path, container, stream))
        for number, frame in enumerate(scenes(width, height, seconds) if outputs else ()):
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            for _, container, stream in outputs:
                container.mux(stream.encode(frame))
        for path, container, stream in outputs:
            container.mux(stream.encode())
            container.close()
            Path(path.with_name("partial_" + path.name)).rename(path)
    return paths


def by_cv2(path: str) -> int:
    """The honest peer: grab every frame, retrieve, crop and resize one per second."""
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    rate = video.get(cv2.CAP_PROP_FPS)
    count = taken = 0
    while video.grab():
        if count >= round(taken * rate):
            _, frame = video.retrieve()
            side = int(min(frame.shape[:2]) * SIZE / (SIZE + 32))
            top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
            part = cv2.resize(frame[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
            cv2.cvtColor(part, cv2.COLOR_BGR2RGB)
            taken += 1
        count += 1
    video.release()
    return taken


def by_pyav(path: str) -> int:
    """PyAV, every frame decoded, one per second converted by swscale."""
    import av
    import cv2

    cv2.setNumThreads(1)
    taken = 0
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        for frame in container.decode(video=0):
            if frame.time >= taken:
                picture = frame.to_ndarray(format="rgb24")
                side = int(min(picture.shape[:2]) * SIZE / (SIZE + 32))
                top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
                cv2.resize(picture[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
                taken += 1
    return taken


def by_media(mode: str, sound: bool = False) -> Callable[[str], int]:
    """This project, in the calling process."""

    def read(path: str) -> int:
        import cv2

        from vcls_model.media.rows import Request, RowReader
        from vcls_model.media.sampling import Sampling

        cv2.setNumThreads(1)
        with RowReader(path, Request(sound=sound, sampling=Sampling(mode=mode))) as reader:
            return sum(1 for _ in reader)

    return read


WAYS: dict[str, Callable[[str], int]] = {
    "cv2": by_cv2,
    "pyav_all": by_pyav,
    "everything": by_media("everything"),
    "exact": by_media("exact"),
    "keyframes": by_media("keyframes"),
    "exact_sound": by_media("exact", sound=True),
}


def run_worker(way: str, paths: list[str]) -> None:
    """Reads files one after the other; prints per file rows, wall and processor seconds."""
    WAYS[way](paths[0])  # libraries are loaded, files are in the page cache: neither is what is compared
    for path in paths:
        wall, processor = time.perf_counter(), time.process_time()
        rows = WAYS[way](path)
        print(json.dumps([path, rows, time.perf_counter() - wall, time.process_time() - processor]), flush=True)


def run_way(way: str, paths: list[str], processes: int) -> tuple[float, dict[str, list[float]]]:
    """Wall seconds of `processes` workers that share the files, and per file rows, wall and processor seconds."""
    command = [sys.executable, "-m", "bench.extract_pictures", "--worker", way]
    start = time.perf_counter()
    workers = [
        subprocess.Popen(command + paths[i::processes], stdout=subprocess.PIPE, text=True) for i in range(processes)
    ]
    figures = {}
    for worker in workers:
        output, _ = worker.communicate()
        if worker.returncode:
            raise RuntimeError(f"{way} failed with status {worker.returncode}")
        for line in output.splitlines():
            path, *numbers = json.loads(line)
            figures[path] = numbers
    return time.perf_counter() - start, figures


def main() -> None:
    """Makes the files, runs the ways in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", type=Path, help="where the made files are kept")
    parser.add_argument("--seconds", type=int, default=60, help="length of the made files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--clips", type=int, default=30, help="real clips to add, where there are any")
    parser.add_argument("--ways", default="cv2,pyav_all,exact,keyframes", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--make_only", action="store_true")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run_worker(args.worker[0], args.worker[1:])
        return
    made = make_files(args.directory, args.seconds)
    if args.make_only:
        return
    real = sorted(CLIPS.glob("V_*.mp4"))
    paths = [str(path) for path in made + real[:: max(1, len(real) // args.clips or 1)][: args.clips]]
    ways = args.ways.split(",")
    results: dict[str, list[dict[str, list[float]]]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in ways:
            print(f"round {number + 1}: {way}", file=sys.stderr, flush=True)
            results[way].append(run_way(way, paths, args.processes)[1])
    report(paths, results)


def report(paths: list[str], results: dict[str, list[dict[str, list[float]]]]) -> None:
    """Seconds of video per second of processor time and of a process's wall clock, by kind of file."""
    groups: dict[str, list[str]] = {"all": paths}
    for path in paths:
        name = Path(path).stem
        groups.setdefault("real clips" if name.startswith("V_") else name, []).append(path)
    first = next(iter(results))
    print(f"{'':22}" + "".join(f"{way:>27}" for way in results))
    for name, members in groups.items():
        line = f"{name:22}"
        rates = {}
        for way, rounds in results.items():
            rows = sum(rounds[0][path][0] for path in members)
            wall, processor = (statistics.median(sum(r[path][i] for path in members) for r in rounds) for i in (1, 2))
            rates[way] = rows / processor if processor else 0.0
            ratio = rates[way] / rates[first] if rates[first] else 0.0
            line += f"{rates[way]:9.1f} cpu {rows / wall:7.1f} {ratio:5.2f}x"
        print(line)


if __name__ == "__main__":
    main()
