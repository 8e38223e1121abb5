"""What comes from data and files reaches the page through one function: read off the source.

`escape` for Markdown, `html.escape` for HTML, `figures.plain` for charts.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pages.ui.components import figures, markdown, study_figures
from pages.ui.components.study_figures import Curve

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "home.py", *sorted((ROOT / "pages").glob("*.py")), *sorted((ROOT / "pages" / "ui").rglob("*.py"))]

# Methods of Streamlit whose first argument is Markdown, and the keywords whose value is, of these and of any other.
SAY = {
    *("badge", "caption", "error", "header", "info", "markdown", "subheader", "success", "title", "toast", "warning"),
    *("button", "checkbox", "dialog", "download_button", "expander", "file_uploader", "metric", "multiselect"),
    *("number_input", "page_link", "popover", "radio", "segmented_control", "select_slider", "selectbox", "slider"),
    *("spinner", "status", "table", "text_input", "toggle", "write", "pills", "tabs", "link_button", "menu_button"),
}
SECOND = {"metric", "progress"}  # the second is, too
KEYWORDS = {"label", "body", "help", "text", "caption", "value", "delta", "title", "delta_description"}
CHOICES = {"radio", "pills", "segmented_control", "select_slider"}  # what is to be chosen from is Markdown as well

NUMBERS = {
    "amount",
    "bits",
    "clock",
    "duration",
    "format_number",
    "memory",
    "number",
    "percent",
    "plural",
    "speed",
    "time_left",
}
"""Functions that return nothing but numbers, and words of the program's."""
NUMERIC = tuple("deEfgG%,")  # the end of a format that texts do not have: they raise ValueError


def named(node: ast.expr) -> list[str]:
    """Names in a chain such as `metrics.HELP["loss"]`: metrics, HELP."""
    match node:
        case ast.Name():
            return [node.id]
        case ast.Attribute():
            return [*named(node.value), node.attr]
        case ast.Subscript():
            return named(node.value)
    return []


def is_harmless(node: ast.expr | None, local: dict[str, list[ast.expr]], function: str = "escape") -> bool:
    """Whether a text is a literal, a constant of the program, a number, went through `escape`, or is made of such."""

    def harmless(part: ast.expr | None) -> bool:
        return is_harmless(part, local, function)

    match node:
        case None | ast.Constant():
            return True
        case ast.JoinedStr():
            return all(map(harmless, node.values))
        case ast.FormattedValue():
            spec = node.format_spec
            text = ast.unparse(spec)[2:-1] if spec else ""
            return text.endswith(NUMERIC) or harmless(node.value)
        case ast.IfExp():
            return harmless(node.body) and harmless(node.orelse)
        case ast.BoolOp():
            return all(map(harmless, node.values))
        case ast.BinOp(op=ast.Add()):
            return harmless(node.left) and harmless(node.right)
        case ast.List() | ast.Tuple() | ast.Set():
            return all(map(harmless, node.elts))
        case ast.Dict():
            return all(map(harmless, [*node.keys, *node.values]))
        case ast.Starred():
            return harmless(node.value)
        case ast.GeneratorExp() | ast.ListComp():
            return harmless(node.elt)
        case ast.DictComp():
            return harmless(node.key) and harmless(node.value)
        case ast.Call():
            name = ast.unparse(node.func)
            if name == function or (function == "escape" and name == "with_code") or name.split(".")[-1] in NUMBERS:
                return True
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "strip", "capitalize"):
                return harmless(node.func.value) and all(map(harmless, node.args))
            return name == "list" and all(map(harmless, node.args))
        case ast.Name() | ast.Attribute() | ast.Subscript():
            names = named(node)
            if names == [function]:
                return True
            if any(name.isupper() for name in names):  # a constant of a module: a table of the program's
                return True
            values = local.get(names[0], []) if names else []
            others = {**local, names[0]: []} if names else local
            return bool(values) and all(is_harmless(value, others, function) for value in values)
    return False


def assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """What each name of a function is, wherever it is assigned one by one; parameters and loops are not among them."""
    found: dict[str, list[ast.expr]] = {}
    other: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.setdefault(name, []).append(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found.setdefault(name, []).append(value)
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                found.setdefault(name, []).append(value)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)) if len(names) == len(values):
                for one, value in zip(names, values, strict=True):
                    if isinstance(one, ast.Name):
                        found.setdefault(one.id, []).append(value)
            case ast.Assign(targets=targets):
                other |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                found.setdefault(name, []).append(value)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                for n in ast.walk(target):  # what goes through a table of the program's is from it
                    if isinstance(n, ast.Name):
                        found.setdefault(n.id, []).append(value)
            case ast.withitem(optional_vars=ast.expr() as target):
                other |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
            case ast.arg(arg=name):
                other.add(name)
    return {name: values for name, values in found.items() if name not in other}


def ours(module: ast.Module) -> set[str]:
    """Modules of this project that another one has imported."""
    return {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("pages", "ddpm")
        for alias in node.names
    }


def said(call: ast.Call, own: set[str]) -> Iterator[ast.expr]:
    """The arguments of a call that Streamlit shows as Markdown; a function of our own escapes what it is given."""
    if not isinstance(call.func, ast.Attribute) or ast.unparse(call.func.value) in own:
        return
    method = call.func.attr
    if method in SAY:
        yield from call.args[:1]
        yield from (k.value for k in call.keywords if k.arg in KEYWORDS - {"value"})
    if method in SECOND:
        yield from call.args[1:2]
        yield from (k.value for k in call.keywords if k.arg in KEYWORDS)
    if method == "image":
        yield from (k.value for k in call.keywords if k.arg == "caption")
    if method in CHOICES:
        given = {k.arg: k.value for k in call.keywords}
        if form := given.get("format_func"):
            yield form.body if isinstance(form, ast.Lambda) else form
        else:
            yield from call.args[1:2]


