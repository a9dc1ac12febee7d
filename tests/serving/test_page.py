"""The page in a real browser: chat, code, two models side by side, sliders, tokens."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import ROOM, Server, ask, running

from openba_jax.inference.slots import SlotDecoder
from openba_jax.serving.app import PAGE, Served

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-some-length"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, which can reach this machine alone."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
        *("--window-size=1200,800", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def wait(browser: Any) -> Callable[[Callable[[], Any]], Any]:
    """Waits until something is true, and returns it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return lambda true: WebDriverWait(browser, 30).until(lambda _: true())


@pytest.fixture(scope="module")
def two(served: Served) -> Iterator[Server]:
    """A server of two models, which are one."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("starlette", reason="starlette is not installed")
    with running({"whole": served, "cut": served}, page=True) as server:
        yield server


@pytest.fixture
def page(browser: Any, two: Server, wait: Callable[..., Any]) -> Callable[[str], Any]:
    """The page, loaded; finds elements by selector."""
    browser.get(f"http://127.0.0.1:{two.port}/")

    def find(selector: str) -> Any:
        return browser.find_element("css selector", selector)

    wait(lambda: len(browser.find_elements("css selector", ".column")) == 2)
    return find


def _set(browser: Any, name: str, value: float) -> None:
    script = "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
    browser.execute_script(f"{script} e.dispatchEvent(new Event('input'))", name, value)


def _texts(browser: Any, kind: str) -> list[str]:
    found = browser.find_elements("css selector", f".turn.{kind}")
    return [element.get_property("textContent") for element in found]


def _ready(browser: Any) -> bool:
    send = browser.find_element("css selector", "#send")
    return bool(send.is_enabled() and browser.find_elements("css selector", ".turn.assistant"))


def test_two_models_answer_side_by_side_as_the_interface_says(browser, two, page, wait) -> None:
    names = [e.text for e in browser.find_elements("css selector", ".column h2")]
    assert names == ["whole", "cut"]
    _set(browser, "max_tokens", 20)
    _set(browser, "seed", 4)
    page("#message").send_keys("<b>2</b> & 3\n")
    wait(lambda: _ready(browser))
    assert _texts(browser, "user") == ["<b>2</b> & 3"] * 2
    messages = [{"role": "user", "content": "<b>2</b> & 3"}]
    content: dict[str, Any] = {"model": "cut", "messages": messages, "seed": 4, "max_tokens": 20}
    content |= {"temperature": 0.95, "top_p": 0.7}
    said = json.loads(ask(two, content, "/v1/chat/completions").body)
    wanted = said["choices"][0]["message"]["content"].lstrip()
    assert _texts(browser, "assistant") == [wanted] * 2
    read = said["usage"]["prompt_tokens"]
    assert page(".counts").text.startswith(f"{read} tokens read, ")
    # The second message goes with the first and its answer.
    page("#message").send_keys("4\n")
    wait(lambda: len(_texts(browser, "assistant")) == 4 and _ready(browser))
    messages += [said["choices"][0]["message"], {"role": "user", "content": "4"}]
    messages[1] = {"role": "assistant", "content": messages[1]["content"].strip()}
    again = json.loads(ask(two, content, "/v1/chat/completions").body)
    assert _texts(browser, "assistant")[1] == again["choices"][0]["message"]["content"].lstrip()
    page("#reset").click()
    assert _texts(browser, "user") == []


def test_code_reads_the_message_alone_and_keeps_special_tokens(browser, two, page, wait) -> None:
    page("#tab-code").click()
    assert page("#tab-code").get_attribute("aria-selected") == "true"
    assert page("#max_tokens").get_property("value") == str(ROOM)
    _set(browser, "max_tokens", 24)
    _set(browser, "seed", 1)
    for message in ("1", "sort"):
        page("#message").send_keys(f"{message}\n")
        wait(lambda: _ready(browser))
    wait(lambda: len(_texts(browser, "assistant")) == 4 and _ready(browser))
    content: dict[str, Any] = {"model": "whole", "prompt": "sort", "seed": 1, "max_tokens": 24}
    content |= {"temperature": 0.95, "top_p": 0.7, "skip_special_tokens": False}
    text = json.loads(ask(two, content).body)["choices"][0]["text"]
    assert _texts(browser, "assistant")[1] == f"{text}\n"


def test_sliders_have_the_ranges_of_the_original(browser, page) -> None:
    for name, least, value in (("top_p", "0.1", "0.7"), ("temperature", "0.01", "0.95")):
        slider = page(f"#{name}")
        found = [slider.get_property(key) for key in ("min", "max", "value")]
        assert found == [least, "1", value]
        assert page(f"#{name}-value").text == f"{float(value):.2f}"
        _set(browser, name, 0.5)
        assert page(f"#{name}-value").text == "0.50"


def test_answers_can_be_stopped(browser, two, page, wait, monkeypatch) -> None:
    def step_with_a_rest(decoder: SlotDecoder) -> np.ndarray:
        time.sleep(0.3)  # So that there is something to stop.
        return step(decoder)

    step = SlotDecoder.step
    monkeypatch.setattr(SlotDecoder, "step", step_with_a_rest)
    _set(browser, "seed", 3)
    page("#message").send_keys("2\n")
    wait(lambda: page("#stop").is_enabled() and all(_texts(browser, "assistant")))
    page("#stop").click()
    wait(lambda: _ready(browser))
    engine = two.served["whole"].engine
    wait(lambda: engine.running == 0)
    assert {e.text for e in browser.find_elements("css selector", ".counts")} == {"stopped"}


def test_what_the_server_refuses_is_shown(browser, page, wait) -> None:
    page("#message").send_keys("9 " * 100 + "\n")
    wait(lambda: len(_texts(browser, "error")) == 2)
    assert "of which 96 fit" in _texts(browser, "error")[0]
    assert _texts(browser, "assistant") == []


def test_a_token_is_asked_for(browser, served: Served, wait) -> None:
    with running({"model": served}, page=True, token=TOKEN.encode()) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        note = browser.find_element("css selector", "#note")
        wait(lambda: "token is missing" in note.text)
        browser.find_element("css selector", "#token").send_keys(f"{TOKEN}\n\t")
        wait(lambda: browser.find_elements("css selector", ".column"))
        assert note.text == ""


def test_the_page_asks_nobody_else(browser, page) -> None:
    seen = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        entry["params"]["request"]["url"]
        for entry in seen
        if entry["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.endswith("/page.js") for url in requests)
    assert all(url.startswith(("http://127.0.0.1:", "data:")) for url in requests)
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    # Refusals that tests above provoke are errors of the network, not of the page.
    assert all(e["source"] == "network" for e in severe), severe


def test_the_files_of_the_page_are_small_and_whole() -> None:
    for name in ("page.html", "page.css", "page.js"):
        text = (Path(PAGE) / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("http-equiv", "")
        assert len(text) < 20_000
