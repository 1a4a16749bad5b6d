//! Charts, as SVG.

use std::fmt::Write as _;

use super::escape;
use crate::bench::stats::{Summary, ms};

const WIDTH: f64 = 920.0;
/// Where the bars begin: names stand before.
const LEFT: f64 = 210.0;
/// Where they end: numbers stand behind.
const RIGHT: f64 = 820.0;
const ROW: f64 = 30.0;
const AXIS: f64 = 26.0;

/// Colours that can be told apart on light and dark paper.
pub(crate) const COLOURS: [&str; 8] =
    ["#3f78e0", "#e07b39", "#2f9e6b", "#b0569e", "#c9a227", "#4aa3b5", "#d0555a", "#7a7f8a"];

/// A row of a bar chart: pieces one after the other, each with its colour and a title.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) pieces: Vec<Piece>,
    /// What stands behind the bar.
    pub(crate) total: String,
}

pub(crate) struct Piece {
    pub(crate) value: f64,
    pub(crate) colour: &'static str,
    pub(crate) title: String,
}

/// Bars of pieces, on one linear scale.
pub(crate) fn bars(rows: &[Bar], unit: &str) -> String {
    let sum = |row: &Bar| row.pieces.iter().map(|piece| piece.value).sum::<f64>();
    let most = rows.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
    let ticks = linear_ticks(most);
    let scale = (RIGHT - LEFT) / most.max(ticks.last().copied().unwrap_or(most));
    let mut chart = Chart::new(rows.len());
    for tick in ticks {
        chart.tick(LEFT + tick * scale, &format!("{} {unit}", short(tick)));
    }
    for (index, row) in rows.iter().enumerate() {
        let y = chart.row(index, &row.name);
        let mut x = LEFT;
        for piece in &row.pieces {
            let width = piece.value * scale;
            // A hair of paper between neighbours; what is too thin to be seen is left to the table.
            let visible = (width - 1.0).max(0.3);
            chart.add(format_args!(
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{visible:.1}\" height=\"20\" rx=\"2\" fill=\"{}\"><title>{}</title></rect>\n",
                y - 10.0,
                piece.colour,
                escape(&piece.title)
            ));
            if width > 46.0 {
                let text = short(piece.value);
                chart.text(x + width / 2.0, y, "inside", "middle", &text);
            }
            x += width;
        }
        chart.text(x + 8.0, y, "", "start", &row.total);
    }
    chart.finish()
}

