"""The glossary check of the lint step, scripts/check_english.py."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/check_english.py"
spec = importlib.util.spec_from_file_location("check_english", SCRIPT)
check_english = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_english)


def found(name: str, text: str) -> list[tuple[int, str]]:
    return [(line, words) for line, words, _ in check_english.findings(name, text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The report tells the error rate.", "tells"),
        ("A file that is told to continue.", "told"),
        ("Train it anew.", "anew"),
        ("It goes on where it stopped.", "goes on"),
        ("A value that makes no sense.", "makes no sense"),
        ("a device, as cuda", "as cuda"),
        ("a line an utterance", "a line an utterance"),
        ("One bit a weight is stored.", "One bit a weight"),
        ("CTC has a say in it.", "has a say"),
        ("The upload broke off.", "broke off"),
        ("A torn line", "torn"),
        ("what the wheel lacks", "what the wheel lacks"),
        ("the colour of a line", "colour"),
        ("Normalised labels", "Normalised"),
        ("its optimisation", "optimisation"),
        ("at the centre", "centre"),
        ("The licence is MIT.", "licence"),
        ("a modelling choice", "modelling"),
        ("grey values", "grey"),
    ],
)
def test_words_of_the_glossary_are_found(text, words):
    assert found("README.md", f"A title\n\n{text}\n") == [(3, words)]


@pytest.mark.parametrize(
    "text",
    [
        "Colors that can be told apart, or told from each other, which are hard to tell apart.",
        "Run `tell()` and see `told`, `colour=1`.",
        "The analysis uses a synthesis, with emphasis on analyses.",
        "It goes on the top shelf; a goes on a page.",
        "A mandolin, a kind word, the metric, a model, a label, travel.",
        "Four hours, our contour, a tour, a glamour shot.",
        "The promise, an exercise, a premise, noise, to revise and raise.",
        "Paper B: SparseVSR, Fernandez-Lopez et al., AV-HuBERT by Shi et al.",
        "25 frames a second",
        r"torn.pt: truncated, torn\.pt: not a checkpoint",
        'another project says "behaviour"  <!-- english: ok -->',
    ],
)
def test_other_words_pass(text):
    assert not found("README.md", text)


def test_a_phrase_may_be_wrapped():
    assert found("docs/a.md", "An option that makes no\nsense.") == [(1, "makes no sense")]
    assert found("a.sh", "# the run goes\n# on then\n") == [(1, "goes on")]
    assert found("a.py", "x = 1\n# the run goes\n# on then\ny = 2\n") == [(2, "goes on")]


def test_only_comments_of_settings_are_read():
    text = "palette: blue grey  # the colour of the site\n# the run goes\n# on then\n"
    assert found("mkdocs.yml", text) == [(2, "goes on"), (1, "colour")]


def test_only_prose_of_python_is_read():
    code = (
        "def tell(told, colour):\n"
        '    """Report it.\n\n    It tells more.\n    """\n'
        '    grey = {"told": 1, "torn": told["tells"]}\n'
        '    print(f"the {told} value {tell(1)}")  # which is told\n'
        '    print(f"it tells {grey}")\n'
    )
    assert sorted(found("a.py", code)) == [(4, "tells"), (7, "told"), (8, "tells")]


def test_only_prose_of_javascript_is_read():
    code = 'const told = tell(`${told} says`);\n// It tells all.\nlog("he tells it", "told");\n'
    assert found("a.js", code) == [(2, "tells"), (3, "tells")]


def test_the_command_prints_findings_and_fails(tmp_path):
    bad, good = tmp_path / "bad.md", tmp_path / "good.md"
    bad.write_text("One\n\nIt tells.\n")
    good.write_text("It reports.\n")

    def run(*files: Path) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, SCRIPT, *files], capture_output=True, text=True)

    failed, passed = run(good, bad), run(good)
    assert (passed.returncode, passed.stdout) == (0, "")
    assert failed.returncode == 1 and failed.stdout.startswith(f"{bad}:3: tells -> report")
