"""Line charts as SVG, written by hand: a line for each server, its name at its end."""

import math
from html import escape

WIDTH, HEIGHT = 820, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 170, 52, 60
# Told apart by all kinds of eyes (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
FONT = "font-family='system-ui, sans-serif'"
LABEL_GAP = 16


class Axis:
    """Maps values to pixels, evenly or by their logarithm."""

    def __init__(self, values, first_pixel, last_pixel, is_log):
        self.is_log = is_log
        self.first_pixel, self.last_pixel = first_pixel, last_pixel
        if is_log:
            self.low = 10 ** math.floor(math.log10(min(values)))
            self.high = 10 ** math.ceil(math.log10(max(values) * 1.0001))
            decades = round(math.log10(self.high / self.low))
            self.ticks = [self.low * 10**power for power in range(decades + 1)]
        else:
            step = nice_step(max(values))
            self.low, self.high = 0, math.ceil(max(values) / step) * step
            self.ticks = [step * index for index in range(round(self.high / step) + 1)]

    def pixel(self, value):
        scale = math.log10 if self.is_log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.first_pixel + share * (self.last_pixel - self.first_pixel)


def nice_step(highest):
    """A step of 1, 2 or 5 times a power of ten that gives four to eight ticks."""
    power = 10 ** math.floor(math.log10(highest / 4 or 1))
    return next(power * factor for factor in (1, 2, 5, 10) if highest / (power * factor) <= 8)


def number(value):
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


def chart(title, x_title, y_title, lines, is_log_y=False):
    """`lines`: name → points (x, y) by rising x. Returns the text of the SVG."""
    points = [point for line in lines.values() for point in line]
    x_axis = Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, False)
    y_axis = Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, is_log_y)
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' {FONT} font-size='13'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        f"<text x='{LEFT}' y='28' font-size='16' font-weight='600'>{escape(title)}</text>",
    ]
    for tick in y_axis.ticks:
        y = y_axis.pixel(tick)
        out.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#ddd'/>")
        out.append(f"<text x='{LEFT - 8}' y='{y + 4:.1f}' text-anchor='end' fill='#444'>{number(tick)}</text>")
    for tick in x_axis.ticks:
        x = x_axis.pixel(tick)
        out.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{HEIGHT - BOTTOM}' y2='{HEIGHT - BOTTOM + 5}' stroke='#888'/>")
        out.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 20}' text-anchor='middle' fill='#444'>{number(tick)}</text>")
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    out += [
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{HEIGHT - BOTTOM}' y2='{HEIGHT - BOTTOM}' stroke='#888'/>",
        f"<text x='{middle_x}' y='{HEIGHT - 14}' text-anchor='middle'>{escape(x_title)}</text>",
        f"<text transform='translate(18 {middle_y}) rotate(-90)' text-anchor='middle'>{escape(y_title)}</text>",
    ]
    label_y = label_places({name: y_axis.pixel(line[-1][1]) for name, line in lines.items()})
    for (name, line), colour in zip(lines.items(), COLOURS):
        places = [(x_axis.pixel(x), y_axis.pixel(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        out += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in places]
        out.append(f"<text x='{WIDTH - RIGHT + 12}' y='{label_y[name] + 4:.1f}' fill='{colour}'>{escape(name)}</text>")
    return "\n".join([*out, "</svg>", ""])


def label_places(wanted):
    """Heights of the names beside the ends of their lines, moved apart where they would overlap."""
    placed, lowest = {}, -math.inf
    for name, y in sorted(wanted.items(), key=lambda one: one[1]):
        lowest = placed[name] = max(y, lowest + LABEL_GAP)
    return placed
