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
from ddpm.config.tasks import EvalConfig, FrontierConfig, SampleConfig, ScaleConfig, SpeedConfig

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = {path.stem: path for path in sorted((ROOT / "ddpm").glob("*.py"))}
COMMANDS = sorted((ROOT / "ddpm" / "commands").glob("*.py"))
PAGES = [ROOT / "app.py", *sorted((ROOT / "pages").rglob("*.py"))]

# A module imports only from lines above its own.
LAYERS = """
    errors words solvers svg
    places
    files schedules fields targets image_files
    hardware locks
    cores
    parallel native
    config images metrics jobs arrays
    objective validation classes spacing guidance listing labelling
    variances
    cells
    results
    runs
    architecture deduce presets traces shapes diffusion ema moments prepare logs weights
    ops
    native_ops memory precision sources unet losses samplers resample checkpoint process export foreign
    compute update
    decoded download lsun imagenet64 machine yardstick
    data cifar10 edit
    low_res probe lineage
    given recipe sheet film packing example
    recognise
    adopt hand_back
    resume
    analytic
    train sample
    trial
    drawing session measure evaluate frontier microscope
    laps
    rivals
    speed
    scale
    commands
    cli
    __main__
"""
LEVEL = {name: level for level, line in enumerate(LAYERS.split("\n")) for name in line.split()}

# Who only watches must not wait for torch.
WITHOUT_TORCH = ["errors", "words", "solvers", "files", "places", "locks", "hardware", "cores", "schedules", "fields", "config", "objective", "validation", "classes", "image_files", "images", "listing", "labelling", "metrics", "jobs", "architecture", "deduce", "foreign", "presets", "results", "runs", "traces", "shapes", "sources", "prepare", "decoded", "data", "lineage", "download", "cifar10", "lsun", "imagenet64", "low_res", "given", "spacing", "guidance", "variances", "film", "example", "process", "export", "cli", "arrays", "memory", "recipe", "cells", "sheet", "native", "svg", "targets"]  # fmt: skip

MOST_LINES = 450

DISTRIBUTIONS = {"PIL": "Pillow"}
OPTIONAL = {"pyarrow", "lmdb", "tensorboard", "imageio_ffmpeg"}  # used where it is there


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.module, alias.name


def top(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(path)}


def of_ours(path: Path) -> set[str]:
    """Modules of the package that it imports."""
    found = set()
    for module, name in imports(path):
        if module == "ddpm" and name in PACKAGE:
            found.add(name)
        elif module.startswith("ddpm."):
            found.add(module.split(".")[1])
    return found


def test_every_module_has_its_place() -> None:
    assert {*PACKAGE, "commands"} - {"__init__"} == set(LEVEL), "name it in LAYERS, above what imports it"


@pytest.mark.parametrize("name", sorted({*LEVEL} - {"commands"}))
def test_nothing_imports_upwards(name: str) -> None:
    upwards = {other for other in of_ours(PACKAGE[name]) if LEVEL[other] >= LEVEL[name]}
    assert not upwards


def test_the_package_knows_no_pages() -> None:
    for name, path in PACKAGE.items():
        assert not top(path) & {"streamlit", "pages", "plotly", "watchdog"}, name
    assert of_ours(PACKAGE["__init__"]) == set()


def test_only_the_command_line_knows_its_rooms() -> None:
    assert [name for name, path in PACKAGE.items() if "commands" in of_ours(path)] == ["cli"]
    for path in COMMANDS:
        assert not top(path) & {"torch", "streamlit", "pages", "plotly", "watchdog"}, path
        assert "cli" not in of_ours(path), path


def test_rooms_of_the_command_line_import_torch_when_they_need_it() -> None:
    for path in COMMANDS:
        torchy = {name for node in tree(path).body for name in _modules(node)} - {*WITHOUT_TORCH, "commands"}
        assert not torchy, f"{path} imports {torchy} at once: import it where it is used"


def _modules(node: ast.AST) -> set[str]:
    """Modules of the package that an import statement names."""
    if isinstance(node, ast.ImportFrom) and node.module == "ddpm":
        return {alias.name for alias in node.names} & {*PACKAGE}
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddpm."):
        return {str(node.module).split(".")[1]}
    return set()


def test_pages_know_no_torch() -> None:
    for path in PAGES:
        assert "torch" not in top(path), path
        torchy = of_ours(path) - set(WITHOUT_TORCH)
        assert not torchy, f"{path} imports {torchy}: start a process instead"


def test_parts_of_pages_do_not_import_pages() -> None:
    for path in PAGES:
        for module, name in imports(path):
            if module.split(".")[0] == "pages":
                assert module == "pages.ui" or module.startswith("pages.ui."), f"{path} imports {module} {name}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_who_watches_imports_no_torch(name: str) -> None:
    torchy = {other for other in of_ours(PACKAGE[name]) if other not in WITHOUT_TORCH}
    lazily = {"cli": {"commands"}}
    assert "torch" not in top(PACKAGE[name])
    assert torchy <= lazily.get(name, set())


