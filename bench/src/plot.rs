//! A plot as SVG 1.1: lines over a logarithmic axis, for the results that are curves.
//!
//! It needs no font, script or style sheet of anybody else; every point of it is in a table beside it too.

use serde::Serialize;
use std::fmt::Write as _;

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Its points, by rising x; x is above 0.
    pub points: Vec<(f64, f64)>,
}

/// Lines over one axis.
#[derive(Debug, Clone, Serialize)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis, which is logarithmic.
    pub x: String,
    /// Beside the vertical axis, which begins at 0.
    pub y: String,
    /// The lines.
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 6] = [
    "#0b62a4", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#475569",
];

impl Plot {
    /// The picture; no point at all makes empty axes.
    pub fn svg(&self) -> String {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let least = points()
            .map(|(x, _)| x.log10())
            .fold(f64::INFINITY, f64::min);
        let most = points()
            .map(|(x, _)| x.log10())
            .fold(f64::NEG_INFINITY, f64::max);
        // One place, or none, has no width.
        let (least, most) = match least.is_finite() {
            true if least < most => (least, most),
            true => (least - 0.5, least + 0.5),
            false => (0.0, 1.0),
        };
        let top = nice(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let across = |x: f64| LEFT + (x.log10() - least) / (most - least) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        for step in 0..=5 {
            let value = top * f64::from(step) / 5.0;
            let y = up(value);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
        }
        for decade in least.ceil() as i32..=most.floor() as i32 {
            let x = across(10f64.powi(decade));
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"#eee\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0,
                short(10f64.powi(decade))
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 10.0,
            escaped(&self.x),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escaped(&self.y)
        );
        for (number, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let line: Vec<String> = curve
                .points
                .iter()
                .map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y)))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                line.join(" ")
            );
            for (x, y) in &curve.points {
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                    across(*x),
                    up(*y)
                );
            }
            let y = TOP + 8.0 + 18.0 * number as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{} {y}h24\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{}\">{}</text>",
                LEFT + 12.0,
                LEFT + 42.0,
                y + 4.0,
                escaped(&curve.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The same as a Markdown table: a row for each x, a column for each line.
    pub fn table(&self) -> String {
        let mut places: Vec<f64> = self
            .curves
            .iter()
            .flat_map(|curve| curve.points.iter().map(|(x, _)| *x))
            .collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let names: Vec<&str> = self
            .curves
            .iter()
            .map(|curve| curve.name.as_str())
            .collect();
        let mut text = format!(
            "| {} | {} |\n|---|{}\n",
            self.x,
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for place in places {
            let cells: Vec<String> = self
                .curves
                .iter()
                .map(|curve| {
                    let point = curve.points.iter().find(|(x, _)| *x == place);
                    point.map_or(String::new(), |(_, y)| format!("{y:.1}"))
                })
                .collect();
            let _ = writeln!(text, "| {place:.0} | {} |", cells.join(" | "));
        }
        text
    }
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|edge| *edge >= value)
        .unwrap_or(value)
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        Plot {
            title: "a < b".to_owned(),
            x: "flows".to_owned(),
            y: "cycles/packet".to_owned(),
            curves: vec![
                Curve {
                    name: "ours".to_owned(),
                    points: vec![(1e3, 100.0), (1e6, 300.0)],
                },
                Curve {
                    name: "peer".to_owned(),
                    points: vec![(1e3, 450.0)],
                },
            ],
        }
    }

    #[test]
    fn points_lie_where_the_axes_say() {
        let svg = plot().svg();
        assert!(svg.contains("a &lt; b"));
        // 1,000 is at the left edge, a million at the right; the vertical axis ends at 500.
        assert!(svg.contains("points=\"70.0,304.0 740.0,172.0\""), "{svg}");
        assert!(svg.contains("cx=\"70.0\" cy=\"73.0\""), "{svg}");
        assert!(svg.contains(">500<") && svg.contains(">100k<"));
    }

    #[test]
    fn the_table_has_a_hole_where_nothing_was_measured() {
        assert_eq!(
            plot().table(),
            "| flows | ours | peer |\n|---|---|---|\n| 1000 | 100.0 | 450.0 |\n| 1000000 | 300.0 |  |\n"
        );
    }

    #[test]
    fn one_place_is_in_the_middle() {
        let mut plot = plot();
        plot.curves.truncate(1);
        plot.curves[0].points.truncate(1);
        assert!(
            plot.svg().contains("cx=\"405.0\" cy=\"40.0\""),
            "{}",
            plot.svg()
        );
    }

    #[test]
    fn no_point_makes_empty_axes() {
        let plot = Plot {
            curves: Vec::new(),
            ..plot()
        };
        let svg = plot.svg();
        assert!(
            svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }
}
