//! A small writer of SVG: rectangles, lines, texts, and axes with round numbers. Pure.

use crate::base::limits::BENCH_OTHERS_MAX;
use std::fmt::Write;

/// One colour for each layer, the same in all charts. Told apart also without seeing red or green.
pub const DRIVES: &str = "#8a94a6";
pub const NETWORK: &str = "#e0a030";
pub const GOT: &str = "#1f6fb2";
/// Other servers, in the order in which they were named.
pub const PEERS: [&str; BENCH_OTHERS_MAX] = ["#7b4fa3", "#2a8c6a", "#b5493b", "#5f6b1f"];
pub const INK: &str = "#1d2430";
pub const FAINT: &str = "#5c6675";
pub const GRID: &str = "#e3e7ec";

/// Which side of a text its position is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub struct Font {
    pub size: f64,
    pub bold: bool,
    /// White around the letters, for texts that lie over lines.
    pub halo: bool,
    pub colour: &'static str,
    pub anchor: Anchor,
}

impl Font {
    pub const fn new(size: f64, colour: &'static str, anchor: Anchor) -> Font {
        Font { size, bold: false, halo: false, colour, anchor }
    }

    pub const fn bold(self) -> Font {
        Font { bold: true, ..self }
    }

    pub const fn halo(self) -> Font {
        Font { halo: true, ..self }
    }
}

/// A picture in the making.
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64, title: &str) -> Svg {
        Svg { width, height, title: escape(title), body: String::new() }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("writing to a string");
    }

    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashed: bool) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let dash = if dashed { " stroke-dasharray=\"5 4\" stroke-width=\"1.5\"" } else { "" };
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"{dash}/>"
        ));
    }

    pub fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashed: bool) {
        let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dash = if dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        self.add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"{dash}/>",
            list.join(" ")
        ));
    }

    pub fn dot(&mut self, x: f64, y: f64, colour: &str) {
        self.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" fill=\"{colour}\"/>"));
    }

    pub fn text(&mut self, x: f64, y: f64, font: Font, text: &str) {
        let anchor = match font.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if font.bold { " font-weight=\"600\"" } else { "" };
        let halo = match font.halo {
            true => " stroke=\"#ffffff\" stroke-width=\"5\" stroke-linejoin=\"round\" paint-order=\"stroke\"",
            false => "",
        };
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\"{weight}{halo}>{}</text>",
            font.size,
            font.colour,
            escape(text)
        ));
    }

    pub fn finish(self) -> String {
        let Svg { width, height, title, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" font-family=\"'Inter','Segoe UI','DejaVu Sans',sans-serif\">\n\
             <title>{title}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

/// Makes a text safe inside SVG and HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML at all.
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// Cuts a text that would not fit.
pub fn shorten(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Round numbers from 0 to at least `most`, about five of them: steps of 1, 2 or 5 times a power of ten.
pub fn ticks(most: f64) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let magnitude = 10f64.powf((most / 5.0).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let step =
        factors.iter().map(|f| f * magnitude).find(|step| most / step <= 5.0).unwrap_or(10.0 * magnitude);
    let count = (most / step).ceil();
    // At most six: a step is at least a fifth of the range.
    (0..=(count as usize)).map(|n| n as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_most() {
        assert_eq!(ticks(189.0), [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(ticks(28_700.0), [0.0, 10_000.0, 20_000.0, 30_000.0]);
        for most in [0.0, f64::NAN, 1.0, 9.99, 10.0, 117.6, 5690.0, 1e12] {
            let ticks = ticks(most);
            assert!(
                (2..=6).contains(&ticks.len()) && (most.is_nan() || *ticks.last().unwrap() >= most),
                "{most}: {ticks:?}"
            );
        }
    }

    #[test]
    fn texts_cannot_leave_their_element() {
        assert_eq!(escape("<a href=\"x\">&\x1b"), "&lt;a href=&quot;x&quot;&gt;&amp;?");
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("abcd", 4), "abcd");
    }
}