def test_and_none_is_loaded() -> None:
    """The same, seen in a process that imports them all."""
    code = f"""
import sys
for name in {WITHOUT_TORCH}:
    __import__(f"ddpm.{{name}}")
print([name for name in ("torch", "streamlit", "plotly", "watchdog") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


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
    if name in ("os.rename", "os.replace", "os.renames", "os.link", "os.truncate", "shutil.move", "shutil.copy", "shutil.copyfile", "shutil.copytree", "shutil.copy2"):  # fmt: skip
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
    bad = ['open(p, "w")', 'open(p, mode="ab")', 'path.open("x")', "os.replace(a, b)", "path.write_text(t)", "torch.save(m, path)", "path.rename(x)"]  # fmt: skip
    good = ['open(p, "rb")', "open(p)", "files.write_bytes(p, b)", "torch.save(m, file)", 'text.replace("a", "b")', 'zipped.open(name, "w")']  # fmt: skip
    calls = [ast.parse(text, mode="eval").body for text in bad + good]
    assert [writes(call) is not None for call in calls if isinstance(call, ast.Call)] == [True] * 7 + [False] * 6


@pytest.mark.parametrize("path", [*PACKAGE.values(), *COMMANDS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_only_files_writes_files(path: Path) -> None:
    if path.name == "files.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert writes(node) is None, f"line {node.lineno}: {writes(node)}: use ddpm.storage.files"


def test_checkpoints_are_loaded_as_weights_only() -> None:
    for path in [*PACKAGE.values(), *COMMANDS, *PAGES]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads", "np.load"):  # fmt: skip
                call = ast.unparse(node)
                assert "weights_only=True" in call or (call.startswith("np.load") and "allow_pickle=True" not in call), call  # fmt: skip


@cache
def kept_properties() -> set[str]:
    """Names of what is computed, or read from a file, when it is first asked for."""
    return {
        node.name
        for path in [*PACKAGE.values(), *COMMANDS, *PAGES]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and "cached_property" in {ast.unparse(d) for d in node.decorator_list}
    }


def does_something(test: ast.expr) -> list[str]:
    """What a condition does, beyond looking at values."""
    calls = [ast.unparse(n.func) for n in ast.walk(test) if isinstance(n, ast.Call)]
    read = [n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute) and n.attr in kept_properties()]
    assigned = [ast.unparse(n) for n in ast.walk(test) if isinstance(n, ast.NamedExpr | ast.Await | ast.Yield)]
    return [*(name for name in calls if name not in ("isinstance", "len")), *read, *assigned]


@pytest.mark.parametrize("path", [*PACKAGE.values(), *COMMANDS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_goes_wrong_in_a_page_is_told_in_a_box(path: Path) -> None:
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
    calls = [ast.unparse(node.value) for node in tree(path).body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]  # fmt: skip
    assert path.parent.name == "ui" or path.name == "__init__.py" or calls[0].startswith("layout.page(")


# --- size and words


@pytest.mark.parametrize("path", [*PACKAGE.values(), *COMMANDS, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_what_is_public_says_what_it_is(name: str) -> None:
    module = tree(PACKAGE[name])
    assert ast.get_docstring(module) or name == "__main__"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or is_record(node), f"{node.name} has no docstring"


def is_record(node: ast.AST) -> bool:
    """A class of nothing but named fields, which say it themselves."""
    return isinstance(node, ast.ClassDef) and all(isinstance(part, ast.AnnAssign) for part in node.body)


def test_settings_are_said_once() -> None:
    """Neither the definition of a flag nor a help text stands anywhere but in config.py."""
    known = [
        s
        for cls in (
            *codec.SECTIONS.values(),
            SampleConfig,
            EvalConfig,
            FrontierConfig,
            SpeedConfig,
            ScaleConfig,
        )
        for s in fields.settings(cls)
    ]
    for path in [*PACKAGE.values(), *COMMANDS, *PAGES]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                assert not {ast.unparse(a).strip("'") for a in node.args} & {f"--{s.name}" for s in known}, path
            if isinstance(node, ast.Constant) and path != PACKAGE["config"]:
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
    return {re.match(r"[A-Za-z0-9_.-]+", line)[0]: re.sub(r"^[A-Za-z0-9_.-]+", "", line) for line in lines}  # type: ignore[index]  # fmt: skip


def test_requirements_and_package_agree() -> None:
    everything, headless = requirements("requirements.txt"), packaged()
    assert headless.items() <= everything.items()
    assert set(everything) - set(headless) == {"streamlit", "plotly", "watchdog"}
    assert everything["torch"] == "==2.13.0"


def test_extras_are_tested() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = requirements("requirements-dev.txt")
    lines = [line for lines in extras.values() for line in lines]
    assert {*lines} <= {name + specifier for name, specifier in tested.items()}
    assert len(lines) >= 2


def test_imports_are_required() -> None:
    def third_party(paths: list[Path]) -> set[str]:
        used = {name for path in paths for name in top(path)}
        ours = {"ddpm", "pages", "app", "__future__"}
        return {DISTRIBUTIONS.get(n, n) for n in used - ours - OPTIONAL - set(sys.stdlib_module_names)}

    assert third_party([*PACKAGE.values(), *COMMANDS]) == set(packaged())
    assert third_party(PAGES) <= set(requirements("requirements.txt"))


def test_installed_versions_are_in_range() -> None:
    from importlib.metadata import version

    from packaging.requirements import Requirement

    wanted = {**requirements("requirements.txt"), **requirements("requirements-dev.txt")}
    for name, specifier in wanted.items():
        assert Requirement(name + specifier).specifier.contains(version(name), prereleases=True), name


def test_names_are_unique_in_the_tests() -> None:
    """Test modules share one namespace."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} <= {"conftest.py"}
