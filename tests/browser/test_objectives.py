"""A class-conditional model with a learned variance, from the Train page to images of a class and an evaluation."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from dashboard import wait_until_idle
from playwright.sync_api import Page, expect
from test_sampling import choose

from ddpm.data import shapes
from ddpm.runs import runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SMALL = {"image_size": 16, "diffusion_steps": 40, "total_steps": 20, "save_interval": 20, "sample_interval": 0}


def fill(page: Page, key: str, value: object) -> None:
    field = page.locator(f".st-key-{key} input")
    field.fill(str(value))
    field.press("Enter")


def download(page: Page, label: str) -> bytes:
    with page.expect_download() as got:
        page.get_by_role("button", name=label).click()
    return Path(got.value.path()).read_bytes()


def test_learned_variance_from_training_to_evaluation(page: Page, server) -> None:  # type: ignore[no-untyped-def]
    page.goto(server.address("train"))
    expect(page.get_by_text("Objective: L_simple")).to_be_visible()
    page.get_by_text("Learned variance", exact=True).click()
    expect(page.get_by_text("Objective: L_hybrid")).to_be_visible()
    for name, value in SMALL.items():
        fill(page, f"train-{name}", value)
        expect(page.locator("code").filter(has_text=f"--{name} {value}")).to_be_visible()  # the command follows
    page.locator(".st-key-train-field-ema_rate-0-keep button").first.click()  # an average of more steps than it has
    fill(page, "train-name", "learned")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Train more")).to_be_visible()  # it has ended

    [run] = runs.list_runs(server.runs_dir)
    assert run.state() == "finished", run.log_tail()
    assert run.config.model.learn_sigma
    assert run.config.class_names == shapes.NAMES
    expect(page.locator("[class*=st-key-curves-] .panel h3").get_by_text("vb", exact=True)).to_be_visible()

    page.goto(server.address("sample", run="learned"))
    expect(page.locator(".st-key-sample-classes input")).to_be_visible()
    wait_until_idle(page)  # or its next run closes the list again
    page.locator(".st-key-sample-classes input").press_sequentially("star")
    page.get_by_role("option", name="star", exact=True).click()
    expect(page.locator(".st-key-sample-classes").get_by_text("star", exact=True)).to_be_visible()
    page.keyboard.press("Escape")  # closes the list
    choose(page, "sampler", "DDPM")  # which uses the learned variance
    fill(page, "sample-num_samples", 4)
    page.get_by_test_id("stBaseButton-primary").click()
    expect(page.get_by_role("button", name="Arrays (npz)")).to_be_visible()
    with np.load(io.BytesIO(download(page, "Arrays (npz)"))) as sampled:
        assert sampled["arr_0"].shape == (4, 16, 16, 3)
        assert sampled["arr_1"].tolist() == [shapes.NAMES.index("star")] * 4

    page.goto(server.address("evaluate", run="learned"))
    fill(page, "evaluate-num_samples", 6)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("button", name="Result (JSON)")).to_be_visible()
    result = json.loads(download(page, "Result (JSON)"))
    assert result["pictures"] == 6
    assert result["timesteps"] == 40
    expect(page.get_by_text(f"{result['bits_per_dim']:.3f}").first).to_be_visible()
    page.wait_for_function("[...document.querySelectorAll('.chart')].some(c => c.data?.length)")
    with np.load(io.BytesIO(download(page, "vb (npz)"))) as terms:
        np.testing.assert_allclose(terms["arr_0"].sum() + result["prior"], result["bits_per_dim"], rtol=1e-6)
