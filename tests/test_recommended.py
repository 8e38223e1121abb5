"""The commands that messages, pages and the README give work as they stand there."""

import ast
import contextlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddpm.cli import main
from ddpm.runs import commands, runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker

ROOT = Path(main.__file__).parents[2]
SOURCES = [*(ROOT / "ddpm").rglob("*.py"), *(ROOT / "pages").rglob("*.py"), ROOT / "app.py", ROOT / "home.py"]
SHOWN = re.compile(r"`(ddpm [^`]+)`")
NAME = "mein Lauf (2)"
VALUES = {"data_dir": "lsun", "path.name": "lsun"}  # where not any word will do, as messages name them


# --- every command in a message is understood


def constant(node: ast.AST) -> str:
    """The text of a string; a word stands for each value that is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(constant(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return VALUES.get(ast.unparse(node.value), "1")
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "1"


def said(path: Path) -> Iterator[str]:
    """Every command that the strings of a module have between backquotes, and those that Run.shell makes."""
    text = path.read_text(encoding="utf-8")
    if "`ddpm" not in text and ".shell(" not in text:
        return
    nodes = list(ast.walk(ast.parse(text)))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    joined = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    inner = {id(part) for node in joined for part in ast.walk(node)} - {id(node) for node in joined}
    for node in nodes:
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in docs | inner:
            yield from SHOWN.findall(constant(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "shell":
            if node.args and isinstance(node.args[0], ast.Starred):
                continue  # of a row of KINDS, which test_extending types
            more = [
                word for keyword in node.keywords if isinstance(keyword.value, ast.List) for word in keyword.value.elts
            ]
            words = [a for a in [*node.args, ast.Constant(NAME), *more] if not isinstance(a, ast.Starred)]
            yield shlex.join(["ddpm", *(constant(word) for word in words)])


COMMANDS = sorted({(command, path.relative_to(ROOT).as_posix()) for path in SOURCES for command in said(path)})


def test_there_are_some() -> None:
    assert len(COMMANDS) > 12
    assert {"ddpm runs", "ddpm train --preset quick-start"} <= {command for command, _ in COMMANDS}


@pytest.mark.parametrize(("command", "path"), COMMANDS)
def test_it_is_understood(command: str, path: str) -> None:
    words = shlex.split(command)[1:]
    with pytest.raises(SystemExit, match=r"^0$") if "--help" in words else contextlib.nullcontext():
        main._parser().parse_args(words)


# --- and does what it says


def typed(command: str, data: str = "shapes") -> int:
    """The exit code of a command, whose placeholders stand for something that is there."""
    words = [data if word in ("DATA", "FOLDER") else word for word in shlex.split(command)]
    assert words[0] == "ddpm"
    return main.main(words[1:])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to be in, with a finished run whose folder was renamed."""
    folder = tmp_path_factory.mktemp("home")
    tiny = (
        "--image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --num_heads 1 --attention_resolutions ''"
        " --diffusion_steps 50 --noise_schedule cosine --batch_size 2 --total_steps 2 --sample_interval 0 --ema_rate"
        " 0.9 --threads 1"
    )
    with contextlib.chdir(folder):
        assert typed(f"ddpm train --data_dir shapes {tiny} --run before") == 0
        (folder / "runs" / "before").rename(folder / "runs" / NAME)
        yield folder


@pytest.fixture
def run(home: Path) -> Run:
    return runs.find_run(Path("runs"), NAME)


def shown(text: str) -> str:
    """The one command that a text shows."""
    (command,) = SHOWN.findall(text)
    return command


def on_page(run: Run, what: str) -> str:
    return dict(commands.for_buttons(run))[what]


@pytest.mark.slow
def test_going_on_with_a_finished_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that a resume shows, which changes nothing, and the one of the page train further."""
    before = {path.name for path in run.folder.parent.iterdir()}
    assert typed(run.shell("train", "--resume")) == 0
    assert run.checkpoint().step == 2
    assert typed(shown(capsys.readouterr().out)) == 0
    assert run.checkpoint().step == 4
    assert typed(on_page(Run(run.folder), "Train more steps")) == 0
    assert run.checkpoint().step == 8
    assert {path.name for path in run.folder.parent.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("where", [Path("runs"), "elsewhere"])
def test_what_a_page_shows(run: Run, home: Path, tmp_path: Path, where: object) -> None:
    """Also typed in another folder, about a run that a page knows by its whole path."""
    if where == "elsewhere":
        run = Run(run.folder.absolute())
    with contextlib.chdir(home if where == Path("runs") else tmp_path):
        for what in (
            "Train again with the same settings",
            "Sample images",
            "Evaluate bits per dimension",
            "Export metrics as a spreadsheet",
        ):
            assert typed(on_page(run, what)) == 0, what
        assert SampleJob(Path("samples")).shape == (64, 8, 8, 3)
        assert Path(f"{NAME}.xlsx").exists()


def test_going_on_after_a_stop(run: Run) -> None:
    settings = json.loads((run.folder / "config.json").read_text())
    settings["train"]["total_steps"] = steps = run.checkpoint().step + 1
    (run.folder / "config.json").write_text(json.dumps(settings))
    assert typed(on_page(Run(run.folder), "Resume")) == 0
    assert run.checkpoint().step == steps


def test_stopping(run: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        with Worker(run.folder) as worker:
            worker.beat(state="running", now=True)
            asked = pool.submit(typed, on_page(run, "Stop"))
            while "stop" not in worker.poll_requests():
                assert not asked.done()
                time.sleep(0.01)
            worker.beat(state="stopped", now=True)
        assert asked.result(60) == 0


def test_going_on_with_a_sampling(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = run.shell("sample", "--run", more=["--num_samples", "3", "--steps", "2", "--out", "half drawn"])
    assert typed(draw) == 0
    job = SampleJob(Path("half drawn"))
    job.images[-1].unlink()
    assert job.npz
    job.npz.unlink()
    job.grid.unlink()
    status = json.loads((job.folder / "status.json").read_text())
    (job.folder / "status.json").write_text(json.dumps({**status, "state": "stopped"}))
    capsys.readouterr()
    assert typed(draw) == 2
    assert typed(shown(capsys.readouterr().err)) == 0
    assert len(job.images) == 3


def test_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(tmp_path):
        assert main.main(["runs"]) == 0
        assert shown(capsys.readouterr().out) == "ddpm train --preset quick-start"
        assert main.main(["example", "--runs_dir", "my runs"]) == 0
        assert typed(capsys.readouterr().out.partition(": ")[2].strip()) == 0
        assert SampleJob(Path("samples")).shape == (16, 32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--total_steps", "4"]], ids=["finished", "to be gone on with"])
def test_an_import_without_data(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str], more: list[str], tmp_path: Path
) -> None:
    assert typed(run.shell("export", more=["--openai", str(tmp_path / "theirs")])) == 0
    name = f"theirs{len(more)}"
    flags = ["--noise_schedule", "cosine", "--diffusion_steps", "50", "--num_heads", "1", "--probe", "False"]
    capsys.readouterr()
    assert main.main(["import", str(tmp_path / "theirs"), "--run", name, *flags, *more]) == 0
    assert typed(shown(capsys.readouterr().err)) == 0


def test_a_folder_of_our_own_is_not_imported(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in run.folder.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main.main(["import", str(tmp_path), "--run", "ours"]) == 2
    assert typed(shown(capsys.readouterr().err)) == 0
