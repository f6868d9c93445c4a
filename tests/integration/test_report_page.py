"""The page of ``vsbox report --html`` in a real browser: it is drawn, sorts, searches, and asks nobody for anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import lacking
from vsbox.guard.page import render_page
from vsbox.guard.records import Record, Records

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=3000",
)  # fmt: skip


def record(owner: str, operation: str, target: str, verdict: str = "denied", time: float = 1.5e9) -> Record:
    return Record(
        time=time, pid=2, verdict=verdict, chain=(owner, "outer 2.0"), operation=operation, target=target,  # type: ignore[arg-type]
        distribution=owner, where=f"{owner}.py:3", program="python", rule="not granted", allow="", layer="guard",
    )  # fmt: skip


RECORDS = (
    record("beta 1.0", "read", "/home/you/.ssh/id_ed25519", time=1.5e9 + 60),
    record("alpha 2.0", "write", "/home/you/<script>alert(1)</script>"),
    record("alpha 2.0", "execute", "/usr/bin/uname", "allowed"),
)


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        lacking("browser", "no Chromium: apt-get install chromium")
    return [str(program), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]


@pytest.fixture
def page() -> str:
    return render_page("/home/you/project/.venv", Records(RECORDS, 0), [(1.5e9, "pytest", "log")])


def dom(browser: list[str], place: Path, page: str, script: str) -> str:
    """Return the document after a script has used the page as a person would."""
    path = place / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
    command = [*browser, "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def result(document: str) -> object:
    found = re.search(r'<meta name="result" content="([^"]*)"', document)
    assert found, document[-2000:]
    return json.loads(found[1].replace("&quot;", '"'))


TELL = """
const tell = () => {
  const meta = document.createElement("meta");
  meta.name = "result";
  const rows = [...document.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
  meta.content = JSON.stringify(rows.map((row) => row.cells[0].textContent));
  document.head.append(meta);
};
"""


def test_every_column_sorts(browser: list[str], page: str, tmp_path: Path) -> None:
    click = "document.querySelectorAll('th button')[0].click();"
    owners = ["beta 1.0", "alpha 2.0", "alpha 2.0"]
    assert result(dom(browser, tmp_path, page, TELL + "tell();")) == owners
    assert result(dom(browser, tmp_path, page, TELL + click + "tell();")) == sorted(owners)
    assert result(dom(browser, tmp_path, page, TELL + click * 2 + "tell();")) == sorted(owners, reverse=True)


def test_searching_hides_the_rest(browser: list[str], page: str, tmp_path: Path) -> None:
    words = "const s = document.querySelector('input'); s.value = 'ssh READ'; s.dispatchEvent(new Event('input'));"
    document = dom(browser, tmp_path, page, TELL + words + "tell();")
    assert result(document) == ["beta 1.0"]


def test_what_code_inside_wrote_is_text(browser: list[str], page: str, tmp_path: Path) -> None:
    document = dom(browser, tmp_path, page, "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document
    assert document.count("<script>") == 2  # the page's and the test's


def test_the_page_may_load_nothing(browser: list[str], page: str, tmp_path: Path) -> None:
    """Its own policy refuses what an injected element would ask for: the control is a page without that policy."""
    (tmp_path / "pixel.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="5" height="5"/>')
    image = f'<img id="i" src="{(tmp_path / "pixel.svg").as_uri()}">'
    look = (
        "window.addEventListener('load', () => { const m = document.createElement('meta'); m.name = 'result';"
        " m.content = JSON.stringify(document.getElementById('i').naturalWidth); document.head.append(m); });"
    )
    injected = page.replace("<h1>", image + "<h1>")
    assert result(dom(browser, tmp_path, injected, look)) == 0
    without = re.sub(r"<meta http-equiv[^>]*>", "", injected)
    assert result(dom(browser, tmp_path, without, look)) == 5


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_it_is_drawn_in_both_schemes(browser: list[str], page: str, tmp_path: Path, scheme: int) -> None:
    (tmp_path / "page.html").write_text(page)
    shot = tmp_path / "shot.png"
    command = [
        *browser, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}", "--window-size=1300,500",
        (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 10_000
