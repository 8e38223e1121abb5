"""Rules of the design, read off the source: who imports whom, who writes files, what is said once."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ddpm.config import codec, fields
from ddpm.config.benchmarks import ScaleConfig, SpeedConfig
from ddpm.config.tasks import EvalConfig, SampleConfig, SolverBenchmarkConfig

ROOT = Path(__file__).resolve().parents[1]

# A package or module imports from those before it, never from those after it.  What stands before the wall imports no
# torch, so that a page, and a command that only looks, starts at once.
ORDER = """
    errors formatting schedules solvers spacings weightings data_sets storage host config runs data planning reports
    | compute diffusion models checkpoints sampling quality training analysis interop bench api cli
"""
BEFORE, _, AFTER = ORDER.partition("|")
TORCH_FREE = BEFORE.split()
ROOMS = [*TORCH_FREE, *AFTER.split()]
# Parts of pages, in the same sense.
UI_ORDER = ["components", "frame", "forms", "results"]

MODULES = sorted((ROOT / "ddpm").rglob("*.py"))
PAGES = [ROOT / "app.py", ROOT / "home.py", *sorted((ROOT / "pages").rglob("*.py"))]
SCREENS = [ROOT / "home.py", *(path for path in sorted((ROOT / "pages").glob("*.py")) if path.stem != "__init__")]
SOURCES = [*MODULES, *PAGES]
MOST_LINES = 400

DISTRIBUTIONS = {"PIL": "Pillow"}
OPTIONAL = {"pyarrow", "tensorboard", "imageio_ffmpeg", "plotly"}  # used where it is there


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported, wherever in it."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom) and part.module and not part.level:
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def top(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(tree(path))}


def rooms_of(node: ast.AST, package: str) -> set[str]:
    """Which parts of a package (`ddpm`, `pages.ui`) are imported in it."""
    return {name.removeprefix(f"{package}.").split(".")[0] for name in imports(node) if name.startswith(f"{package}.")}


def room(path: Path, package: str) -> str:
    """The package or module directly below `package` that a file belongs to."""
    return path.relative_to(ROOT / package.replace(".", "/")).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent.name != "ddpm" or path.stem[0] != "_"], ids=by_path
)
def test_nothing_imports_what_comes_after_it(path: Path) -> None:
    own = ROOMS.index(room(path, "ddpm"))
    assert not {name for name in rooms_of(tree(path), "ddpm") & {*ROOMS} if ROOMS.index(name) > own}
    optional = {"plotly"} if path == ROOT / "ddpm/bench/scaling.py" else set()  # imported for a chart alone
    assert not top(path) & ({"streamlit", "starlette", "pages", "plotly", "watchdog"} - optional)


@pytest.mark.parametrize("path", [path for path in MODULES if room(path, "ddpm") in TORCH_FREE], ids=by_path)
def test_the_wall_keeps_torch_out(path: Path) -> None:
    assert "torch" not in top(path)


def test_and_none_is_loaded() -> None:
    """The same, seen in a process that imports them all."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if room(path, "ddpm") in TORCH_FREE
    ]
    code = f"""
import importlib, sys
for name in {[*names, "ddpm.cli.main"]}:
    importlib.import_module(name)
print([name for name in ("torch", "streamlit", "plotly", "watchdog") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_training_and_sampling_do_without_pandas() -> None:
    """It takes a moment and tens of megabytes, and is needed for tables alone."""
    code = """
