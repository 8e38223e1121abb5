"""What is said of the previews of a training."""

from ddpm.config.training import Config

PREVIEWS_HELP = "Every preview starts from the same noise, so that they show how the same images develop."


def no_preview(config: Config, active: bool) -> str:
    """What is said while there is no preview."""
    interval = config.train.sample_interval
    first = f"The first preview is sampled at step {interval:,}" if interval else "Previews are off for this run"
    return f"{first}; Preview now samples one immediately." if active else "No preview was sampled."