/// A line from the least to the most of each distribution, a bar up to the 95th percentile, a mark at the median; on one
/// logarithmic scale.
pub(crate) fn ranges(rows: &[(String, &'static str, Summary)]) -> String {
    let least = rows.iter().map(|(.., summary)| summary.min_ns).min().unwrap_or(1).max(1);
    let most = rows.iter().map(|(.., summary)| summary.max_ns).max().unwrap_or(10).max(least + 1);
    let (from, to) = (ms(least).log10().floor(), ms(most).log10().ceil());
    let place = |ns: u64| LEFT + (ms(ns.max(1)).log10() - from) / (to - from).max(1.0) * (RIGHT - LEFT);
    let mut chart = Chart::new(rows.len());
    let mut decade = from;
    while decade <= to {
        let x = LEFT + (decade - from) / (to - from).max(1.0) * (RIGHT - LEFT);
        chart.tick(x, &format!("{} ms", short(10_f64.powf(decade))));
        decade += 1.0;
    }
    for (index, (name, colour, summary)) in rows.iter().enumerate() {
        let y = chart.row(index, name);
        let Summary { min_ns, median_ns, p95_ns, max_ns, .. } = *summary;
        let [min, median, p95, max] = [min_ns, median_ns, p95_ns, max_ns].map(place);
        chart.add(format_args!(
            "<line x1=\"{min:.1}\" y1=\"{y:.1}\" x2=\"{max:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linecap=\"round\"/>\n\
             <rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" rx=\"3\" fill=\"{colour}\" fill-opacity=\".75\"/>\n\
             <line class=\"mark\" x1=\"{median:.1}\" y1=\"{:.1}\" x2=\"{median:.1}\" y2=\"{:.1}\" stroke-width=\"2\"/>\n",
            min - 1.0,
            y - 6.0,
            p95 - min + 2.0,
            y - 9.0,
            y + 9.0
        ));
        chart.text(WIDTH - 4.0, y, "", "end", &format!("{:.3} ms", ms(median_ns)));
    }
    chart.finish()
}

/// Which share of the values lies at or below each value: one rising line a distribution.
pub(crate) fn shares(lines: &[(&'static str, Vec<(u64, u64)>)]) -> String {
    const HEIGHT: f64 = 240.0;
    const TOP: f64 = 12.0;
    const START: f64 = 56.0;
    let values = || lines.iter().flat_map(|(_, values)| values.iter().map(|(ns, _)| ms(*ns)));
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if !least.is_finite() {
        return String::new();
    }
    let margin = ((most - least) * 0.05).max(most * 0.005);
    let (from, to) = ((least - margin).max(0.0), most + margin);
    let x = |value: f64| START + (value - from) / (to - from) * (WIDTH - START - 40.0);
    let y = |share: f64| TOP + (1.0 - share) * HEIGHT;
    let mut chart = Chart(String::new(), TOP + HEIGHT + AXIS);
    for share in [0.0, 0.25, 0.5, 0.75, 0.95, 1.0] {
        chart.add(format_args!(
            "<line class=\"grid\" x1=\"{START}\" y1=\"{0:.1}\" x2=\"{WIDTH}\" y2=\"{0:.1}\"/>\n",
            y(share)
        ));
        chart.text(START - 8.0, y(share), "faint", "end", &format!("{:.0} %", share * 100.0));
    }
    for tick in 0..=5 {
        let value = from + (to - from) * f64::from(tick) / 5.0;
        chart.text(x(value), TOP + HEIGHT + 16.0, "faint", "middle", &format!("{} ms", short(value)));
    }
    for (colour, values) in lines {
        let total: u64 = values.iter().map(|(_, count)| count).sum();
        let mut seen = 0;
        let mut path = String::new();
        for (ns, count) in values {
            let at = x(ms(*ns));
            let command =
                if path.is_empty() { format!("M{at:.1} {:.1}", y(0.0)) } else { format!("H{at:.1}") };
            seen += count;
            let _ = write!(path, "{command}V{:.1}", y(ratio(seen, total)));
        }
        chart.add(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-linejoin=\"round\"/>\n"
        ));
    }
    chart.finish()
}

#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// A chart's content so far, and its height.
struct Chart(String, f64);

impl Chart {
    fn new(rows: usize) -> Self {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        Self(String::new(), f64::from(rows) * ROW + AXIS)
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(part);
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" dy=\".35em\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n",
            escape(text)
        ));
    }

    /// A line of the grid with its value below.
    fn tick(&mut self, x: f64, text: &str) {
        let bottom = self.1 - AXIS + 4.0;
        self.add(format_args!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n"
        ));
        self.text(x, bottom + 12.0, "faint", "middle", text);
    }

    /// The name of a row; returns where its middle is.
    fn row(&mut self, index: usize, name: &str) -> f64 {
        let y = f64::from(u32::try_from(index).unwrap_or(u32::MAX)) * ROW + ROW / 2.0;
        self.text(LEFT - 10.0, y, "", "end", name);
        y
    }

    fn finish(self) -> String {
        format!("<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\">\n{}</svg>\n", self.1, self.0)
    }
}

/// Some round values from 0 to at least `most`.
fn linear_ticks(most: f64) -> Vec<f64> {
    let raw = most / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw);
    let step = step.unwrap_or(raw);
    (0..=5).map(|tick| f64::from(tick) * step).take_while(|tick| *tick < most + step).collect()
}

/// A number with three digits that count.
fn short(value: f64) -> String {
    let text = match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(linear_ticks(93.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(linear_ticks(0.9).last().map(|tick| tick * 10.0), Some(10.0));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 1234.5, 45.67, 45.0, 1.5, 0.0321, 0.001].map(short);
        assert_eq!(texts, ["0", "1234", "45.7", "45", "1.5", "0.0321", "0.001"]);
    }

    #[test]
    fn every_value_is_in_the_chart() {
        let piece = |value| Piece { value, colour: COLOURS[0], title: "a & b".into() };
        let row =
            Bar { name: "<mote>".into(), pieces: vec![piece(40.0), piece(0.001)], total: "40 ms".into() };
        let svg = bars(&[row], "ms");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("&lt;mote&gt;") && svg.contains("a &amp; b") && svg.contains("40 ms"));
        let svg = shares(&[("#123456", vec![(1_000_000, 1), (2_000_000, 3)])]);
        assert_eq!(svg.matches("<path").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
