"""From files to features: this project beside four ways that others use, and the whole job beside the bare extractor.

    python bench/extract.py            # needs two quiet cores
    python bench/extract.py --quick    # a smoke of some minutes: short files, one round, no claims

50 files: 20 made ones of a minute (360p and 720p; H.264 with and without B-frames and key frames every 1, 2 and 10 s,
HEVC, VP9; made once, in bench_output/media) and 30 real clips where there are any. The same EfficientNet-Lite0 in
ONNX Runtime, fp32, for all. Prints a line per figure: name, figure, reference, ratio, target; rates are seconds of
video per second of wall clock, the median of the rounds, in which the ways take turns.
"""

import argparse
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from extract_ways import DESCRIPTIONS, WAYS
from media_files import duration, make_files, real_clips, repeat_file

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "bench_output" / "media"
PEERS = ("a", "b", "c")
TARGETS = {"exact": 2.0, "keyframes": 8.5}


@dataclass(frozen=True)
class Measured:
    """What some workers took for some files.

    Attributes:
        wall: seconds from when all workers were ready to when the last file was done.
        whole: the same, from before the workers were started.
        files: wall-clock seconds of each file.
        processor: seconds of all workers and their children, while they worked.
        peaks: most memory (MB) per worker: of the process, and of its children, see `_peaks`.
    """

    wall: float
    whole: float
    files: dict[str, float]
    processor: float
    peaks: list[tuple[float, float]]


def work(way: str, threads: int) -> None:
    """A worker: reads paths from standard input, answers a line of JSON for each."""
    warm = sys.stdin.readline().strip()
    read = WAYS[way](threads)
    read(warm)  # libraries are loaded, pages are cached: neither is what is compared
    print("ready", flush=True)
    for line in sys.stdin:
        path = json.loads(line)
        started, processor = time.perf_counter(), time.process_time()
        rows = read(path)
        spent = time.perf_counter() - started, time.process_time() - processor
        print(json.dumps([rows, *spent]), flush=True)


