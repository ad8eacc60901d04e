"""The fixed parts of the page: its frame, its style, its warning."""

from collections.abc import Sequence
from html import escape
from string import Template

WARNING_TITLE = "Keep this report where the real records are."
WARNING = (
    "Every number and picture below was computed from real records, without noise: it is itself a look at "
    "them. No privacy statement covers it. It may leave the site only if this evaluation was charged to the "
    "site's ledger like any other release."
)
NO_STATEMENT = (
    "No privacy statement was given with these synthetic rows. Nothing on this page says how "
    "private they are: "
    "rows can be faithful because a generator learnt well, or because it copied."
)

# The policy lets the page load nothing at all: everything it shows is inside it.
_FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src
data:"> <meta name="color-scheme" content="light"> <title>$title</title> <style>$style</style> </head>
<body> <a class="skip" href="#content">Skip to the results</a> <header><div class="wide"> <h1>$title</h1> <p
class="lead">$lead</p> <p class="legend"><span class="key real"></span>real rows <span class="key
synthetic"></span>synthetic rows</p> </div></header> <main id="content" class="wide"> <aside class="warning"
role="note"><strong>$warning_title</strong> $warning</aside> $body </main> <footer class="wide"><p>Made by
Cloister. The page is complete in itself: it loads nothing and runs no script.</p></footer> </body> </html>
""")

# The same without the warning: for pages on which nothing was computed from a record.
_PLAIN_FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'$images">
<meta name="color-scheme" content="light">
<title>$title</title>
<style>$style</style>
</head>
<body>
<a class="skip" href="#content">$skip</a>
<header><div class="wide"><h1>$title</h1><p class="lead">$lead</p></div></header>
<main id="content" class="wide">
$body
</main>
<footer><div class="wide"><p>Made by Cloister. The page loads nothing and runs no script. $footer</p></div></footer>
</body>
</html>
""")

_STYLE = """
:root{--ink:#1d2530;--soft:#4a5565;--line:#dfe4ea;--paper:#fff;--ground:#f4f6f8;--real:#0072b2;
--synthetic:#d55e00;--synthetic-ink:#a34700;--warn:#fff6e0;--warn-line:#e0a100}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;font-family:system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif}
.wide{max-width:1160px;margin:0 auto;padding:0 20px}
header{background:var(--paper);border-bottom:1px solid var(--line);padding:28px 0 16px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:44px 0 4px;letter-spacing:-.005em}
.panel h2{margin-top:0}
h3{font-size:1rem;margin:0}
p{margin:0 0 10px}
.lead,.intro{color:var(--soft);max-width:76ch}
.intro{margin-bottom:16px}
.legend{margin:10px 0 0;font-size:.9rem;display:flex;align-items:center;gap:8px;flex-wrap:wrap}
.key{width:14px;height:14px;border-radius:4px;display:inline-block}
.key.synthetic{margin-left:12px}
.key.real,.mark.real{background:var(--real)}
.key.synthetic,.mark.synthetic{background:var(--synthetic)}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--paper);padding:8px;z-index:2}
.warning{background:var(--warn);border:1px solid var(--warn-line);border-left-width:6px;border-radius:10px;
padding:12px 16px;margin:22px 0 0}
.panel,.card,figure{background:var(--paper);border:1px solid var(--line);border-radius:14px}
.panel{padding:18px 20px;margin-top:16px}
.row>.panel{margin:0}
.cards{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(100%,262px),1fr));
margin-top:22px}
.card{padding:16px 18px 14px;display:flex;flex-direction:column;gap:8px}
.card h3{font-size:.95rem;color:var(--soft);font-weight:600}
.figure{font-size:2.35rem;font-weight:700;line-height:1;letter-spacing:-.02em;color:var(--synthetic-ink);
font-variant-numeric:tabular-nums}
.card p{margin:0;font-size:.93rem}
.card .aim{color:var(--soft);font-size:.85rem;margin-top:auto}
.scale{position:relative;height:26px;margin:4px 6px 0}
.scale::before{content:"";position:absolute;left:-6px;right:-6px;top:11px;height:4px;border-radius:2px;
background:#e4e8ed}
.mark{position:absolute;top:12px;width:14px;height:14px;margin-left:-7px;border-radius:50%;
border:2px solid var(--paper)}
.mark.synthetic{top:0;z-index:1;border-radius:3px;transform:rotate(45deg)}
.mark.other{background:#6b7686;top:6px;width:4px;height:14px;margin-left:-2px;border:0;border-radius:1px}
dl.compare{margin:0;font-size:.86rem}
dl.compare div{display:flex;gap:8px;align-items:baseline;justify-content:space-between}
dl.compare dt{color:var(--soft)}
dl.compare dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums}
dl.statement{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,220px),1fr));gap:10px 24px;
margin:12px 0}
dl.statement dt{color:var(--soft)}
dl.statement dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.gallery{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,264px),1fr))}
.row{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));
align-items:start}
figure{margin:0;padding:12px 14px;min-width:0}
figcaption{display:flex;justify-content:space-between;gap:10px;align-items:baseline;font-size:.92rem;
font-weight:600;margin-bottom:6px}
figcaption .name{overflow-wrap:anywhere}
figcaption .number{font-variant-numeric:tabular-nums;color:var(--soft);font-weight:500;white-space:nowrap}
.narrow{max-width:640px}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:inherit}
@media(max-width:520px){.large svg{min-width:460px}}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:7px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
tr>:first-child{text-align:left;white-space:normal;overflow-wrap:break-word;min-width:132px}
thead th{color:var(--soft);white-space:normal}
tbody th{font-weight:500}
.words th,.words td,.words tr>:first-child{text-align:left;white-space:normal;vertical-align:top;overflow-wrap:anywhere}
.words tr>:first-child{width:24%}
.words tbody tr:last-child>*{border-bottom:0}
.told{overflow-wrap:anywhere}
.told ul{margin:0}
.told li+li{margin-top:4px}
.told a{color:#005a8d}
details{margin-top:16px}
summary{cursor:pointer;font-weight:600;padding:6px 0}
summary:focus-visible,a:focus-visible,.scroll:focus-visible{outline:3px solid var(--real);outline-offset:2px}
ul{padding-left:20px;margin:6px 0}
footer{color:var(--soft);font-size:.85rem;padding-top:28px;padding-bottom:36px}
@media(max-width:520px){.wide{padding:0 14px}h1{font-size:1.45rem}.panel{padding:14px}
.figure{font-size:2.1rem}
table{font-size:.84rem}th,td{padding:6px 5px}tr>:first-child{min-width:112px}}
@media print{body{background:#fff}.card,figure,.panel{break-inside:avoid}}
"""


