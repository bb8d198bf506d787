"""The documentation that `make docs` built: its links, and how it looks in a browser."""

import functools
import html.parser
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_build"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

#: Loads a page of the site in a frame and reports the width of its pictures.
PROBE = """<!doctype html><iframe width=1200 height=9000></iframe><pre></pre><script>
const frame = document.querySelector("iframe");
frame.onload = async () => {
  const pictures = [...frame.contentDocument.images];
  for (const picture of pictures) {
    picture.loading = "eager";
    if (!picture.complete) {
      await new Promise((done) => (picture.onload = picture.onerror = done));
    }
  }
  document.querySelector("pre").textContent = JSON.stringify(
    pictures.map((picture) => [picture.src.split("/").pop(), picture.naturalWidth]));
};
frame.src = decodeURIComponent(location.search.slice(1));
</script>"""


@pytest.fixture(scope="module")
def site():
    if not (SITE / "index.html").exists():
        pytest.skip("the documentation is not built: make docs")
    return SITE


class Links(html.parser.HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

    def __init__(self, page):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {""}
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if attrs.get("href"):
            # the browser loads some of the links in the head of a page by itself
            (self.links if tag == "a" else self.loads).append(attrs["href"])
        if attrs.get("src"):
            self.loads.append(attrs["src"])


def test_all_links_within_the_site_lead_somewhere(site):
    pages = {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) > 30
    astray, n_anchors = [], 0
    for page, found in pages.items():
        for link in found.links + found.loads:
            if urlsplit(link).scheme:
                continue
            address, anchor = urldefrag(urljoin(page.as_uri(), link))
            target = Path(unquote(urlsplit(address).path))
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or (
                anchor and target in pages and unquote(anchor) not in pages[target].anchors
            ):
                astray.append(f"{page.relative_to(site)}: {link}")
            n_anchors += bool(anchor)
    assert n_anchors > 100
    assert astray == []


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert [
            link for link in Links(page).loads if urlsplit(link).scheme in {"http", "https"}
        ] == []


def test_every_example_is_in_the_gallery(site, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import gallery

    examples = {path.name: path.read_text("utf-8") for path in (ROOT / "examples").glob("*.py")}
    assert set(gallery.SETTINGS) == set(examples)
    for name, text in examples.items():
        page = (site / "auto_examples" / name).with_suffix(".html").read_text("utf-8")
        needs_photographs = '"DFD_DATA", ' in text
        assert (gallery.SETTINGS[name] is None) == needs_photographs
        assert ("This page shows no output" in page) == needs_photographs
        command = f"python examples/{name}."
        assert (command in re.sub("<[^>]+>", "", page)) != needs_photographs
        assert ('class="sphx-glr-script-out' in page) != needs_photographs
        if "savefig" in text and not needs_photographs:
            assert f'<img src="../_images/sphx_glr_{name.removesuffix(".py")}_001.png"' in page


def api_pages(site):
    return sorted((site / "api" / "generated").glob("sklearn_dfd.*.html"))


def test_api_pages_link_to_the_source_and_to_other_projects(site):
    pages = api_pages(site)
    assert len(pages) > 25
    without_source = [
        page.name for page in pages if "_modules/sklearn_dfd/" not in page.read_text("utf-8")
    ]
    assert without_source == []
    page = site / "api" / "generated" / "sklearn_dfd.make_deepfake_pipeline.html"
    links = Links(page).links
    assert any("scikit-learn.org/" in link and link.endswith(".Pipeline") for link in links)
    assert "python:int" not in page.read_text("utf-8")  # as numpydoc names what it cannot link


@pytest.mark.parametrize("name", ["make_deepfake_pipeline", "model_selection.find_source_groups"])
def test_api_pages_list_their_examples(site, name):
    page = (site / "api" / "generated" / f"sklearn_dfd.{name}.html").read_text("utf-8")
    assert "sphx-glr-thumbcontainer" in page


def test_lists_of_the_api_have_no_references(site):
    page = re.sub("<[^>]+>", "", (site / "api.html").read_text("utf-8"))
    assert re.findall(r"\[R[0-9a-f]+-?\d*\]|\[\d+\]", page) == []


@pytest.mark.parametrize("page", ["data", "fitting", "saving"])
def test_the_guide_shows_what_its_blocks_print(site, page):
    text = (site / f"{page}.html").read_text("utf-8")
    assert text.count('<div class="highlight-text') >= 2
    if page == "fitting":
        assert "fitting_0.png" in text


@pytest.mark.parametrize(
    ("page", "heading"),
    [("changelog", "Changelog"), ("contributing", "Contributing"), ("security", "Security")],
)
def test_pages_of_the_project_are_on_the_site(site, page, heading):
    assert f"<h1>{heading}" in (site / f"{page}.html").read_text("utf-8")


def test_the_picture_of_the_first_page_is_small():
    pictures = re.findall(r"!\[[^]]+\]\((figures/.*?)\)", (ROOT / "docs/index.md").read_text())
    assert len(pictures) == 1
    assert (ROOT / "docs" / pictures[0]).stat().st_size < 100_000


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        if urlsplit(self.path).path != "/probe":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(PROBE.encode())

    def log_message(self, *args):
        pass

    def log_error(self, *args):
        if not self.path.endswith("/favicon.ico"):  # browsers always request it
            self.server.failures.append(self.path)


@pytest.fixture
def browse(site, tmp_path):
    """Open a page of the site over HTTP and return the resulting document."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site))
    server.failures = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def dom(page):
        done = subprocess.run(
            [
                CHROMIUM,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                f"--user-data-dir={tmp_path}",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--enable-logging=stderr",
                "--window-size=1200,900",
                "--virtual-time-budget=20000",
                "--dump-dom",
                f"http://127.0.0.1:{server.server_port}/{page}",
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if "Uncaught" in line] == []
        assert server.failures == []
        return done.stdout

    yield dom
    server.shutdown()
    thread.join()
    server.server_close()


def pictures(browse, page):
    """Return the width in pixels of each picture of a page, 0 for one that did not load."""
    return dict(json.loads(re.search("<pre>(.*?)</pre>", browse(f"probe?{page}")).group(1)))


@pytest.mark.browser
def test_home_page(browse):
    page = browse("index.html")
    assert "Detect manipulated face photographs" in page
    words = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", page))
    assert "make demo" in words and "make test" in words
    assert "no trained detector" in page and "0.85 (0.83 to 0.87)" in page
    widths = pictures(browse, "index.html")
    assert widths["verdicts.jpg"] > 500
    assert 0 not in widths.values()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("query", "found"),
    [("GroupKFold", "fitting.html"), ("find_source_groups", "find_source_groups.html")],
)
def test_search_finds(browse, query, found):
    page = browse(f"search.html?q={query}")
    results = re.findall(r'<li[^>]*>\s*<a href="([^"]+)"', page.split('id="search-results"')[1])
    assert any(found in link for link in results), results


@pytest.mark.browser
def test_search_does_not_find_what_is_not_there(browse):
    page = browse("search.html?q=zyzzyva")
    assert "did not match any documents" in page


@pytest.mark.browser
def test_pictures_of_the_gallery(browse):
    widths = pictures(browse, "auto_examples/index.html")
    thumbnails = {name for name in widths if name.startswith("sphx_glr_")}
    assert len(thumbnails) == len(list((ROOT / "examples").glob("*.py")))
    assert 0 not in widths.values()
    assert 0 not in pictures(browse, "auto_examples/quickstart.html").values()
