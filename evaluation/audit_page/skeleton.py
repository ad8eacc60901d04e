"""The fixed parts of the page of an audit: its style and its footer."""

from evaluation.page.skeleton import plain_page

# No verdict is green: consistent is not a clean bill of health.
_STYLE = """
:root{--ink:#1d2530;--soft:#4a5565;--line:#dfe4ea;--paper:#fff;--ground:#f4f6f8;--attack:#d55e00;--control:#0072b2;
--warn:#fff6e0;--warn-line:#e0a100;--violated:#a3172b;--violated-pale:#fdecee;--no-verdict:#5b3a8c;
--no-verdict-pale:#f3edfb;--underpowered:#7d5600;--underpowered-pale:#fff6e0;--consistent:#005a8d;
--consistent-pale:#e7f2f9}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;font-family:system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif}
.wide{max-width:1060px;margin:0 auto;padding:0 20px}
header{background:var(--paper);border-bottom:1px solid var(--line);padding:28px 0 16px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:44px 0 4px;letter-spacing:-.005em}
h3{font-size:1.02rem;margin:0;overflow-wrap:anywhere}
h4{font-size:.85rem;margin:14px 0 4px;color:var(--soft);font-weight:600}
p{margin:0 0 10px}
a{color:var(--consistent)}
.lead,.intro{color:var(--soft);max-width:80ch;overflow-wrap:anywhere}
.intro{margin-bottom:14px}
.after{margin-top:12px;max-width:80ch}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--paper);padding:8px;z-index:2}
.warning{background:var(--warn);border:1px solid var(--warn-line);border-left-width:6px;border-radius:10px;
padding:12px 16px;margin:22px 0 0}
.panel,figure{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:16px 18px}
.panel p:last-child,.panel ul:last-child{margin-bottom:0}
.verdict{border-radius:14px;padding:18px 20px;margin:22px 0 0;border:1px solid;border-left-width:8px}
.verdict .word{font-size:1.9rem;font-weight:700;line-height:1.15;letter-spacing:-.01em;margin:0 0 6px}
.verdict p:last-child{margin:0}
.chip{display:inline-block;border-radius:999px;padding:2px 11px;font-size:.82rem;font-weight:650;white-space:nowrap;
border:1px solid}
.violated{color:var(--violated);background:var(--violated-pale);border-color:var(--violated)}
.no-verdict{color:var(--no-verdict);background:var(--no-verdict-pale);border-color:var(--no-verdict)}
.underpowered{color:var(--underpowered);background:var(--underpowered-pale);border-color:var(--warn-line)}
.consistent{color:var(--consistent);background:var(--consistent-pale);border-color:var(--consistent)}
.verdict p:not(.word){color:var(--ink)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr));gap:10px 24px;margin:0}
.facts dt{color:var(--soft);font-size:.88rem}
.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.facts .long{grid-column:1/-1}
.code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:.84rem;
font-weight:500}
.row{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));align-items:start}
.finding{margin-top:16px}
.finding .head{display:flex;gap:6px 12px;justify-content:space-between;align-items:baseline;flex-wrap:wrap;
margin-bottom:2px}
.finding .about{color:var(--soft);font-size:.9rem;margin-bottom:12px;overflow-wrap:anywhere}
.finding .words p{max-width:80ch;font-size:.95rem}
.pictures{margin-top:14px;display:grid;gap:4px 28px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),420px));
align-items:start}
figure{margin:14px 0 0;min-width:0}
.picture{margin:0;min-width:0}
.picture h4{margin-top:0}
figcaption{font-size:.92rem;font-weight:600;margin-bottom:6px}
.narrow{max-width:600px}
svg{display:block;width:100%;height:auto}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:inherit}
img{display:block;max-width:100%;height:auto}
.scroll{overflow-x:auto}
.scroll img{max-width:none;width:max(100%,720px)}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums;background:var(--paper)}
th,td{text-align:left;padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft)}
tbody th{font-weight:600}
tbody tr:last-child>*{border-bottom:0}
.number{text-align:right;white-space:nowrap}
.framed{background:var(--paper);border:1px solid var(--line);border-radius:14px;overflow:hidden}
details{margin-top:16px}
summary{cursor:pointer;font-weight:600;padding:6px 0}
summary:focus-visible,a:focus-visible,.scroll:focus-visible{outline:3px solid var(--control);outline-offset:2px}
ul{padding-left:20px;margin:6px 0}
li{margin-bottom:6px;max-width:80ch}
footer{color:var(--soft);font-size:.85rem;padding-top:28px;padding-bottom:36px}
@media(max-width:520px){.roomy{display:none}.wide{padding:0 14px}h1{font-size:1.4rem}.panel,figure{padding:13px 14px}
.verdict .word{font-size:1.6rem}table{font-size:.84rem}th,td{padding:6px 6px}}
@media print{body{background:#fff}.panel,figure{break-inside:avoid}}
"""


def page(*, title: str, lead: str, body: list[str]) -> str:
    """Put the sections into the frame.

    Args:
        title: Plain text; escaped here.
        lead: Plain text; escaped here.
        body: Sections, HTML that is escaped already.

    Returns:
        The whole document.
    """
    return plain_page(
        title=title,
        lead=lead,
        body=body,
        footer="It is drawn from the report and is not signed itself; the signed file is the report.",
        skip="Skip to the result",
        style=_STYLE,
        images=True,
    )
