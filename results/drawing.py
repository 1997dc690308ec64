"""A figure as an SVG document: lines over an x axis, with 95% intervals as bands.

It fits a phone and follows a page's dark mode.
"""
import html
import math
from dataclasses import dataclass

import numpy as np

from results.experiments import GP, MIXED, NOISY, OWN, TRUTH, WIDE_OPTIMUM


@dataclass
class Figure:
    """lines: predictor -> values (B, X) on B prompts at X places; their means are drawn."""
    name: str
    title: str
    caption: str     # at most two sentences: what is drawn, and what to look for
    xlabel: str
    x: np.ndarray    # (X,)
    lines: dict      # at most five
    ylabel: str = "squared error"
    kind: str = "error"   # or "weight" or "function": sets where the y axis begins and ends
    log: str = ""         # axes with a logarithmic scale: "x", "y" or "xy"
    low: float = None     # where a logarithmic y axis begins
    backdrop: tuple = ()  # a label, and (X,) to be drawn behind the lines
    dots: tuple = ()      # (x, y) of points to be drawn


def mean_and_error(values):
    """Mean over prompts of values (B, X), and its standard error: (X,) each."""
    if np.ndim(values) != 2:
        raise ValueError(f"a line's values must be (B, X), not {np.shape(values)}")
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    return values.mean(0), spread / math.sqrt(len(values))


# Okabe and Ito's palette, for every kind of colour vision; its blue is lighter, for dark pages.
STYLES = {  # predictor: colour, dashes, width
    "mixture model": ("#d55e00", "", 3), "dense model": ("#2b86cf", "", 1.8),
    "linear model": ("#2b86cf", "", 1.8), "sparse model": ("#009e73", "", 1.8),
    "sinusoid model": ("#009e73", "", 1.8), "wide model": ("#8f63c9", "", 3),
    "least squares": ("#cc79a7", "8 3", 1.8), "Lasso": ("#b8804a", "2 3", 2.2),
    GP: ("#888888", "8 3 2 3", 1.8), MIXED: ("currentColor", "6 4", 1.6),
    OWN: ("currentColor", "", 1.2), WIDE_OPTIMUM: ("#8f63c9", "6 4", 1.6),
    NOISY: ("#e69f00", "3 3", 2.6), TRUTH: ("currentColor", "", 1.2),
    "dense to sparse model, for scale": ("#888888", "2 3", 1.8)}
PALETTE = "#56b4e9", "#d6308f", "#808000", "#00a0a0"  # for all other lines
CSS = """svg{color:#1a1a1a;font:16px system-ui,sans-serif}.paper{fill:#fff}
@media(prefers-color-scheme:dark){svg{color:#eee}.paper{fill:#16181c}}
text{fill:currentColor}.grid{fill:none;stroke:#888;stroke-opacity:.3}
.soft{fill:#888;fill-opacity:.3}"""
LEFT, TOP, WIDTH, HEIGHT = 92, 42, 374, 250  # the frame that data are drawn in
BOTTOM = TOP + HEIGHT
ROUND = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]


def ticks(low, high, log):
    """A few round numbers between low and high."""
    if log:  # powers of ten, and 2 and 5 times these where the axis spans less than two of them
        candidates = ROUND[::3] if high > 90 * low else ROUND  # every third is a power of ten
        return [v for v in candidates if 0.99 * low <= v <= 1.01 * high]
    step = next((v for v in ROUND if v >= (high - low) / 6), (high - low) / 2)
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)


def scale(low, high, start, length, log):
    """Data to a coordinate: low to start, high to start + length; cut off one length outside."""
    transform = (lambda v: np.log(np.maximum(v, low))) if log else np.asarray
    left, right = transform(low), transform(high)
    return lambda v: start + length * np.clip((transform(v) - left) / (right - left), -1, 2)


def text(x, y, words, anchor="middle"):
    """An SVG text at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def number(v):
    """A number as the label of an axis: 0.00001, not 1e-05."""
    return np.format_float_positional(v, 4, fractional=False, trim="-")


def points(x, y):
    """Coordinates in SVG's format, without those that are nan."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y) if not math.isnan(b))