def page(*, title: str, lead: str, body: Sequence[str]) -> str:
    """Put the sections into the frame.

    Args:
        title: Plain text; escaped here.
        lead: Plain text; escaped here.
        body: Sections, HTML that is escaped already.

    Returns:
        The whole document.
    """
    return _FRAME.substitute(
        title=escape(title),
        lead=escape(lead),
        style=_STYLE,
        warning_title=escape(WARNING_TITLE),
        warning=escape(WARNING),
        body="\n".join(body),
    )


def plain_page(
    *,
    title: str,
    lead: str,
    body: Sequence[str],
    footer: str = "",
    skip: str = "Skip to the content",
    style: str = _STYLE,
    images: bool = False,
) -> str:
    """Put sections into a frame without the warning: of pages that were computed from no record, or say it themselves.

    Args:
        title: Plain text; escaped here.
        lead: Plain text; escaped here.
        body: Sections, HTML that is escaped already.
        footer: Plain text; escaped here.
        skip: Plain text of the link past the heading; escaped here.
        style: Style sheet.
        images: Whether the page may show images that are inside it.

    Returns:
        The whole document.
    """
    return _PLAIN_FRAME.substitute(
        title=escape(title),
        lead=escape(lead),
        style=style,
        skip=escape(skip),
        images="; img-src data:" if images else "",
        body="\n".join(body),
        footer=escape(footer),
    )


def section(heading: str, intro: str, *parts: str) -> str:
    """Make a section of plain texts (escaped here) and of ``parts`` in HTML (escaped already)."""
    top = f'<section>\n<h2>{escape(heading)}</h2>\n<p class="intro">{escape(intro)}</p>'
    return "\n".join((top, *parts, "</section>"))


def words_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> str:
    """Make a table of sentences, which are broken into lines, rather than of numbers."""
    return f'<div class="panel words">{table(head, rows, label=label)}</div>'


def sentences(texts: Sequence[str]) -> str:
    """Make a list of plain texts."""
    listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<div class="panel told"><ul>{listed}</ul></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> str:
    """Make a table of plain texts; the first cell of a row is its heading."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = (
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
