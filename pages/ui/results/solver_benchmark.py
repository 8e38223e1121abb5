"""Explore's sampler comparison: quality against time on a checkpoint, for samplers and numbers of model evaluations."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import streamlit as st

from ddpm import formatting
from ddpm.config import codec, fields, validation
from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.errors import UserError
from ddpm.planning import classes, solver_grid, summary
from ddpm.planning.solver_grid import GridResult
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import SolverBenchmarkJob
from ddpm.runs.runs import Run
from ddpm.solvers import SOLVERS
from ddpm.spacings import SPACINGS
from pages.ui.components import rail, setting_widgets, shell_command, start_button, study_figures, thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, sampling_form
from pages.ui.frame import job_progress, layout
from pages.ui.results import plotly_chart

FORM = "frontier"
FIRST = SolverBenchmarkConfig()
FIRST_SOLVERS = ("ddim", "ipndm", "dpm++2m", "unipc-2", "unipc-3", "heun")
CALLS = (5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100)
SIZES = ("num_samples", "calls", "solvers")  # settings that decide how long it takes
BEGAN = "frontier_began"  # in the session: the run whose first comparison was filled in, and its sizes
TOLERANCES = (0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0)
FIELDS = {s.name: s for s in fields.settings(SolverBenchmarkConfig)}
MANY = ("solvers", "calls", "spacing", "flips")  # settings that are lists
SHEET_SIDE = 4000  # pixels of the sheet's longer side on the screen: more is only to be downloaded


def show(run: Run) -> None:
    """Shows the tab: form, chart and results."""
    try:
        config, checkpoints, jobs = run.config, run.checkpoints(), run.solver_benchmark_jobs()
    except UserError as error:
        st.error(with_code(error), icon=":material/error:")
        return
    if not checkpoints:
        checkpoint_form.require_checkpoint(run, "comparing samplers needs one")
    by_name = {job.name: job for job in jobs}
    shown = by_name.get(st.session_state.get("frontier_shown", ""), jobs[0] if jobs else None)
    active = next((job for job in jobs if job.state() in ACTIVE), None)
    fields, foot, result = rail.beside("choices")
    with fields:
        settings, problems = _fields(run, checkpoints)
        if not problems:
            with st.expander("Shell command", icon=":material/terminal:"):
                shell_command.show(run.shell("bench", "samplers", "--run", more=codec.to_flags(settings)))
    with foot:
        _start(run, config, settings, problems, active)
    job = active or shown
    with result:
        if job is None:
            st.info(
                "Fast samplers need few model evaluations, and their images come close to the fully converged ones"
                " from the same noise. Which sampler converges fastest depends on the checkpoint: press Compare.",
                icon=":material/explore:",
            )
        else:
            layout.fragment(run_every=1.0 if job == active else None)(_progress)(job, job == active, config)
    if job is not None:
        layout.fragment(run_every=1.5 if job == active else None)(_sheet)(job)
        if job != active and job.result:
            with layout.errors():
                _downloads(job)
    if jobs:
        _history(jobs, shown)


# --- the form


def fill(settings: SolverBenchmarkConfig) -> None:
    """Puts settings into the fields: the initial ones, or those of an earlier comparison."""
    values = dataclasses.asdict(settings)
    lists = {name: _listed(values[name]) for name in MANY}
    lists["solvers"] = [*SOLVERS] if not lists["solvers"] else lists["solvers"]
    for name, known in (("spacing", list(SPACINGS)), ("flips", list(solver_grid.FLIPS))):
        lists[name] = known if lists[name] == ["all"] else [word for word in lists[name] if word in known]
    setting_widgets.fill(FORM, {**values, **lists, "calls": [int(n) for n in lists["calls"] if n.isdecimal()]})


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _start(
    run: Run,
    config: Config,
    settings: SolverBenchmarkConfig,
    problems: list[Problem],
    active: SolverBenchmarkJob | None,
) -> None:
    busy = "A comparison is running: wait for it or cancel it first." if active else ""
    pressed = start_button.show("Compare", "ssid_chart", [p.sentence for p in problems], busy)
    if not problems:
        st.caption(f":material/schedule: Takes {escape(summary.estimate_benchmark(run, config, settings).words)}.")
    if pressed:
        with layout.errors():
            st.session_state["frontier_shown"] = launch.start_solver_benchmark(run, settings).name
            st.rerun()


def _fill_first(run: Run) -> None:
    """Fills the fields with a comparison that ends soon; again for another run, unless something was changed."""
    before = st.session_state.get(BEGAN)
    now = {name: st.session_state.get(setting_widgets.key(FORM, name)) for name in SIZES}
    fresh = now["num_samples"] is None and BEGAN not in st.session_state
    if fresh or (before and before[0] != run.name and before[1] == now):
        base = dataclasses.replace(FIRST, solvers=",".join(FIRST_SOLVERS))
        fill(summary.first_benchmark(run, run.config, base))
        st.session_state[BEGAN] = (
            run.name,
            {name: st.session_state.get(setting_widgets.key(FORM, name)) for name in SIZES},
        )


def _fields(run: Run, checkpoints: list[Checkpoint]) -> tuple[SolverBenchmarkConfig, list[Problem]]:
    """Shows the fields.  Returns their values and problems."""
    config = run.config
    _fill_first(run)
    values: dict[str, object] = checkpoint_form.both(FORM, checkpoints)
    _multiselect("solvers", list(SOLVERS), lambda name: SOLVERS[name].label)
    _multiselect("calls", sorted({*CALLS, *st.session_state[setting_widgets.key(FORM, "calls")]}), str)
    grid = st.grid(3, min_column_width=110)
    for name in ("num_samples", "seed"):
        with grid.cell():
            values[name] = setting_widgets.show_field(FORM, FIELDS[name])
    if config.model.class_cond:
        with grid.cell():
            values["classes"] = setting_widgets.show_field(
                FORM, FIELDS["classes"], ", ".join(classes.names(config)[:2]) or "0-9"
            )
    with st.expander("More"):
        _multiselect("spacing", list(SPACINGS), str, "Each sampler's default")
        _multiselect("flips", list(solver_grid.FLIPS), solver_grid.FLIPS.__getitem__, "Nothing")
        inner = st.grid(2, min_column_width=150)
        for name in ("repeats", "batch_size", "eta", "churn"):
            with inner.cell():
                values[name] = setting_widgets.show_field(FORM, FIELDS[name])
    missing = [
        Problem(name, f"{FIELDS[name].label} is empty: type a number.", code="missing-value")
        for name, value in values.items()
        if value is None
    ]
    picked = {name: st.session_state[setting_widgets.key(FORM, name)] for name in MANY}
    if not picked["solvers"]:
        missing.append(Problem("solvers", "No sampler is selected: select at least one.", code="missing-value"))
    lists = {name: ",".join(map(str, chosen)) for name, chosen in picked.items()}
    if len(picked["solvers"]) == len(SOLVERS):
        lists["solvers"] = FIRST.solvers
    given = {
        name: value
        for name, value in {**values, **lists, "spacing": lists["spacing"] or "auto"}.items()
        if value is not None
    }
    settings = SolverBenchmarkConfig(**given)  # type: ignore[arg-type]
    return settings, missing or problems(config, settings)


def _multiselect(name: str, known: list, say: Callable[[Any], str], none: str = "Select some") -> None:
    """Field for a setting that is a list."""
    checkpoint_form.drop_unknown(FORM, name, known, many=True)
    st.multiselect(
        FIELDS[name].label,
        known,
        key=setting_widgets.key(FORM, name),
        format_func=say,
        help=FIELDS[name].help,
        placeholder=none,
        persist_state="session",
    )


def problems(config: Config, settings: SolverBenchmarkConfig) -> list[Problem]:
    """Problems that prevent the comparison."""
    found = list(validation.limit_problems(settings))
    for name, look in (
        ("calls", lambda: solver_grid.grid_cells(config, settings)),
        ("classes", lambda: classes.parse_classes(config, settings.classes)),
    ):
        try:
            look()
        except UserError as error:
            found.append(Problem(name, str(error), code=error.code))
    return found


# --- results


def _progress(job: SolverBenchmarkJob, was_active: bool, config: Config) -> None:
    """Shows the progress, the chart, and the cheapest setting within the tolerance."""
    job_progress.follow(job, was_active, "The comparison")
    result = job.result
    found = solver_grid.from_json(result)
    if not any(cell.distance is not None for cell in found):
        if found and not was_active:
            st.caption("All of these samplers are stochastic, so there are no converged images to compare with.")
        return
    tolerance = st.select_slider(
        "Tolerance",
        TOLERANCES,
        2.0,
        key="frontier_tolerance",
        format_func=lambda levels: formatting.number(levels),
        persist_state="session",
        help=(
            "Accepted distance to the converged images, in levels of 0 to 255 (RMSE per pixel). Differences below 1"
            " to 2 are invisible."
        ),
    )
    best = solver_grid.cheapest(found, tolerance)
    figure = json.dumps(study_figures.solver_benchmark(found, tolerance, best), allow_nan=False, separators=(",", ":"))
    plotly_chart.show(figure, key=f"frontier-{job.folder.parent.parent.name}")
    if best:
        st.markdown(f":material/star: **{escape(sentence(best))}**")
        if st.button("Use on the Sample page", icon=":material/grid_view:", key="frontier_use"):
            sampling_form.fill(config, to_sample_config(config, job.config, best))
            st.switch_page(layout.SAMPLE, query_params={})  # without them, those bound to a widget are in its way
    else:
        closest = min((cell for cell in found if cell.distance is not None), key=lambda cell: cell.distance or 0.0)
        st.markdown(f"None is within the tolerance. The closest: {escape(sentence(closest))}")
    st.caption(escape(solver_grid.about(result)))
    st.caption(
        f"Distances on {formatting.plural(job.config.num_samples, 'image')}, from the images that this model converges"
        " to: they compare its samplers, and are not comparable with published figures such as FID."
    )


def sentence(cell: GridResult) -> str:
    """Describes a case: UniPC-3, logsnr with 10 NFE: 0.21 s per image, 1.3 levels from converged."""
    distance = solver_grid.level(cell.distance or 0.0)
    return (
        f"{cell.variant.label} with {cell.calls} NFE: {formatting.duration(cell.seconds)} per image,"
        f" {distance} levels from converged."
    )


def to_sample_config(config: Config, settings: SolverBenchmarkConfig, cell: GridResult) -> SampleConfig:
    """Settings that sample as a case did."""
    usual = SampleConfig()
    sample = solver_grid.sample_of(config, settings, cell.variant, cell.asked)
    own = SOLVERS[cell.solver].spacing == cell.spacing
    return dataclasses.replace(
        sample,
        precision=usual.precision,
        batch_size=usual.batch_size,
        base_samples="",
        spacing="auto" if own else cell.spacing,
    )


def _sheet(job: SolverBenchmarkJob) -> None:
    """Shows the samples so far: one row per sampler, one column per number of model evaluations."""
    image = thumbnails.shown(job, job.sheet, SHEET_SIDE, enlarge=False)
    if image:
        st.image(
            image,
            output_format="PNG",
            alt="Samples from the same noise with every sampler and number of model evaluations",
        )


def _downloads(job: SolverBenchmarkJob) -> None:
    stem = f"{job.folder.parent.parent.name}-frontier-{job.name}"
    result = job.result
    found = solver_grid.from_json(result)
    with st.expander("Table", icon=":material/table:"):
        st.dataframe(
            [
                {
                    "Sampler": way.label,
                    **{
                        f"{n} NFE": solver_grid.distance_text(by[n]) if n in by else "–"
                        for n in solver_grid.columns(found)
                    },
                }
                for way, by in solver_grid.rows(found).items()
            ],
            hide_index=True,
            width="stretch",
            key="frontier_table",
        )
    home: list[job_progress.Download] = [
        *([("Sheet (PNG)", f"{stem}.png", "image/png", lambda: job.read(job.sheet))] if job.has(job.sheet) else []),
        ("Table (CSV)", f"{stem}.csv", "text/csv", lambda: solver_grid.to_csv(found)),
        ("Result (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(result, indent=2).encode()),
    ]
    job_progress.downloads(home, job.settings.get("command", ""))


def _history(jobs: list[SolverBenchmarkJob], shown: SolverBenchmarkJob | None) -> None:
    """Shows the comparisons of this run, newest first."""
    st.header("Earlier comparisons")
    by_name = {job.name: job for job in jobs}
    names = list(by_name)
    if st.session_state.get("frontier_shown") not in by_name:
        st.session_state["frontier_shown"] = shown.name if shown else names[0]
    st.selectbox(
        "Shown",
        names,
        key="frontier_shown",
        format_func=lambda name: job_progress.started_at(by_name[name]),
        persist_state="session",
    )
    job = by_name[st.session_state["frontier_shown"]]
    if job.settings:
        st.button("Use settings", type="tertiary", key="frontier_again", on_click=layout.callback(_reuse), args=(job,))


def _reuse(job: SolverBenchmarkJob) -> None:
    fill(job.config)