def limits(f, means):
    """Where the y axis begins and ends. An error above 2, twice that of predicting zero, is cut
    off; weights show 0 and 1, the two classes, and what is not far beyond."""
    if "y" in f.log:
        return f.low or 1e-4, min(2, np.nanmax(means, initial=1e-2) * 1.2)
    low, high = np.nanmin(means, initial=0.0), np.nanmax(means, initial=1e-9)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    if f.kind == "function":
        return low, high
    if f.kind == "weight":
        return max(-0.2, low), min(2, max(1.05, high))
    return max(-0.2, low), min(2, high)


def draw(f):
    """A Figure as an SVG document, with 95% intervals over prompts as bands."""
    drawn = {p: mean_and_error(values) for p, values in f.lines.items()}
    low, high = limits(f, np.concatenate([mean for mean, _ in drawn.values()]))
    first, last = f.x[0], f.x[-1]
    if first == last:
        last = first + 1  # never of width zero
    to_x = scale(first, last, LEFT, WIDTH, "x" in f.log)
    to_y = scale(low, high, BOTTOM, -HEIGHT, "y" in f.log)
    x, inside, around, key = to_x(f.x), [], [], []
    for v in ticks(low, high, "y" in f.log):
        inside.append(f'<path class="grid" d="M{LEFT},{to_y(v):.1f}h{WIDTH}"/>')
        around.append(text(LEFT - 8, to_y(v) + 5, number(v), "end"))
    counts = f.x.dtype == int  # of examples, say: no ticks at halves
    around += [text(to_x(v), BOTTOM + 20, number(v)) for v in ticks(first, last, "x" in f.log)
               if v == int(v) or not counts]
    if f.backdrop:
        label, v = f.backdrop
        outline = points(x, BOTTOM - 0.6 * HEIGHT * v / v.max())
        inside.append(f'<polygon class="soft" points="{LEFT},{BOTTOM} {outline} '
                      f'{LEFT + WIDTH},{BOTTOM}"/>')
        key.append((label, '<path class="soft" d="M0,-11h30v10h-30z"/>'))
    for i, (predictor, (y, error)) in enumerate(drawn.items()):
        colour, dashes, width = STYLES.get(predictor, (PALETTE[i % len(PALETTE)], "", 2))
        pen = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"'
        # Along the upper edge, and back along the lower one.
        band = points([*x, *x[::-1]], [*to_y(y + 1.96 * error), *to_y(y - 1.96 * error)[::-1]])
        inside.append(f'<polygon points="{band}" fill="{colour}" opacity=".18"/>'
                      f'<polyline points="{points(x, to_y(y))}" {pen}/>')
        if len(x) < 8:  # so few places are marked
            inside += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>'
                       for a, b in zip(x, to_y(y)) if not math.isnan(b)]
        key.append((predictor, f'<path d="M0,-6h30" {pen}/>'))
    inside += [f'<circle cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="4" fill="currentColor"/>'
               for a, b in f.dots]
    return document(f, "".join(inside), "".join(around), key[::-1])  # drawn last, named first


def document(f, inside, around, key):
    """The SVG of what is drawn inside and around the frame, and of the key, (label, mark) pairs."""
    total = BOTTOM + 58 + 23 * len(key)
    cells = [f'<g transform="translate({LEFT} {BOTTOM + 70 + 23 * i})">{mark}'
             f'{text(40, 0, label, "start")}</g>' for i, (label, mark) in enumerate(key)]
    frame = f'x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 {total}" role="img">
<title>{html.escape(f.title)}</title><style>{CSS}</style>
<rect class="paper" width="480" height="{total}"/>
<g font-weight="600">{text(12, 26, f.title, "start")}</g>
<svg {frame} viewBox="{LEFT} {TOP} {WIDTH} {HEIGHT}">{inside}</svg>
<rect class="grid" {frame}/>{around}
{text(LEFT + WIDTH / 2, BOTTOM + 43, f.xlabel)}
<g transform="translate(18 {TOP + HEIGHT / 2}) rotate(-90)">{text(0, 0, f.ylabel)}</g>
{"".join(cells)}</svg>
"""
