"""The web page in a browser: questions, streamed answers, citations."""

import itertools
import shutil
import time

import pytest
from tests.builders.advisor_server import serve_in_thread

from the_block_llm.advisor import advisor as advisor_module
from the_block_llm.advisor.output.streaming import StreamResult

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ANSWER = f"It is in [src/ledger.rs:4], not in [src/made_up.rs:9]. See [1c0ffee0]. {EVIL} done."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, advisor, monkeypatch):
    """A page with a slow scripted answer; fails on errors in its console."""

    def stream(model, tokenizer, prompt, sampling, on_text, *, is_cancelled, **_):
        for start in range(0, len(ANSWER), 5):
            if is_cancelled():
                return StreamResult(start, "cancelled")
            on_text(ANSWER[start : start + 5])
            time.sleep(0.02)
        return StreamResult(len(ANSWER), "stop")

    monkeypatch.setattr(advisor_module, "stream_text", stream)
    with serve_in_thread(advisor) as address:
        page = browser.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda entry: errors.append(entry.text) if entry.type == "error" else None
        )
        page.goto(address)
        yield page
        page.close()
        assert errors == []


def ask(page, question="Where is a block applied?"):
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def test_answer_is_streamed_and_citations_open_sources(page):
    assert page.locator("#model option").first.get_attribute("value").startswith("tiny@2026")
    ask(page)
    answer = page.locator("article.assistant")
    answer.get_by_role("link", name="src/ledger.rs:4").wait_for()
    assert page.get_by_role("button", name="Stop").is_visible(), "the answer is still streaming"
    answer.get_by_text("Passages:").wait_for()
    assert answer.locator(".not-found").all_inner_texts() == ["src/made_up.rs:9 (not found)"]
    assert EVIL in answer.inner_text()
    assert page.title() == "Ask the repository", "model output stays text"
    assert page.locator("article img, article script").count() == 0

    answer.get_by_role("link", name="src/ledger.rs:4").click()
    highlighted = page.locator("#source .highlighted")
    highlighted.wait_for()
    assert "tally_votes();" in highlighted.inner_text()
    numbers = [text.strip() for text in page.locator("#source-text .line-number").all_inner_texts()]
    assert numbers == ["1", "2", "3", "4", "5"], "one row per line"
    boxes = [row.bounding_box() for row in page.locator("#source-text > span").all()]
    assert all(above["y"] < below["y"] for above, below in itertools.pairwise(boxes))
    assert page.locator("#source-title").inner_text() == "src/ledger.rs"
    answer.get_by_role("link", name="1c0ffee0").click()
    page.get_by_text("Start the ledger").wait_for()


def test_empty_page_offers_example_questions(page):
    example = page.locator("#welcome .examples button").first
    question = example.inner_text()
    example.click()
    assert page.locator("article.user").inner_text() == question
    assert page.locator("#welcome").is_hidden()
    page.locator("article.assistant").get_by_text("done.").wait_for()
    assert page.locator(".waiting").count() == 0
    page.get_by_role("button", name="New conversation").click()
    assert example.is_visible()
    assert page.locator("article").count() == 0


def test_an_answer_can_be_stopped(page):
    ask(page)
    page.locator("article.assistant").get_by_text("It is").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    ask(page, "Again?")
    page.locator("article.assistant").nth(1).get_by_text("done.").wait_for()
    assert page.locator("article.assistant").count() == 2


def test_keyboard_and_small_screen(page):
    page.set_viewport_size({"width": 360, "height": 640})
    page.get_by_label("Question").focus()
    page.keyboard.type("Where?")
    page.keyboard.press("Enter")
    page.locator("article.assistant").get_by_text("done.").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
