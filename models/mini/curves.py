"""Learning curves: the log lines of all trainings as one SVG picture."""

import argparse
import json
from pathlib import Path

# log -> figures drawn, each with the label of its axis
CURVES = {
    "hearing": ("loss", "phone_loss", "chat_loss", "word", "phone", "chat"),
    "speaking": ("loss", "accuracy"),
    "flow": ("mu_error", "flow_loss"),
    "vocoder": ("spectra", "mel", "pitch_hz"),
}
_WIDTH, _HEIGHT, _MARGIN, _COLUMNS = 260, 150, 34, 4


def read(path: Path) -> list[dict]:
    """Lines of a log, the evaluations left out. A restarted run counts on from the last one's minutes."""
    lines, offset, before = [], 0.0, 0.0
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "judged" in line:
            continue
        if line["cpu_min"] < before:
            offset += before
        before = line["cpu_min"]
        lines.append({**line, "cpu_min": line["cpu_min"] + offset})
    return lines


def panel(title: str, points: list[tuple[float, float]], left: int, top: int) -> str:
    """One curve with its axes' ends written out."""
    xs, ys = zip(*points, strict=True)
    high, right = max(ys) or 1.0, max(xs) or 1.0
    inner_w, inner_h = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    place = [(left + _MARGIN + x / right * inner_w, top + _HEIGHT - _MARGIN - y / high * inner_h) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    base = top + _HEIGHT - _MARGIN
    return (
        f'<text x="{left + _MARGIN}" y="{top + 20}" font-weight="bold">{title}: {ys[-1]:.3g}</text>'
        f'<path d="M{left + _MARGIN} {top + _MARGIN}V{base}H{left + _WIDTH - _MARGIN}" fill="none" stroke="#999"/>'
        f'<text x="{left + 2}" y="{top + _MARGIN + 8}">{high:.3g}</text><text x="{left + 14}" y="{base}">0</text>'
        f'<text x="{left + _WIDTH - _MARGIN}" y="{base + 14}" text-anchor="end">{right:.0f} CPU min</text>'
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>'
    )


def draw(work: Path) -> str:
    """The picture as text. Raises `FileNotFoundError` when nothing was logged."""
    panels = []
    for name, figures in CURVES.items():
        path = work / f"{name}.jsonl"
        lines = read(path) if path.is_file() else []
        for figure in figures:
            points = [(line["cpu_min"], line[figure]) for line in lines if figure in line]
            if len(points) > 1:
                panels.append((f"{name} {figure}", points))
    if not panels:
        raise FileNotFoundError(f"{work}: no training has logged anything yet")
    places = [(i % _COLUMNS * _WIDTH, i // _COLUMNS * _HEIGHT) for i in range(len(panels))]
    body = "".join(panel(*item, *place) for item, place in zip(panels, places, strict=True))
    size = f'width="{_COLUMNS * _WIDTH}" height="{-(-len(panels) // _COLUMNS) * _HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11"'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{paper}{body}</svg>\n'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m mini curves`."""
    parser.add_argument("--work", type=Path, default=Path("out/mini"))
    parser.add_argument("--out", type=Path, required=True, help="SVG file")


def run(args: argparse.Namespace) -> int:
    """Writes the picture."""
    args.out.write_text(draw(args.work), encoding="utf-8")
    return 0
