"""Components whose code lies in ./static: ES modules, served under an address that changes with their content.

    chart = browser_code.component("ddpm_chart", "chart.js", html=..., css=...)
    chart(key="curves", data={"run": run.name})

`chart.js` exports `mount({ parentElement, data, setTriggerValue, setStateValue })`, which is called once, and returns
an object of two functions, both optional: `update(component)` for new data on the same element, and `leave()` for when
the element is taken away.  Modules import each other as in `import { ticks } from "./scales.js"`.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import streamlit as st

FOLDER = Path(__file__).resolve().parents[3] / "static"
ADDRESS = "code"  # of the route: ADDRESS/version/name.js
LIBRARY = f"{ADDRESS}/plotly-{metadata.version('plotly')}/plotly.min.js"

# The import takes a moment; what Streamlit says meanwhile, and that it takes the element away, is kept until then.
_MOUNTER = """
const mounted = new WeakMap();

export default function (component) {
  const parent = component.parentElement;
  const { code, data } = component.data;
  const now = { ...component, data };
  let state = mounted.get(parent);
  if (!state) {
    mounted.set(parent, (state = { now, part: null, gone: false }));
    import(new URL(code, document.baseURI).href).then(
      (module) => { if (!state.gone) state.part = module.mount(state.now) ?? {}; },
      () => { if (!state.gone) parent.append("This part of the page could not be loaded: reload the page."); },
    );
  } else {
    state.now = now;
    state.part?.update?.(now);
  }
  return () => { state.gone = true; mounted.delete(parent); state.part?.leave?.(); };
}
"""


class Component(Protocol):
    """What `component` returns."""

    def __call__(self, *, key: str, data: Any = None, **options: Any) -> Any:
        """Shows it.  data: what can be written as JSON.  options: those of a component of Streamlit's."""


@cache
def modules() -> Mapping[str, bytes]:
    """Name of each module in ./static, and its source."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.js"))}


def library() -> Path:
    """Plotly's script, which lies in the installed package: only charts of results need it."""
    package = find_spec("plotly")
    return Path((package and package.origin) or "plotly/__init__.py").parent / "package_data" / "plotly.min.js"


@cache
def version() -> str:
    """Changes when the source of any module does, as they import each other."""
    return hashlib.sha256(repr(sorted(modules().items())).encode()).hexdigest()[:16]


def address(module: str) -> str:
    """Where the browser finds a module, relative to the page's base."""
    if module not in modules():
        raise ValueError(f"there is no static/{module}")
    return f"{ADDRESS}/{version()}/{module}"


def component(name: str, module: str, *, html: str = "", css: str = "", isolate_styles: bool = True) -> Component:
    """A component that is drawn by `mount` of a module in ./static.  html: what stands in its element at first."""
    made = st.components.v2.component(name, html=html, css=css, js=_MOUNTER, isolate_styles=isolate_styles)
    code = address(module)

    def show(*, key: str, data: Any = None, **options: Any) -> Any:
        return made(key=key, data={"code": code, "data": data}, **options)

    return show
