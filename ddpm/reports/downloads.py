"""Results packed into one file for a download: images as a zip, terms of the bound as CSV."""

import io
import zipfile

import numpy as np
import pandas as pd

from ddpm.errors import UserError
from ddpm.runs.results import EvaluationJob, SampleJob
from ddpm.storage import image_files, images

MOST_PIXELS = 2**26  # of a file that is made larger


def samples_zip(job: SampleJob, times: int = 1) -> bytes:
    """Every finished image as a PNG, each pixel as `times` x `times`, in one zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # a PNG cannot be compressed further
        for path in job.images:
            archive.writestr(path.name, enlarged(job.read(path), times))
    return buffer.getvalue()


def enlarged(content: bytes, times: int) -> bytes:
    """A PNG with each pixel as `times` x `times`, and with the settings it carries.  Raises UserError."""
    if times == 1:
        return content
    pixels = np.asarray(image_files.decode(content, "the image"))
    if pixels.shape[0] * pixels.shape[1] * times**2 > MOST_PIXELS:
        raise UserError(
            f"Enlarged {times} times, this image has more than {MOST_PIXELS:,} pixels: enlarge it less.",
            code="too-large",
        )
    return images.encode_png(pixels.repeat(times, axis=0).repeat(times, axis=1), images.settings_in(content))


def terms_csv(job: EvaluationJob) -> bytes:
    """The terms of the bound by timestep, as CSV: t (0 is the least noisy), vb, mse, xstart_mse.

    Raises UserError if a file is damaged.
    """
    buffer = io.StringIO()
    pd.DataFrame(job.terms()).rename_axis("t").to_csv(buffer)
    return buffer.getvalue().encode()