import sys
import ddpm.cli.main, ddpm.sampling.job, ddpm.training.loop
print("pandas" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


def test_a_server_imports_the_pages_at_its_start() -> None:
    """No page waits for it, torch is not among it, and the garbage collector passes over it."""
    code = """
import gc, sys
from pages.server import warm
warm.load()
print("pages.ui.forms.train_form" in sys.modules, "torch" in sys.modules, gc.get_freeze_count() > 10_000)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True"]


@pytest.mark.parametrize("path", PAGES, ids=by_path)
def test_pages_stay_before_the_wall(path: Path) -> None:
    assert "torch" not in top(path)
    assert rooms_of(tree(path), "ddpm") & {*ROOMS} <= {*TORCH_FREE}, "start a process instead"


@pytest.mark.parametrize("path", [path for path in PAGES if "ui" in path.parts], ids=by_path)
def test_parts_of_pages_import_no_later_ones(path: Path) -> None:
    own = room(path, "pages.ui")
    allowed = UI_ORDER[: UI_ORDER.index(own) + 1] if own in UI_ORDER else []
    assert rooms_of(tree(path), "pages.ui") <= {*allowed}
    assert all(name.startswith("pages.ui.") for name in imports(tree(path)) if name.split(".")[0] == "pages")


def test_every_package_says_what_belongs_in_it() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            assert ast.get_docstring(tree(path)), path


# --- files


def writes(node: ast.Call) -> str | None:
    """What a call does to the disk, if it does."""
    name = ast.unparse(node.func)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    modes = arguments[1:] if name in ("open", "io.open") else arguments[:1] if method == "open" else []
    for mode in modes:
        if isinstance(mode, ast.Constant) and isinstance(mode.value, str) and set(mode.value) & set("wax+"):
            return f"{name} for writing"
    if name in (
        "os.rename",
        "os.replace",
        "os.renames",
        "os.link",
        "os.truncate",
        "shutil.move",
        "shutil.copy",
        "shutil.copyfile",
        "shutil.copytree",
        "shutil.copy2",
    ):
        return name
    if method in ("write_text", "touch", "hardlink_to", "symlink_to") or (
        method == "rename" and name != "files.rename"
    ):
        return name
    if method == "write_bytes" and name != "files.write_bytes":
        return name
    if name == "torch.save" and not (len(node.args) > 1 and ast.unparse(node.args[1]) == "file"):
        return "torch.save to a path"
    return None


def test_the_rule_about_files_sees_what_it_should() -> None:
    bad = [
        'open(p, "w")',
        'open(p, mode="ab")',
        'path.open("x")',
        "os.replace(a, b)",
        "path.write_text(t)",
        "torch.save(m, path)",
        "path.rename(x)",
    ]
    good = [
        'open(p, "rb")',
        "open(p)",
        "files.write_bytes(p, b)",
        "torch.save(m, file)",
        'text.replace("a", "b")',
        'zipped.open(name, "w")',
    ]
    calls = [ast.parse(text, mode="eval").body for text in bad + good]
    assert [writes(call) is not None for call in calls if isinstance(call, ast.Call)] == [True] * 7 + [False] * 6


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_only_files_writes_files(path: Path) -> None:
    if path == ROOT / "ddpm" / "storage" / "files.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert writes(node) is None, f"line {node.lineno}: {writes(node)}: use ddpm.storage.files"


# Where pages and reports read by path, which is never one inside the folder of a run: files of the program, what the
# user named, the folder of runs.
BY_PATH = {
    "pages/server/shell_route.py": {"read_text"},
    "pages/ui/components/browser_code.py": {"glob", "read_bytes"},
    "pages/ui/components/mask_canvas.py": {"read_text"},
    "pages/ui/frame/layout.py": {"read_text"},
    "pages/ui/frame/run_store.py": {"exists"},
    "pages/ui/forms/data_form.py": {"stat"},
    "pages/ui/forms/super_res.py": {"stat"},
    "pages/ui/forms/inputs_form.py": {"stat", "is_file", "load"},
    "ddpm/reports/animation.py": {"exists", "read_bytes"},
    "ddpm/reports/xlsx.py": {"glob", "stat"},  # names and sizes of checkpoints
}
LOOKS = {"exists", "stat", "lstat", "is_file", "is_dir", "iterdir"}  # methods of a path that take nothing
READS = {"read_text", "read_bytes", "glob", "rglob"}


def reads_by_path(node: ast.AST) -> str:
    """What a part of the source reads from a path, if it does: the name of the function."""
    if isinstance(node, ast.Attribute) and node.attr in READS:
        return node.attr
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        if name in ("open", "io.open", "Image.open", "Pillow.open", "np.load") and not ast.unparse(node).count(
            "BytesIO"
        ):
            return "open"
        if name in ("image_files.load", "image_files.size", "os.listdir", "os.scandir", "os.stat"):
            return name.split(".")[1]
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOOKS and not node.args:
            return node.func.attr
    return ""


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "ddpm" / "reports").glob("*.py"))], ids=by_path)
def test_files_of_a_run_are_read_through_its_door(path: Path) -> None:
    """By `job.read`, `job.has`, `job.open_file`, or `content`, which follow no link and wait for nothing."""
    found = {what for node in ast.walk(tree(path)) if (what := reads_by_path(node))}
    assert found == BY_PATH.get(path.relative_to(ROOT).as_posix(), set())


@pytest.mark.parametrize("path", sorted((ROOT / "ddpm" / "cli").glob("*.py")), ids=by_path)
def test_commands_print_in_one_place(path: Path) -> None:
    """Which takes the control characters out of names and messages."""
    calls = [ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert "print" not in calls or path.stem == "output"


# Of a number in text: whole ones, with separators where they may be large, and a fixed number of decimals; codes.
NUMBER_FORMS = re.compile(r"|0?\d*d|[<>]?\d*|,|\+?,\.\d+f|0?\d*x")


@pytest.mark.parametrize("path", [*PAGES, *sorted((ROOT / "ddpm" / "cli").glob("*.py"))], ids=by_path)
def test_numbers_are_written_in_one_form(path: Path) -> None:
    """What else there is, ddpm.formatting writes: significant digits, units, shares."""
    forms = [
        "".join(part.value if isinstance(part, ast.Constant) else "0" for part in node.format_spec.values)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr)
    ]
    assert [form for form in forms if not NUMBER_FORMS.fullmatch(form)] == []


def test_routes_keep_nothing_in_the_caches_of_pages() -> None:
    """These need a server that runs, and routes are made before it does."""
    code = "import logging; logging.basicConfig(); from pages.server import routes; routes.all_routes()"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "No runtime found" not in said.stderr


def test_checkpoints_are_loaded_as_weights_only() -> None:
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "pickle.load",
                "pickle.loads",
                "np.load",
            ):
                call = ast.unparse(node)
                assert "weights_only=True" in call or (
                    call.startswith("np.load") and "allow_pickle=True" not in call
                ), call


@cache
def kept_properties() -> set[str]:
    """Names of what is computed, or read from a file, when it is first asked for."""
    return {
        node.name
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and "cached_property" in {ast.unparse(d) for d in node.decorator_list}
    }


def does_something(test: ast.expr) -> list[str]:
    """What a condition does, beyond looking at values."""
    calls = [ast.unparse(n.func) for n in ast.walk(test) if isinstance(n, ast.Call)]
    read = [n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute) and n.attr in kept_properties()]
    assigned = [ast.unparse(n) for n in ast.walk(test) if isinstance(n, ast.NamedExpr | ast.Await | ast.Yield)]
    return [*(name for name in calls if name not in ("isinstance", "len")), *read, *assigned]


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_nothing_depends_on_asserts(path: Path) -> None:
    """`python -O` leaves them out."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            assert not does_something(node.test), f"line {node.lineno}"


def test_the_rule_about_asserts_sees_what_it_should() -> None:
    tests = ["run.config", "f()", "(x := 1)", "len(a) == 2", "isinstance(a, B)", "self.library is not None"]
    assert [bool(does_something(ast.parse(t, mode="eval").body)) for t in tests] == [True] * 3 + [False] * 3


# --- pages

CALLBACKS = ("on_click", "on_change", "on_dismiss")


@pytest.mark.parametrize("path", PAGES, ids=by_path)
def test_what_goes_wrong_in_a_page_is_reported_in_a_box(path: Path) -> None:
    """Fragments and callbacks are made by layout, which sees to it; the page itself begins with its `page`."""
    if path.name == "layout.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "st.fragment", f"line {node.lineno}: use layout.fragment"
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in CALLBACKS and not isinstance(keyword.value, ast.Constant):
                    assert ast.unparse(keyword.value).startswith("layout.callback("), f"line {keyword.value.lineno}"
    calls = [
        ast.unparse(node.value)
        for node in tree(path).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert path not in SCREENS or calls[0].startswith("layout.page(")


# --- size and words


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=by_path)
def test_what_is_public_says_what_it_is(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module) or path.stem == "__main__"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or is_record(node), f"{node.name} has no docstring"


def is_record(node: ast.AST) -> bool:
    """A class of nothing but named fields, which say it themselves."""
    return isinstance(node, ast.ClassDef) and all(isinstance(part, ast.AnnAssign) for part in node.body)


def test_settings_are_said_once() -> None:
    """Neither the definition of a flag nor a help text stands anywhere but in ddpm/config."""
    known = [
        s
        for cls in (*codec.SECTIONS.values(), SampleConfig, EvalConfig, SolverBenchmarkConfig, SpeedConfig, ScaleConfig)
        for s in fields.settings(cls)
    ]
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                assert not {ast.unparse(a).strip("'") for a in node.args} & {f"--{s.name}" for s in known}, path
            if isinstance(node, ast.Constant) and path.parent.name != "config":
                assert node.value not in {s.help for s in known}, path


# --- what is installed


def requirements(name: str) -> dict[str, str]:
    """Package -> its range, of lines that each give their reason."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(\S+) +# .+", line)
        if match:
            found[match[1]] = match[2]
        else:
            assert not line or line.startswith(("#", "-r ")), f"{line!r} gives no reason"
    return found


def packaged() -> dict[str, str]:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {re.match(r"[A-Za-z0-9_.-]+", line)[0]: re.sub(r"^[A-Za-z0-9_.-]+", "", line) for line in lines}  # type: ignore[index]


def test_requirements_and_package_agree() -> None:
    everything, headless = requirements("requirements.txt"), packaged()
    assert headless.items() <= everything.items()
    assert set(everything) - set(headless) == {"streamlit", "starlette", "plotly", "watchdog"}
    assert everything["torch"] == "==2.13.0"


def test_extras_are_tested() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    lines = [line for lines in extras.values() for line in lines]
    assert {*lines} <= {name + specifier for name, specifier in tested.items()}
    assert len(lines) >= 2


def test_imports_are_required() -> None:
    def third_party(paths: list[Path]) -> set[str]:
        used = {name for path in paths for name in top(path)}
        ours = {"ddpm", "pages", "__future__"}
        return {DISTRIBUTIONS.get(n, n) for n in used - ours - OPTIONAL - set(sys.stdlib_module_names)}

    assert third_party(MODULES) == set(packaged())
    assert third_party(PAGES) <= set(requirements("requirements.txt"))


def test_installed_versions_are_in_range() -> None:
    from importlib.metadata import version

    from packaging.requirements import Requirement

    wanted = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    for name, specifier in wanted.items():
        assert Requirement(name + specifier).specifier.contains(version(name), prereleases=True), name


def test_the_lock_has_all_that_is_required() -> None:
    """Exact versions, within their ranges, and nothing of where they were installed from."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    wanted = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    for name, specifier in wanted.items():
        assert Requirement(name + specifier).specifier.contains(pins[canonicalize_name(name)]), name
    assert len(pins) > 2 * len(wanted), "what these need is in it"


def test_names_are_unique_in_the_tests() -> None:
    """Test modules share one namespace."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} <= {"conftest.py"}
