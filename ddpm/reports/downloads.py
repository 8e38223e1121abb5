"""Results packed into one file for a download: images as a zip, terms of the bound as CSV."""

import io
import zipfile

import pandas as pd

from ddpm.runs.results import EvaluationJob, SampleJob


def samples_zip(job: SampleJob) -> bytes:
    """Every finished image as a PNG, in one zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # a PNG cannot be compressed further
        for path in job.images:
            archive.writestr(path.name, job.read(path))
    return buffer.getvalue()


def terms_csv(job: EvaluationJob) -> bytes:
    """The terms of the bound by timestep, as CSV: t (0 is the least noisy), vb, mse, xstart_mse.

    Raises UserError if a file is damaged.
    """
    buffer = io.StringIO()
    pd.DataFrame(job.terms()).rename_axis("t").to_csv(buffer)
    return buffer.getvalue().encode()
