"""Train the quick start for a while, then write a grid of samples and a spreadsheet of the metrics.

python examples/train_and_export.py --steps 300 --out results
"""

import argparse
from pathlib import Path

import ddpm
from ddpm.reports import xlsx
from ddpm.storage import images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300, help="training steps (default: 300)")
parser.add_argument("--per_class", type=int, default=5, help="samples of each class in the grid (default: 5)")
parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the run and the results")
options = parser.parse_args()

training = ddpm.train(
    "quick-start",
    run=options.out / "run",  # a run folder as `ddpm train` writes it: the dashboard shows it
    total_steps=options.steps,
    log_interval=max(1, options.steps // 100),
    sample_interval=0,
)
for report in training:
    if report.step % 50 == 0 or report.step == options.steps:
        print(f"step {report.step}: loss {report.losses['loss'].mean():.4f}, {report.seconds:.2f} s")

model = ddpm.load(options.out / "run")
samples = model.sample(options.per_class * len(model.class_names), steps=20)  # every class in turn: a column each
images.save_png(options.out / "grid.png", images.grid(samples, columns=len(model.class_names)))

run = ddpm.open_run(options.out / "run")
xlsx.write_xlsx(run, options.out / "metrics.xlsx")
first, last = run.metrics["loss"].iloc[[0, -1]]
print(f"loss {first:.3f} -> {last:.3f}; see {options.out / 'grid.png'} and {options.out / 'metrics.xlsx'}")
