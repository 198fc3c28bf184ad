"""Reports as Markdown and HTML: nothing is lost, nothing is fetched, nothing runs."""

from html.parser import HTMLParser

from detection.reports.document import Bullets, Code, Figure, Heading, Paragraph, Table, to_html, to_markdown

BLOCKS = [
    Heading(1, "A <b> & c"),
    Paragraph("Text <script>alert(1)</script>"),
    Paragraph("Beware", warning=True),
    Bullets(["one", "two & three"]),
    Table(["variant", "AP"], [["a|b", "0.1 ± 0.2"], ["<i>", "missing"]]),
    Figure("p.png", 'caption "quoted"', b"\x89PNG"),
    Code(["python a.py 'x=<1>'"]),
]


class Reader(HTMLParser):
    """Keeps the tags with their attributes, the text, and whether tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_holds_all_of_it_and_needs_nothing_else():
    page = to_html(BLOCKS)
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and page.startswith("<!DOCTYPE html>")
    text = " ".join(reader.texts)
    for words in ("A <b> & c", "<script>alert(1)</script>", "Beware", "two & three", "a|b", "0.1 ± 0.2", "'x=<1>'"):
        assert words in text
    names = [tag for tag, _ in reader.tags]
    assert "script" not in names and "link" not in names and "i" not in names
    (image,) = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64,iVBORw==" and image["alt"] == 'caption "quoted"'
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in reader.tags
    assert "overflow-x: auto" in page and "@media print" in page and "url(" not in page and "http" not in page


def test_markdown():
    assert to_markdown(BLOCKS) == (
        "# A <b> & c\n\nText <script>alert(1)</script>\n\n**Beware**\n\n- one\n- two & three\n\n"
        "| variant | AP        |\n| ------- | --------: |\n| a\\|b    | 0.1 ± 0.2 |\n| <i>     | missing   |\n\n"
        "![caption \"quoted\"](p.png)\n\n    python a.py 'x=<1>'\n"
    )
