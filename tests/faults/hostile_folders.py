"""Run folders as a stranger or a damaged disk would leave them: each file of a run x each kind of wrongness."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fake_run
from PIL import Image

from ddpm.config import codec
from ddpm.config.tasks import EvalConfig, SampleConfig
from ddpm.runs import about, run_folder, runs
from ddpm.storage import files

STEP = 40
TIME = "20260101-000000"
SAMPLES, EVALUATION = f"samples/{TIME}", f"evaluations/{TIME}"
TINY = dict(
    data_dir="shapes",
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1",
    num_heads=1,
    attention_resolutions="",
    diffusion_steps=20,
    noise_schedule="cosine",
    batch_size=4,
    ema_rate="0.9",
    threads=1,
)

SECRET_COLOUR = (255, 0, 255)  # of an image that lies outside
Apply = Callable[[Path, Path], None]  # (the folder of the run, a folder outside that nothing may change)

JSON = {
    "config.json": run_folder.MOST_CONFIG,
    "status.json": run_folder.MOST_STATUS,
    "control.json": run_folder.MOST_CONTROL,
    about.NAME: about.MOST,
    f"saves/{STEP:06d}.json": run_folder.MOST_MANIFEST,
    f"{SAMPLES}/status.json": run_folder.MOST_STATUS,
    f"{SAMPLES}/settings.json": run_folder.MOST_SETTINGS,
    f"{EVALUATION}/settings.json": run_folder.MOST_SETTINGS,
    f"{EVALUATION}/result.json": run_folder.MOST_RESULT,
}
OTHERS = {
    "progress.csv": run_folder.MOST_LOG,
    "log.txt": 2**30,
    "run.lock": 2**20,
    f"model{STEP:06d}.pt": 2**30,
    f"ema_0.9_{STEP:06d}.pt": 2**30,
    f"opt{STEP:06d}.pt": 2**30,
    f"state{STEP:06d}.pt": 2**30,
    f"samples/{STEP:06d}.png": 2**30,
    f"{SAMPLES}/grid.png": 2**30,
    f"{SAMPLES}/note.txt": run_folder.MOST_NOTE,
}
FOLDERS = ("", "saves", "samples", "evaluations", SAMPLES)


class Case(NamedTuple):
    """One thing that is wrong with a run."""

    name: str  # also the run's
    apply: Apply


def healthy(runs_dir: Path, name: str = "healthy") -> runs.Run:
    """A run that has trained, with a preview, samples and an evaluation; its weights hold nothing."""
    run = fake_run.write(runs_dir, name, steps=STEP, state="stopped", total=2 * STEP)
    config = codec.replace(fake_run.config(2 * STEP), TINY)
    files.write_json(run.folder / "config.json", codec.to_json(config))
    (run.folder / f"ema_0.995_{STEP:06d}.pt").unlink()  # an average that these settings do not have
    names = [f"model{STEP:06d}.pt", f"ema_0.9_{STEP:06d}.pt", f"opt{STEP:06d}.pt", f"state{STEP:06d}.pt"]
    written = {file: files.write_bytes(run.folder / file, b"nothing")._asdict() for file in names}
    manifest = dict(step=STEP, files=written, log_bytes=run.progress_path.stat().st_size, seconds=1.0)
    files.write_json(run.folder / "saves" / f"{STEP:06d}.json", manifest)
    (run.folder / "run.lock").write_bytes(b"")
    files.write_json(run.folder / "control.json", {})
    about.change(run.folder, title="A title", tags=["cosine"], notes="Notes.")
    status = dict(state="finished", step=1, total_steps=1, updated_at=1e9)
    checkpoint = {"path": str(run.folder / names[0]), "sha256": "0" * 64, "step": STEP, "weights": "model"}
    for place, key, settings in (
        (SAMPLES, "sample", SampleConfig(num_samples=1)),
        (EVALUATION, "evaluation", EvalConfig(num_samples=1)),
    ):
        files.write_json(run.folder / place / "status.json", status)
        recorded = {"format": 1, key: dataclasses.asdict(settings), "checkpoint": checkpoint, "command": "ddpm"}
        files.write_json(run.folder / place / "settings.json", recorded)
    result = {
        "bits_per_dim": 3.5, "ci95": 0.1, "prior": 0.01, "vb_quarters": [1.0, 1.0, 1.0, 0.5], "pictures": 1,
        "timesteps": 20, "ended": "all", "seconds": 1.0, "asked": 1, "data": {"data_dir": "shapes", "part": "test"},
    }  # fmt: skip
    files.write_json(run.folder / EVALUATION / "result.json", result)
    files.write_bytes(run.folder / SAMPLES / "grid.png", fake_run.image(1, 1))
    files.write_bytes(run.folder / SAMPLES / "note.txt", b"a note")
    return run


def outside(folder: Path) -> Path:
    """A folder that the hostile runs point to, with files in it that nothing may read into a page, nor change."""
    folder.mkdir()
    (folder / "secret").write_text("a secret\n")
    for suffix in ("npz", "gif", "mp4"):
        (folder / f"secret.{suffix}").write_text("a secret\n")
    Image.new("RGB", (8, 8), SECRET_COLOUR).save(folder / "secret.png")
    (folder / "secret.json").write_text("{}\n")
    (folder / "inner").mkdir()
    (folder / "inner" / "precious.json").write_text('{"step": 1}\n')
    return folder


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder: content of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        kind = "link " + os.readlink(path) if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = kind
    return found


def build(runs_dir: Path, base: Path, case: Case, other: Path) -> runs.Run:
    """Makes the run of a case from the folder of a healthy one."""
    target = runs_dir / case.name
    shutil.copytree(base, target)
    case.apply(target, other)
    return runs.Run(target)


def cases() -> Iterator[Case]:
    """All cases, each with a name of its own."""
    for file, most in (JSON | OTHERS).items():
        for kind, wrong in kinds_of_file(file, most).items():
            yield Case(case_name(file, kind), wrong)
    for file, changes in VALUES.items():
        for kind, change in changes.items():
            yield Case(case_name(file, kind), _changed(file, change))
    for folder in FOLDERS:
        for kind, wrong in kinds_of_folder(folder).items():
            yield Case(case_name(folder or "run", kind), wrong)
    for kind, text in CSV.items():
        yield Case(case_name("progress.csv", kind), _content("progress.csv", text))
    yield Case("mtime-far", _mtime)


def case_name(file: str, kind: str) -> str:
    return f"{file.replace(f'{STEP:06d}', 'N').replace(TIME, 'T').replace('/', '-')}-{kind}"


def _replaced(file: str, make: Callable[[Path, Path], object]) -> Apply:
    def apply(run: Path, other: Path) -> None:
        path = run / file
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path, other)

    return apply


def _content(file: str, content: bytes) -> Apply:
    return _replaced(file, lambda path, _: path.write_bytes(content))


def _linked_copy(path: Path, other: Path) -> None:
    """A link to a file outside; an image or JSON there has the right content, so that only the link is wrong."""
    target = other / f"secret{path.suffix}"
    path.symlink_to(target if target.exists() else other / "secret")


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def _cut(file: str) -> Apply:
    def apply(run: Path, other: Path) -> None:
        content = (run / file).read_bytes()
        (run / file).write_bytes(content[: len(content) // 2])

    return apply


def _device_node(path: Path, other: Path) -> None:
    path.symlink_to("/dev/zero")


def kinds_of_file(file: str, most: int) -> dict[str, Apply]:
    """Ways in which a file can be something else."""
    found: dict[str, Apply] = {
        "link": _replaced(file, _linked_copy),
        "dangling": _replaced(file, lambda path, other: path.symlink_to(other / "created")),
        "folder": _replaced(file, lambda path, other: path.mkdir()),
        "fifo": _replaced(file, lambda path, other: os.mkfifo(path)),
        "device": _replaced(file, _device_node),
        "empty": _content(file, b""),
        "cut": _cut(file),
        "bytes": _content(file, b"\xff\xfe\xfa\x00\x80" * 1000),
        "large": _replaced(file, lambda path, other: _sparse(path, most + 1)),
    }
    if file in JSON:
        found |= {
            "deep": _content(file, b"[" * 100_000),
            "deeper": _content(file, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
            "list": _content(file, b"[1, 2]"),
            "number": _content(file, b"7"),
            "null": _content(file, b"null"),
            "nan": _content(file, b'{"state": "running", "step": NaN}'),
            "huge": _content(file, b'{"state": "running", "step": 1' + b"0" * 400 + b"}"),
            "twice": _content(file, b'{"state": "running", "state": "running", "step": 1}'),
        }
    return found


def kinds_of_folder(folder: str) -> dict[str, Apply]:
    """Ways in which a folder can be something else; for that of the run ("") it is the run that is replaced."""
    return {
        "link": _replaced(folder, lambda path, other: path.symlink_to(other / "inner")),
        "dangling": _replaced(folder, lambda path, other: path.symlink_to(other / "created")),
        "file": _replaced(folder, lambda path, other: path.write_bytes(b"")),
        "fifo": _replaced(folder, lambda path, other: os.mkfifo(path)),
    }


def _changed(file: str, change: Callable[[dict[str, Any]], object]) -> Apply:
    def apply(run: Path, other: Path) -> None:
        data = json.loads((run / file).read_text())
        change(data)
        (run / file).write_text(json.dumps(data))

    return apply


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


def _lists(name: str) -> Callable[[dict[str, Any]], None]:
    """A manifest that lists a file of that name."""
    return lambda data: data["files"].update({name: {"bytes": 7, "sha256": "0" * 64}})


VALUES: dict[str, dict[str, Callable[[dict[str, Any]], None]]] = {
    "config.json": {
        "lineqr": _set("diffusion", "noise_schedule", to="lineqr"),
        "microbatch": _set("train", "microbatch", to=-9),
        "wide": _set("model", "num_channels", to=2**40),
        "steps-list": _set("train", "total_steps", to=[1]),
        "steps-text": _set("train", "total_steps", to="many"),
        "section-list": _set("train", to=[]),
        "levels": _set("model", "channel_mult", to="1," * 16000),
        "digits": _set("model", "channel_mult", to="9" * 5000),
        "path-long": _set("data", "data_dir", to="x" * 2**20),
        "path-list": _set("data", "data_dir", to=["x"]),
        "path-null": _set("data", "data_dir", to="a\0b"),
        "unknown": _set("train", "surprise", to=1),
        "classes-number": _set("class_names", to=3),
        "classes-long": _set("class_names", to=["x" * 10**6]),
        "format": _set("format", to=99),
        "respacing": _set("diffusion", "timestep_respacing", to="9" * 5000),
        "rates": _set("train", "ema_rate", to="0.9/../../x"),
    },
    "status.json": {
        "state": _set("state", to="dancing"),
        "state-list": _set("state", to=[]),
        "step-list": _set("step", to=[1]),
        "step-text": _set("step", to="7"),
        "step-negative": _set("step", to=-7),
        "step-true": _set("step", to=True),
        "metrics-list": _set("metrics", to=[1]),
        "metrics-text": _set("metrics", to={"loss": "low"}),
        "message": _set("message", to=7),
        "time": _set("updated_at", to=1e300),
        "speed": _set("steps_per_second", to=-1e300),
        "left": _set("seconds_left", to="soon"),
        "pid": _set("pid", to=2**40),
    },
    f"saves/{STEP:06d}.json": {
        "up": _lists("../../outside/secret"),
        "absolute": _lists("/dev/zero"),
        "part": _lists(f"ema_../x_{STEP:06d}.pt"),
        "other-step": _lists("model000007.pt"),
        "config": _lists("config.json"),
        "step": _set("step", to=7),
        "step-text": _set("step", to="40"),
        "files": _set("files", to=[]),
        "entry": _set("files", f"model{STEP:06d}.pt", to=7),
        "bytes-negative": _set("files", f"model{STEP:06d}.pt", "bytes", to=-1),
        "sum": _set("files", f"model{STEP:06d}.pt", "sha256", to=[]),
        "log": _set("log_bytes", to="all"),
        "log-huge": _set("log_bytes", to=2**60),
        "seconds": _set("seconds", to=[]),
        "surprise": _set("folder", to="/etc"),
    },
    about.NAME: {
        "title-list": _set("title", to=["x"]),
        "title-long": _set("title", to="x" * 10**5),
        "title-image": _set("title", to="![x](http://192.0.2.1/x.png)<img src=x onerror=alert(1)>"),
        "tags-text": _set("tags", to="cosine"),
        "tags-many": _set("tags", to=["x"] * 10**4),
        "tag-link": _set("tags", to=["[x](javascript:alert(1))"]),
        "notes-null": _set("notes", to=None),
        "star-number": _set("star", to=7),
        "format": _set("format", to=99),
        "format-negative": _set("format", to=-1),
    },
    "control.json": {"stop-list": _set("stop", to=[1]), "unknown": _set("rm", to="x")},
    f"{SAMPLES}/settings.json": {
        "sampler": _set("sample", "sampler", to="magic"),
        "count": _set("sample", "num_samples", to=-1),
        "sample-list": _set("sample", to=[]),
        "checkpoint": _set("checkpoint", to=7),
        "checkpoint-half": _set("checkpoint", to={"path": "model.pt"}),
        "command": _set("command", to=[1]),
    },
    f"{EVALUATION}/result.json": {
        "bits": _set("bits_per_dim", to="few"),
        "data": _set("data", to=7),
        "data-empty": _set("data", to={}),
        "quarters": _set("vb_quarters", to=[]),
        "pictures": _set("pictures", to=[1]),
    },
}

CSV = {
    "twice": b"step,step,loss\n1,1,1\n",
    "columns": b",".join(b"c%d" % k for k in range(30_000)) + b"\n",
    "no-step": b"loss\n1\n2\n",
    "words": b"step,loss\none,two\n" * 1000,
    "line": b"step,loss\n" + b"1" * 2**20,
    "infinite": b"step,loss\ninf,inf\n-inf,nan\n1e300,1\n",
}


def _mtime(run: Path, other: Path) -> None:
    os.utime(run / "config.json", ns=(0, 2**62))


def expected_in_list(case: Case) -> bool:
    """True if the folder still shows that it is a run: there is something named config.json in it."""
    return case.name not in ("run-dangling", "run-link", "run-file", "run-fifo")