def violations(module: ast.Module) -> list[str]:
    """Lines that show what may come from elsewhere."""
    found: list[str] = []
    own = ours(module)

    def look(node: ast.AST, local: dict[str, list[ast.expr]]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            inner = assigned(node)
            hidden = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
            local = {name: values for name, values in local.items() if name not in hidden} | inner
        if isinstance(node, ast.Call):
            found.extend(f"{v.lineno}: {ast.unparse(v)}" for v in said(node, own) if not is_harmless(v, local))
            name = ast.unparse(node.func)
            if name.endswith(".html"):
                found.extend(
                    f"{v.lineno}: {ast.unparse(v)}" for v in node.args if not is_harmless(v, local, "html.escape")
                )
        for child in ast.iter_child_nodes(node):
            handed_on = isinstance(child, ast.Attribute) and ast.unparse(child.value) == "st" and child.attr in SAY
            if handed_on and not (isinstance(node, ast.Call) and node.func is child):
                found.append(f"{child.lineno}: {ast.unparse(child)} is handed on")
            look(child, local)

    top = ast.Module([n for n in module.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], [])
    look(module, assigned(top))
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_comes_from_elsewhere_is_escaped(path: Path) -> None:
    assert violations(tree(path)) == []


BAD = """
st.error(str(error))
st.caption(f"{run.name} is there")
st.markdown(run.name)
st.button("x", help=problem)
st.info(message if message else "none")
st.warning("a" + note)
cell.metric("Loss", status.message)
st.image(picture, caption=name)
st.segmented_control("Class", names)
st.segmented_control("Class", names, format_func=lambda name: name.title())
st.table({"a": [value]})
st.table({"a": ["b"], **{escape(name): [value] for name, value in pairs}})
st.progress(0.5, text)
st.html(f"<b>{escape(name)}</b>")
say = st.error
"""
GOOD = """
st.error(escape(error))
st.caption(f"{escape(run.name)} is there, {count:,} times, {share:.0%}")
st.markdown(f"**{TITLES[kind]}**")
st.button("x", help=escape(problem) or None)
st.info("a" if message else HELP["none"])
st.warning("a " + escape(note))
cell.metric("Loss", formatting.duration(seconds))
st.segmented_control("Class", names, format_func=escape)
st.table({"a": [escape(value) for value in values]})
st.table({"a": ["b"], **{escape(name): [escape(value)] for name, value in pairs}})
st.html(f"<b>{html.escape(name)}</b>")
st.selectbox("Run", names)
label = "a" if there else f"{n:d}"
st.caption(label)
for title in TITLES: st.caption(title)
"""


def test_the_rule_sees_what_it_should() -> None:
    for text in BAD.strip().splitlines():
        assert violations(ast.parse(text)), text
    assert violations(ast.parse(GOOD)) == []
    assert violations(ast.parse("def show(name):\n    name = 'a'\n    st.caption(name)")), "a parameter is anything"


NAMES = {
    "![x](http://evil.example/x.png)": r"!\[x\](http\://evil.example/x.png)",
    "a_b*c*`d`": r"a\_b\*c\*\`d\`",
    "<img src=x>&amp;": r"\<img src=x\>\&amp;",
    "www.evil.example": r"www\.evil.example",
    "- no list": r"\- no list",
    "1. no list": r"1\. no list",
    "two\n\n    lines": "two lines",
    "\x1b[31mred\x9b": r"\\x1b\[31mred\\x9b",
    "caf\udce9": r"caf\\xe9",
    "plain name-1.5 (2)": "plain name-1.5 (2)",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_escaped_is_shown_as_it_is(name: str) -> None:
    assert markdown.escape(name) == NAMES[name]


def test_commands_in_a_message_are_shown_as_code() -> None:
    assert markdown.with_code("Run `ddpm runs *` at [x](y)") == r"Run `ddpm runs *` at \[x\](y)"
    assert markdown.with_code("one ` alone") == r"one \` alone"
    assert markdown.with_code("``<b>`") == "\\``<b>`"


# --- charts

FIGURES = [
    ROOT / "pages" / "ui" / "components" / name for name in ("figures.py", "study_figures.py", "quality_charts.py")
]
SHOWN = {"name", "text", "ticktext", "hovertemplate", "hovertext", "customdata", "title"}
"""Parts of a figure that Plotly shows as its subset of HTML."""


def labels(module: ast.Module) -> list[str]:
    """Lines that put into a figure what may come from elsewhere."""
    found: list[str] = []

    def look(node: ast.AST, local: dict[str, list[ast.expr]]) -> None:
        if isinstance(node, ast.FunctionDef):
            local = {**local, **assigned(node)}
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            values = [k.value for k in node.keywords if k.arg in SHOWN]
        if isinstance(node, ast.Dict):
            shown = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)]
            values = [value for key, value in shown if key.value in SHOWN]
        for value in values:
            is_layout = isinstance(value, ast.Call) and ast.unparse(value.func) == "dict"  # looked at by itself
            is_number = isinstance(value, ast.ListComp) and ast.unparse(value.elt).endswith(".calls")
            is_number = is_number or (
                isinstance(value, ast.ListComp) and "formatting.number(" in ast.unparse(value.elt)
            )
            is_number = is_number or ast.unparse(value).endswith(".calls]")
            if not is_layout and not is_number and not is_harmless(value, local, "plain"):
                found.append(f"{value.lineno}: {ast.unparse(value)}")
        for child in ast.iter_child_nodes(node):
            look(child, local)

    look(module, {})
    return found


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_what_a_chart_shows_is_plain(path: Path) -> None:
    assert labels(tree(path)) == []


def test_figures_are_made_in_these_modules_alone() -> None:
    for path in PAGES:
        if path not in FIGURES:
            assert "hovertemplate" not in path.read_text(encoding="utf-8"), path


def test_the_rule_about_charts_sees_what_it_should() -> None:
    for text in ("dict(name=label)", "dict(text=f'<b>{name}</b>')", "{'hovertemplate': name}", "dict(ticktext=names)"):
        assert labels(ast.parse(text)), text
    assert labels(ast.parse("dict(name=plain(label), text=f'<b>{plain(x)}</b>', title=dict(text='a'))")) == []


def test_labels_of_charts_are_shown_as_they_are() -> None:
    hostile = '<a href="http://evil.example">%{x}</a>&amp;\n\x1b'
    curve = Curve(hostile, [0, 1], dict.fromkeys(study_figures.TERMS, np.ones(2)))
    names = {trace["name"] for trace in study_figures.terms([curve], log=False)["data"]}
    assert names == {'&lt;a href="http://evil.example"&gt;%&#123;x}&lt;/a&gt;&amp;amp; \\x1b'}
    assert figures.plain("vb (bits per dimension)") == "vb (bits per dimension)"
