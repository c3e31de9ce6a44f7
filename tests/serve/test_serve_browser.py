"""The page in a real browser: a clip from a file, the slider, the camera, what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from serving import Server, face_video, serving, utterance, write_clip

from avhubert_ext.data.audio import write_wav

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install it, or name its program in CHROMIUM"
)

SPOKEN = utterance(1)
TEXT = " ".join(word for word, _, _ in SPOKEN.words).lower()
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serve"), "--max-seconds", "10") as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4 of the embedded corpus, two.mp4 with two faces, broken.mp4, and what the camera sees
    and hears."""
    folder = tmp_path_factory.mktemp("files")
    write_clip(folder / "clip.mp4", SPOKEN.frames, SPOKEN.samples)
    faces = [face_video(8, height, 260) for height in (240, 160)]
    both = np.concatenate([faces[0], np.pad(faces[1], ((0, 0), (0, 80), (0, 0), (0, 0)))], axis=2)
    write_clip(folder / "two.mp4", both, SPOKEN.samples[: 8 * 640])
    (folder / "broken.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:5000])
    write_wav(folder / "microphone.wav", SPOKEN.samples)
    with (folder / "camera.y4m").open("wb") as file:
        file.write(b"YUV4MPEG2 W320 H240 F25:1 Ip A1:1 C420\n")
        for frame in face_video(25):
            planes = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            file.write(b"FRAME\n" + planes.to_ndarray().tobytes())
    return folder


@pytest.fixture(scope="module")
def browser(files: Path) -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",  # needed where tests run as root
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={files / 'camera.y4m'}",
                f"--use-file-for-fake-audio-capture={files / 'microphone.wav'}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser, server: Server) -> Iterator[sync_api.Page]:
    """The page, just opened; nothing may go wrong in it unseen."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("#limits:not(:empty)")
    yield page
    context.close()
    expected = "Failed to load resource: the server responded with a status of 422"
    assert [line for line in wrong if not line.startswith(expected)] == []


def words(page: sync_api.Page, modalities: str) -> str:
    return " ".join(page.locator(f"#transcript-{modalities} .word b").all_text_contents())


def wait_for_words(page: sync_api.Page) -> None:
    page.wait_for_selector(".transcript[aria-busy=false]")
    page.wait_for_selector(".transcript[aria-busy=true]", state="detached")


def wait_until(page: sync_api.Page, expression: str) -> None:
    """As wait_for_function, which the page's content security policy forbids.

    Unlike wait_for_selector it looks often enough to see a word that is lit for a moment.
    """
    for _ in range(WAIT_MS // 50):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def test_clip_and_slider(page: sync_api.Page, files: Path):
    page.set_input_files("#file", files / "clip.mp4")
    wait_for_words(page)
    assert [words(page, m) for m in ("both", "audio")] == [TEXT, TEXT]
    assert page.input_value("#reference") == TEXT
    shade = "document.getElementById('mouth').getContext('2d').getImageData(48, 10, 1, 1).data[0]"
    assert abs(page.evaluate(shade) - int(SPOKEN.frames[0, 10, 48])) < 12

    page.focus("#level")
    page.keyboard.press("End")
    page.wait_for_selector(".transcript.audio[aria-busy=true]")
    wait_for_words(page)
    assert page.text_content("#level-shown") == "−10 dB"
    assert words(page, "both") == TEXT
    assert words(page, "audio") != TEXT
    assert page.locator("#transcript-audio .wrong, #transcript-audio .missing").count() > 0
    assert page.locator("#transcript-both .wrong").count() == 0
    assert page.locator("#chart circle").count() >= 2 * 2

    with page.expect_download() as saved:
        page.click("#transcript-both .save a:has-text('SRT')")
    assert saved.value.suggested_filename == "clip.both.-10dB.srt"
    assert TEXT in saved.value.path().read_text().replace("\n", " ")

    page.fill("#reference", "bin blue")
    assert page.text_content("#transcript-both .rate") == "5 of 2 words differ"


RECORD_LIT_WORDS = """
window.lit = new Set();
new MutationObserver(() => {
  document.querySelectorAll("#transcript-both .word").forEach((word, n) => {
    if (word.matches(".now")) window.lit.add(n);
  });
}).observe(document.getElementById("transcript-both"),
  {subtree: true, attributes: true, attributeFilter: ["class"]});
"""


def test_words_light_up_with_the_sound(page: sync_api.Page, files: Path):
    page.set_input_files("#file", files / "clip.mp4")
    wait_for_words(page)
    wait_until(page, "document.getElementById('sound').readyState >= 3")
    page.evaluate(RECORD_LIT_WORDS)  # a word is lit for a moment only
    page.locator("#transcript-both .word").nth(1).press("Enter")
    for n in (1, 4):
        wait_until(page, f"window.lit.has({n})")
    wait_until(page, "document.getElementById('sound').ended")
    page.set_input_files("#file", files / "clip.mp4")  # another begins at its beginning
    wait_until(page, "document.getElementById('sound').currentTime === 0")


def test_errors_are_told_and_the_next_clip_works(page: sync_api.Page, files: Path):
    page.set_input_files("#file", files / "broken.mp4")
    page.wait_for_selector("#error:not([hidden])")
    assert page.text_content("#error").startswith("broken.mp4: ")
    assert page.is_hidden("#result") and page.is_hidden("#work")
    page.set_input_files("#file", files / "clip.mp4")
    wait_for_words(page)
    assert page.is_hidden("#error")


def test_camera(page: sync_api.Page):
    page.click("#use-camera")
    wait_until(page, "document.getElementById('viewfinder').videoWidth > 0")
    page.click("#record")
    wait_until(page, "document.getElementById('recorded').textContent === '2 s'")
    page.click("#record")
    wait_for_words(page)
    quality = page.text_content("#quality")
    assert "Faces1" in quality and "Face not seen0 of " in quality
    assert page.is_visible("#drop") and page.is_hidden("#camera")
    assert page.evaluate("document.getElementById('viewfinder').srcObject") is None


def test_phone_and_another_face(page: sync_api.Page, files: Path):
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_input_files("#file", files / "two.mp4")
    wait_for_words(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first = page.text_content("#quality")
    page.select_option("#face-number", "2")
    wait_until(page, f"document.getElementById('quality').textContent !== {first!r}")
    assert "Faces2" in first and page.input_value("#face-number") == "2"
    assert page.locator("#result[inert]").count() == 0
