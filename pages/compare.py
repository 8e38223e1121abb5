"""Compare: curves, settings and previews of several runs."""

from urllib.parse import quote, unquote

import streamlit as st

from ddpm.errors import UserError
from ddpm.runs import runs
from ddpm.runs.jobs import ACTIVE
from pages.ui.components import figures, setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.frame import layout, run_labels, run_store
from pages.ui.results import compare_previews, differing_settings, training_chart

MOST = 20  # runs in one chart
AT_FIRST = 2  # runs that are chosen where the address names none
ARGUMENT, WIDGET, COLOURS = "runs", "compared", "_colours"
ASKED = "_compared_of"  # in the session: the runs chosen by the address, and how many it names

layout.page("Compare")
st.title("Compare", anchor=False)
store = run_store.store(layout.runs_dir())
found = {run.name: run for run in layout.addressable(runs.list_runs(layout.runs_dir()))}
if not found:
    layout.no_runs("There are no runs to compare yet. Train one first: the quick start takes one click.")
    st.stop()

named = [unquote(name) for name in st.query_params.get(ARGUMENT, "").split(",") if name]
if WIDGET not in st.session_state:
    own = [name for name in st.query_params.get_all("run") if name in found]  # of a link from a page of one run
    chosen = [name for name in named if name in found] if named else [*dict.fromkeys([*own, *found])][:AT_FIRST]
    st.session_state[WIDGET] = chosen[:MOST]
    st.session_state[ASKED] = chosen[:MOST], len(chosen)
setting_widgets.put(WIDGET, [name for name in st.session_state[WIDGET] if name in found])
names = st.multiselect(
    "Runs",
    list(labels := run_labels.labels([*found.values()])),
    key=WIDGET,
    max_selections=MOST,
    placeholder="Choose runs to compare",
    format_func=lambda name: labels[name],
)
if missing := [name for name in named if name not in found]:
    st.warning(f"There is no run named {escape(', '.join(missing))}.", icon=":material/search_off:")
chosen, count = st.session_state[ASKED]
if names == chosen and count > MOST:
    st.info(
        f"The first {MOST:,} of {count:,} runs are compared, as a chart has no room for more.",
        icon=":material/compare_arrows:",
    )
if names != named:
    st.query_params[ARGUMENT] = ",".join(quote(name, safe="") for name in names)
if not names:
    st.info("Choose the runs to compare.", icon=":material/compare_arrows:")
    st.stop()

colours = figures.run_colours(names, st.session_state.get(COLOURS, {}))
st.session_state[COLOURS] = colours
shown = [training_chart.Shown(name, name, colours[name], store.view(found[name]).state() in ACTIVE) for name in names]


# Curves, with the values at the cursor

st.header("Curves")
training_chart.show(shown, key="compared-curves", start=("loss",), table=True)


# Settings

st.header("Settings that differ")
readable, unreadable = {}, []
for name in names:
    try:
        readable[name] = found[name].config
    except UserError as error:
        unreadable.append(str(error))
for sentence in unreadable:
    st.warning(escape(sentence), icon=":material/warning:")
differing_settings.show(readable)


# Previews

st.header("Previews")
st.caption("Where the cursor of the charts is: at the same step, time or number of images. B blinks, D subtracts.")
compare_previews.show(shown, key="compared-previews")