def run_way(way: str, paths: list[Path], warm: Path, processes: int, threads: int) -> Measured:
    """`processes` workers take the files in turn, the largest first."""
    begun = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", way, "--threads", str(threads)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        waiting.put(path)
    answers: dict[str, list[float]] = {}
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(f"{warm}\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError(f"{way}: a worker could not start")
    usage = [_processor(worker.pid) for worker in workers]

    def feed(worker: "subprocess.Popen[str]") -> None:
        assert worker.stdin is not None and worker.stdout is not None
        while True:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            worker.stdin.write(json.dumps(str(path)) + "\n")
            worker.stdin.flush()
            answers[str(path)] = json.loads(worker.stdout.readline() or "[]")

    started = time.perf_counter()
    feeders = [threading.Thread(target=feed, args=(worker,)) for worker in workers]
    for feeder in feeders:
        feeder.start()
    for feeder in feeders:
        feeder.join()
    ended = time.perf_counter()
    spent = sum(_processor(worker.pid) - before for worker, before in zip(workers, usage, strict=True))
    if len(answers) < len(paths) or not all(answers.values()):
        raise RuntimeError(f"{way}: a worker died")
    peaks = [_peaks(worker.pid) for worker in workers]
    for worker in workers:
        worker.communicate()
    files = {path: answer[1] for path, answer in answers.items()}
    return Measured(ended - started, ended - begun, files, spent, peaks)


def _family(pid: int) -> list[int]:
    """A process and its children that are alive."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _processor(pid: int) -> float:
    """Seconds of user and system time of a process and its children, the ended ones included."""
    ticks = 0
    for member in _family(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / 100


def _peaks(pid: int) -> tuple[float, float]:
    """Most memory (MB) of a process, and of its children.

    It is the most that was resident at any time (VmHWM), less what is counted in several processes: of a page of a
    library that n processes map, each counts one n-th (Pss), as things are at the end.
    """
    peaks = []
    for member in _family(pid):
        status = Path(f"/proc/{member}/status").read_text()
        shared = Path(f"/proc/{member}/smaps_rollup").read_text()
        most = _kilobytes(status, "VmHWM:")
        peaks.append((most - _kilobytes(shared, "Rss:") + _kilobytes(shared, "Pss:")) / 1024)
    return peaks[0], sum(peaks[1:])


def _kilobytes(table: str, name: str) -> int:
    return int(table.partition(f"\n{name}")[2].split()[0])


def line(name: str, figure: str, reference: str = "", ratio: float | None = None, target: str = "") -> None:
    """Prints one figure."""
    shown = f"  ratio={ratio:.2f}x" if ratio is not None else ""
    print(
        f"{name}  {figure}" + (f"  reference={reference}" if reference else "") + shown + f"  target={target or '-'}",
        flush=True,
    )


def kind_of(path: str) -> str:
    """The kind of a file, by its name; real clips are one."""
    stem = Path(path).stem
    return "real_clips" if stem.startswith("V_") else stem


def with_sound(paths: list[Path]) -> list[Path]:
    """The made files: real clips have no sound."""
    return [path for path in paths if kind_of(str(path)) != "real_clips"]


def compare(paths: list[Path], warm: Path, rounds: int, peer_rounds: int) -> dict[str, list[Measured]]:
    """All ways over all files, two processes of one thread each; peers also as one process with all threads.

    The parts run in two processes, too: cores that share caches and memory are slower where both are busy.
    """
    results: dict[str, list[Measured]] = {}
    for number in range(max(rounds, peer_rounds)):
        for way in (*PEERS, "d", "d_sound", "exact", "keyframes", "exact_sound", "parts", "parts_keyframes"):
            if number >= (peer_rounds if way in PEERS else rounds):
                continue
            cases = [(way, 2, 1)]
            if way in (*PEERS, "d") and number < peer_rounds:
                cases.append((f"{way}_alone", 1, 2))
            for name, processes, threads in cases:
                taken = with_sound(paths) if way.endswith("_sound") else paths
                measured = run_way(name.removesuffix("_alone"), taken, warm, processes, threads)
                results.setdefault(name, []).append(measured)
                rate = sum(map(duration, taken)) / measured.wall
                print(f"round {number + 1}: {name} {rate:.1f}", file=sys.stderr, flush=True)
    return results


def report(paths: list[Path], results: dict[str, list[Measured]]) -> None:
    """Prints what was compared."""
    lengths = {str(path): duration(path) for path in paths}
    seconds = sum(lengths.values())
    rates = {
        name: sum(lengths[path] for path in rounds[0].files) / statistics.median(each.wall for each in rounds)
        for name, rounds in results.items()
    }
    line("extract_files", f"{len(paths)} files, {seconds:.0f} s of video")
    for way in (*PEERS, "d"):
        alone, both = rates[f"{way}_alone"], rates[way]
        line(f"extract_peer_{way}", f"{alone:.1f} alone, {both:.1f} two processes ({DESCRIPTIONS[way]})")
    for way, target in TARGETS.items():
        line(
            f"extract_{way}",
            f"{rates[way]:.1f}",
            f"{rates['d']:.1f} (d, two processes)",
            rates[way] / rates["d"],
            f">={target}x",
        )
    line(
        "extract_exact_sound",
        f"{rates['exact_sound']:.1f}",
        f"{rates['d_sound']:.1f} (d and ffmpeg for the sound)",
        rates["exact_sound"] / rates["d_sound"],
        ">=2x",
    )
    _report_kinds(lengths, results)
    for way, parts in (("exact", "parts"), ("keyframes", "parts_keyframes")):
        bound = statistics.median(measured.processor for measured in results[parts]) / 2
        wall = statistics.median(measured.wall for measured in results[way])
        line(
            f"extract_{way}_share_of_bound",
            f"{bound / wall:.2f} ({bound:.1f} s of two cores, {wall:.1f} s of wall clock)",
            target=">=0.90",
        )
    for way in ("exact", "exact_sound"):
        peaks = [peak for measured in results[way] for peak in measured.peaks]
        own, child = (max(peak[place] for peak in peaks) for place in (0, 1))
        line(
            f"extract_memory_{way}",
            f"{own + child:.0f} MB per worker ({own:.0f} and its decoder {child:.0f}; shared pages counted once)",
            target="<=250 MB",
        )


def _report_kinds(lengths: dict[str, float], results: dict[str, list[Measured]]) -> None:
    kinds: dict[str, list[str]] = {}
    for path in lengths:
        kinds.setdefault(kind_of(path), []).append(path)
    # 720p H.264 with key frames every 2 s has a target of its own.
    groups = {
        **kinds,
        "h264_720p_key2": [path for kind in ("h264_p_key2_720", "h264_b_key2_720") for path in kinds[kind]],
    }
    for name, members in groups.items():
        seconds = sum(lengths[path] for path in members)
        # Per worker: two of them share the files of a kind.
        rate = {
            way: 2 * seconds / statistics.median(sum(each.files[path] for path in members) for each in results[way])
            for way in ("d", "exact", "keyframes")
        }
        line(
            f"extract_kind_{name}",
            f"{rate['exact']:.1f} exact, {rate['keyframes']:.1f} keyframes",
            f"{rate['d']:.1f} (d)",
            rate["exact"] / rate["d"],
            ">=2.4x" if name == "h264_720p_key2" else ">=1x",
        )


def whole_job(made: list[Path], warm: Path, rounds: int) -> None:
    """The command on the made files beside two workers of the bare extractor, the start of both included."""
    seconds = sum(map(duration, made))
    times: dict[str, list[float]] = {"job": [], "bare": []}
    for _ in range(rounds):
        times["bare"].append(run_way("exact_sound", made, warm, 2, 1).whole)
        with tempfile.TemporaryDirectory() as scratch:
            flags = [f"--input={path.parent}/*_[37]*0.*" for path in made[:1]] + [f"--output={scratch}/records"]
            command = [sys.executable, "-m", "pipelines.extract", *flags, "--image_encoder=efficientnet-lite0"]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            times["job"].append(time.perf_counter() - started)
    rates = {name: seconds / statistics.median(each) for name, each in times.items()}
    line(
        "extract_job",
        f"{rates['job']:.1f} (whole command, {seconds / 60:.0f} minutes of video, with sound)",
        f"{rates['bare']:.1f} (bare extractor, two processes)",
        rates["job"] / rates["bare"],
        ">=0.85x",
    )


def long_file(path: Path, short: Path) -> None:
    """One long file alone: memory by its length, and the job's rate beside one process."""
    seconds = {each: duration(each) for each in (path, short)}
    measured = {each: run_way("exact", [each], short, 1, 1) for each in (path, short)}
    memory = {each: sum(one.peaks[0]) for each, one in measured.items()}
    hours = (seconds[path] - seconds[short]) / 3600
    line("extract_memory_growth", f"{(memory[path] - memory[short]) / hours:.1f} MB per hour of video", target="<=5 MB")
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["--image_encoder=efficientnet-lite0", "--audio_encoder=none", f"--output={scratch}/records"]
        command = [sys.executable, "-m", "pipelines.extract", f"--input={path}", *flags]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        wall = time.perf_counter() - started
    alone = seconds[path] / measured[path].wall
    line(
        "extract_long_file",
        f"{seconds[path] / wall:.1f} (whole command, one file of {seconds[path] / 60:.0f} minutes)",
        f"{alone:.1f} (one extractor)",
        seconds[path] / wall / alone,
    )


def main() -> None:
    """Makes the files, runs the ways in turn, prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--directory", type=Path, default=OUTPUT, help="where the made files lie (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of (d) and of this project (default: %(default)s)")
    parser.add_argument("--peer_rounds", type=int, default=1, help="of (a), (b) and (c) (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="short files, few clips, one round: no figures to quote")
    parser.add_argument("--make_only", action="store_true", help="make the files and stop")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.threads)
        return
    length = 6 if args.quick else 60
    directory = args.directory / f"{length}s"
    made = make_files(directory, length)
    short = directory / "h264_p_key2_360.mp4"
    long = repeat_file(short, directory / "long.mp4", 20 if args.quick else 60)
    if args.make_only:
        return
    rounds, clips = (1, 2) if args.quick else (args.rounds, 30)
    paths = made + real_clips(clips)
    report(paths, compare(paths, short, rounds, min(rounds, args.peer_rounds)))
    whole_job(made, short, rounds)
    long_file(long, short)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
