"""What tools/peers found, as tables and as one picture: pure functions of the figures."""
import statistics
from html import escape

# A process this busy has no more to give; SCHED_RR gets 95 % of a CPU.
BUSY = 0.9


def median(figures, key):
    return statistics.median(figure[key] for figure in figures if figure)


def best_of(found, names):
    """The name with the highest rate; none when none of them ran."""
    ran = [name for name in names if any(found.get(name, []))]
    return max(ran, key=lambda name: median(found[name], "iops"), default=None)


def ratio(found, name, to, key="iops"):
    """Median of the rounds' ratios; none when one of the two did not run."""
    pairs = zip(found.get(name, []), found.get(to, []))
    ratios = [one[key] / other[key] for one, other in pairs if one and other and other[key]]
    return statistics.median(ratios) if ratios else None


def limit_of(figures):
    """Who was at the end of its CPU."""
    server, client = median(figures, "server_busy"), median(figures, "client_busy")
    if client >= BUSY > server:
        return "client"
    return "server" if server >= BUSY else "both wait" if client < BUSY else "both"


def words(workload):
    mode, block, depth, connections = workload.split(":")
    kind = {"randread": "random read", "randwrite": "random write", "randrw": "random 70/30", "read": "sequential read",
            "write": "sequential write"}[mode]
    return f"{kind} {block}, {connections + ' x ' if connections != '1' else 'depth '}{depth}"


def shown(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def table(workload, found, peers):
    best = best_of(found, peers)
    lines = [f"\n### {words(workload)} (best peer: {best or 'none'})\n",
             "| server | kIOPS | MB/s | spread | x best peer | x ceiling | p50 us | p99 us | p99.9 us "
             "| CPU us/IO (s/M) | CPU s/GiB | server busy | client busy | limit |",
             "| --- " + "| --: " * 12 + "| --- |"]
    for name, figures in found.items():
        if not any(figures):
            continue
        rates = [figure["iops"] for figure in figures if figure]
        middle = statistics.median(rates)
        cells = [name, f"{middle / 1e3:.1f}", f"{median(figures, 'mb_per_second'):.0f}",
                 f"{min(rates) / middle:.2f}..{max(rates) / middle:.2f}", shown(ratio(found, name, best)),
                 shown(ratio(found, name, "ceiling")), *(f"{median(figures, key):.0f}" for key in
                                                         ("p50_us", "p99_us", "p999_us")),
                 f"{median(figures, 'server_us_per_request'):.2f}", f"{median(figures, 'server_s_per_gib'):.3f}",
                 f"{median(figures, 'server_busy'):.0%}", f"{median(figures, 'client_busy'):.0%}", limit_of(figures)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(results, peers):
    """Rates as ratios to the best peer of each workload."""
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    lines = ["\n### Rates, times the best peer's (below: server CPU for each request, times the same peer's)\n",
             "| workload | best peer | " + " | ".join(names) + " |", "| --- | --- " + "| --: " * len(names) + "|"]
    for key in ("iops", "server_us_per_request"):
        for workload, found in results.items():
            best = best_of(found, peers)
            what = words(workload) + (": CPU" if key != "iops" else "")
            lines.append(f"| {what} | {best or 'none'} | "
                         + " | ".join(shown(ratio(found, name, best, key)) for name in names) + " |")
    return "\n".join(lines)


WIDTH, LEFT, BAR, GAP, TOP = 1180, 210, 11, 16, 92
# Width of a panel, and where the second one begins.
PANEL, SECOND = 360, LEFT + 360 + 140
OURS = {"drystone": "#0b6e4f", "drystone-2": "#62b58f"}
OTHERS = ["#3d5a80", "#7a93b2", "#a9b8c9", "#8d6e97", "#c0a0c8"]


def color(name, names, peers):
    if name == "ceiling":
        return "#d9d9d9"
    if name in OURS:
        return OURS[name]
    return OTHERS[peers.index(name) % len(OTHERS)] if name in peers else "#e0a458"


def text(x, y, words_, size=12, anchor="start", extra=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" {extra}>{escape(words_)}</text>'


def bars(workload, found, peers, y, names):
    """The bars of one workload: rates on the left, processor time on the right."""
    out = [text(LEFT - 10, y + len(names) * BAR / 2 + 4, words(workload), 12, "end")]
    for panel, key in ((LEFT, "iops"), (SECOND, "server_us_per_request")):
        values = {name: median(found[name], key) for name in names if any(found.get(name, []))}
        top = max(values.values(), default=1)
        for row, name in enumerate(names):
            if name not in values:
                continue
            width, at = PANEL * values[name] / top, y + row * BAR
            rate = f"{values[name] / 1e3:.1f} k" if values[name] >= 10_000 else f"{values[name]:.0f}"
            label = f"{rate}/s" if key == "iops" else f"{values[name]:.1f} us"
            limited = key == "iops" and limit_of(found[name]) == "client"
            out.append(f'<rect x="{panel}" y="{at}" width="{width:.1f}" height="{BAR - 2}" '
                       f'fill="{color(name, names, peers)}"/>')
            out.append(text(panel + width + 4, at + BAR - 3, label + (" (client's limit)" if limited else ""), 9))
    return out


def picture(title, results, peers):
    """An SVG document: for each workload who does how much, and what it costs."""
    names = list(dict.fromkeys(name for found in results.values() for name in found))
    step = len(names) * BAR + GAP
    height = TOP + len(results) * step + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           'font-family="sans-serif" fill="#222">', f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
           text(14, 24, "NBD servers on one core", 18, extra='font-weight="bold"'), text(14, 42, title, 11)]
    at = 14
    for name in names:
        out.append(f'<rect x="{at}" y="54" width="10" height="10" fill="{color(name, names, peers)}"/>')
        out.append(text(at + 14, 63, name, 11))
        at += 30 + 7 * len(name)
    out += [text(LEFT, TOP - 10, "requests a second (more is better)", 11),
            text(SECOND, TOP - 10, "server's processor time for each request (less is better)", 11)]
    for index, (workload, found) in enumerate(results.items()):
        out += bars(workload, found, peers, TOP + index * step, names)
    return "\n".join([*out, "</svg>\n"])
