"""Compare solvers at few denoising steps on the model that comes with the program.

All begin with the same noise x_T.  The table has the root mean squared distance, in levels of 0 to 255, between a
solver's images and those of DDIM with many steps, which are close to the exact solution of the probability-flow ODE.

    python examples/compare_solvers.py --images 16 --out solvers.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import ddpm
from ddpm.storage import images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", type=int, default=16, help="images for each entry of the table (default: 16)")
parser.add_argument("--solvers", default="ddim,dpm++2m,heun,unipc-2", help="solvers to compare, with commas between")
parser.add_argument("--steps", default="5,10,20", help="model evaluations an image, with commas between")
parser.add_argument("--reference", type=int, default=200, help="steps of the reference (default: 200)")
parser.add_argument("--out", type=Path, default=Path("solvers.png"), help="image with a row for each solver")
options = parser.parse_args()
solvers, counts = options.solvers.split(","), [int(count) for count in options.steps.split(",")]

model = ddpm.load("example")
size, channels = model.config.model.image_size, model.config.model.image_channels
x_T = torch.randn(options.images, channels, size, size, generator=torch.Generator().manual_seed(0))
reference = model.sample(noise=x_T, solver="ddim", steps=options.reference)

print("solver".ljust(10), *(f"{count:>4} steps" for count in counts))
rows = [reference[:8]]
for solver in solvers:
    found = [model.sample(noise=x_T, solver=solver, steps=count) for count in counts]
    distances = [np.sqrt(np.mean((samples.astype(float) - reference) ** 2)) for samples in found]
    print(solver.ljust(10), *(f"{distance:10.2f}" for distance in distances))
    rows.append(found[0][:8])
images.save_png(options.out, images.grid(np.concatenate(rows), columns=len(rows[0])))
print(f"{options.out}: the reference, then each solver with {counts[0]} steps")
